# The circuit as data: layers of blocks. Nothing here computes.

"""
    BridgeError(message)

A bad file or circuit, or a device that is not there: one sentence that names what is wrong
and what to do about it. Bad arguments are an `ArgumentError` or a `DimensionMismatch`.
"""
struct BridgeError <: Exception
    message::String
end

Base.showerror(io::IO, err::BridgeError) = print(io, err.message)

"An argument that is no good, in one sentence."
refuse(sentence) = throw(ArgumentError(sentence))

"An array that does not fit the others, in one sentence."
wrong_size(sentence) = throw(DimensionMismatch(sentence))

"The integer that marks an unobserved value; it is marginalised."
const MISSING = -1

"""
    Layer

A list of blocks. A *block* is `width` nodes with one scope, and all blocks of a layer have
the same width. Blocks are numbered from one through the whole circuit in layer order, and a
layer refers to blocks of earlier layers only.
"""
abstract type Layer end

"""
    InputLayer(variables, groups, params, family = Categorical())

Leaves: node `j` of block `b` has the value `params[x_v + 1, j, groups[b]]` with
`v = variables[b]`, or one where `x_v` is missing.

- `variables`: `[blocks]`, the variable of each block;
- `groups`: `[blocks]`, the parameter group of each block; equal groups are tied;
- `params`: `[categories, width, groups]`, every column a distribution over the categories;
- `family`: what columns may be, and how they are estimated from counts.
"""
struct InputLayer{P<:AbstractArray{<:AbstractFloat,3}} <: Layer
    variables::Vector{Int32}
    groups::Vector{Int32}
    params::P
    family::Family
end

function InputLayer(
    variables::AbstractVector{<:Integer},
    groups::AbstractVector{<:Integer},
    params::P,
    family::Family = Categorical(),
) where {P<:AbstractArray{<:AbstractFloat,3}}
    return InputLayer{P}(variables, groups, params, family)
end

"""
    ProductLayer(kind, offsets, children)

Products of blocks; block `b` has the children `children[offsets[b]:(offsets[b + 1] - 1)]`.

`:hadamard` multiplies node `j` of every child; `:kronecker` multiplies every combination of
nodes of two children, the second child's index running fastest; `:concat` lists the nodes
of its children one after another, each node a product with a single factor.
"""
struct ProductLayer <: Layer
    kind::Symbol
    offsets::Vector{Int32}
    children::Vector{Int32}
end

"""
    SumLayer(offsets, children, groups, weights, tied_to = 0)

Mixtures: the values of block `b` are the sum over its edges `e` in
`offsets[b]:(offsets[b + 1] - 1)` of `weights[:, :, groups[e]]' * value(children[e])`.

- `children`: `[edges]`, the child block of each edge, of width in;
- `groups`: `[edges]`, the weight matrix of each edge; equal groups are tied;
- `weights`: `[width in, width out, groups]`. Column `i` of a block, over all edges of the
  block together, sums to one;
- `tied_to`: 0, or the index of an earlier sum layer, itself not tied, whose weights these
  are: `weights` is then that layer's array.
"""
struct SumLayer{P<:AbstractArray{<:AbstractFloat,3}} <: Layer
    offsets::Vector{Int32}
    children::Vector{Int32}
    groups::Vector{Int32}
    weights::P
    tied_to::Int
end

function SumLayer(
    offsets::AbstractVector{<:Integer},
    children::AbstractVector{<:Integer},
    groups::AbstractVector{<:Integer},
    weights::P,
    tied_to::Integer = 0,
) where {P<:AbstractArray{<:AbstractFloat,3}}
    return SumLayer{P}(offsets, children, groups, weights, tied_to)
end

"""
    num_blocks(layer)
    num_blocks(circuit)

How many blocks there are.
"""
num_blocks(layer::InputLayer) = length(layer.variables)
num_blocks(layer::Union{ProductLayer,SumLayer}) = max(0, length(layer.offsets) - 1)

"""
    layer_params(layer)

The parameter array of a layer, `nothing` for a product layer.
"""
layer_params(layer::InputLayer) = layer.params
layer_params(layer::SumLayer) = layer.weights
layer_params(::ProductLayer) = nothing

"""
    owns_params(layer)

Whether the layer has parameters of its own, neither a product nor tied to another layer.
"""
owns_params(::InputLayer) = true
owns_params(layer::SumLayer) = layer.tied_to == 0
owns_params(::ProductLayer) = false

"""
    child_range(layer, block)

Where the children (of a sum layer: the edges) of the layer's `block`-th block are.
"""
child_range(layer::Union{ProductLayer,SumLayer}, block) =
    Int(layer.offsets[block]):(Int(layer.offsets[block+1])-1)

"""
    Circuit(num_vars, layers, roots; latents = Dict(), meta = Dict())

A smooth, decomposable circuit over `num_vars` discrete variables.

- `layers`: in topological order;
- `roots`: blocks of width 1; several roots are independent models;
- `latents`: name → blocks, one per position; node `j` of a block means "value `j - 1`";
- `meta`: provenance (text, integers, floats), stored with the circuit;
- `starts`: layer `i` holds the blocks `starts[i]:(starts[i + 1] - 1)`;
- `widths`: the width of the blocks of each layer.

Ids (blocks, variables, groups, layers) count from one here and from zero in files; the
values of variables count from zero in both, with `MISSING` where unobserved. The
constructor checks nothing, [`check`](@ref) does.

```jldoctest
julia> coin = InputLayer([1], [1], reshape([0.25, 0.75], 2, 1, 1));

julia> circuit = Circuit(1, [coin], [1])
Circuit(1 variable, 1 layer, 1 block, 2 parameters, 1 root)
  1  input  1 block × 1  2 values  2 parameters (Float64)

julia> round.(exp.(log_likelihood(circuit, [0 1 missing])); digits = 6)
1×3 Matrix{Float64}:
 0.25  0.75  1.0
```
"""
struct Circuit
    num_vars::Int
    layers::Vector{Layer}
    roots::Vector{Int32}
    latents::Dict{String,Vector{Int32}}
    meta::Dict{String,Any}
    starts::Vector{Int}
    widths::Vector{Int}

    function Circuit(
        num_vars::Integer,
        layers::AbstractVector{<:Layer},
        roots::AbstractVector{<:Integer};
        latents = Dict{String,Vector{Int32}}(),
        meta = Dict{String,Any}(),
    )
        starts = cumsum([1; num_blocks.(layers)])
        widths = _widths(layers, starts)
        return new(num_vars, layers, roots, latents, meta, starts, widths)
    end
end

num_blocks(circuit::Circuit) = circuit.starts[end] - 1

"The width of each layer's blocks; 0 where the children are no blocks of earlier layers."
function _widths(layers, starts)
    widths = zeros(Int, length(layers))
    for (i, layer) in enumerate(layers)
        widths[i] = if layer isa ProductLayer
            _product_width(layer, widths, starts)
        else
            size(layer_params(layer), 2)
        end
    end
    return widths
end

function _product_width(layer::ProductLayer, widths, starts)
    num_blocks(layer) > 0 || return 0
    edges = child_range(layer, 1)
    checkbounds(Bool, layer.children, edges) && !isempty(edges) || return 0
    width(child) = widths[searchsortedlast(starts, child)]
    children = view(layer.children, edges)
    all(c -> starts[1] <= c < starts[end], children) || return 0
    layer.kind === :kronecker && return prod(width, children)
    return layer.kind === :concat ? sum(width, children) : width(first(children))
end

"""
    layer_of(circuit, block)

The index of the layer that holds `block`.
"""
layer_of(circuit::Circuit, block::Integer) = searchsortedlast(circuit.starts, block)

"""
    num_parameters(circuit)

Entries of sum layers, numbers that columns of leaves are made from; tied ones once.
"""
num_parameters(circuit::Circuit) = sum(num_parameters, circuit.layers; init = 0)
num_parameters(layer::Layer) = owns_params(layer) ? length(layer_params(layer)) : 0

function num_parameters(layer::InputLayer)
    categories, width, groups = size(layer.params)
    return width * groups * parameters_per_row(layer.family, categories)
end

"""
    num_categories(circuit)

`[num_vars]`: the number of values of each variable, 0 where no leaf reads it.
"""
function num_categories(circuit::Circuit)
    sizes = zeros(Int, circuit.num_vars)
    for layer in circuit.layers
        layer isa InputLayer && (sizes[layer.variables] .= size(layer.params, 1))
    end
    return sizes
end

"""
    with_params(layer, params)
    with_params(circuit, params)

The same layer or circuit with other parameters. For a circuit, `params` has one entry per
layer; `nothing` keeps what is there, and a tied layer follows its owner.
"""
with_params(layer::InputLayer, params::AbstractArray) =
    InputLayer(layer.variables, layer.groups, params, layer.family)
function with_params(layer::SumLayer, params::AbstractArray)
    return SumLayer(layer.offsets, layer.children, layer.groups, params, layer.tied_to)
end
with_params(layer::Layer, ::Nothing) = layer

function with_params(circuit::Circuit, params::AbstractVector)
    layers = Layer[with_params(a, p) for (a, p) in zip(circuit.layers, params)]
    for (i, layer) in enumerate(layers)
        layer isa SumLayer && layer.tied_to > 0 || continue
        layers[i] = with_params(layer, layers[layer.tied_to].weights)
    end
    return Circuit(circuit.num_vars, layers, circuit.roots; circuit.latents, circuit.meta)
end

"Two layers or circuits are equal if all that they hold is."
function Base.:(==)(a::A, b::A) where {A<:Union{Layer,Circuit}}
    return all(name -> getfield(a, name) == getfield(b, name), fieldnames(A))
end

function Base.hash(a::A, seed::UInt) where {A<:Union{Layer,Circuit}}
    parts = map(name -> getfield(a, name), fieldnames(A))
    return hash(parts, hash(nameof(A), seed))
end
