# Patch circuits for all clusters at once, and the circuit over whole images they are glued
# into.

"""
    patch_bundle(parents, clusters, latents, categories; seed = default_rng())

One HCLT per cluster over disjoint copies of the `D` variables of a patch, all with the same
tree and in the same layers, with Dirichlet(1) parameters. Root `j` is cluster `j - 1` and
reads the variables `(j - 1) * D + 1` to `j * D`. The arguments are those of [`hclt`](@ref).
"""
function patch_bundle(
    parents,
    clusters::Integer,
    latents::Integer,
    categories;
    seed = default_rng(),
)
    circuit, _ = tree_copies(parents, clusters, latents, categories, generator(seed))
    meta = Dict{String,Any}(
        "structure" => "patch bundle",
        "clusters" => Int(clusters),
        "latent_states" => Int(latents),
    )
    return Circuit(circuit.num_vars, circuit.layers, circuit.roots; meta)
end

"""
    glue(latent, bundle, patch_variables)

The circuit over whole images: p(x) = Σ_z p_latent(z) Π_i p_bundle(x_patch(i); root z_i)
(Liu, Zhang & Van den Broeck, *Scaling Up Probabilistic Circuits by Latent Variable
Distillation*, ICLR 2023, section 4).

- `latent`: one root, one input layer with one block per position over K categories, p(Z |
  H);
- `bundle`: K roots over `K * D` variables, as [`patch_bundle`](@ref) lays them out;
- `patch_variables`: `[D, positions]`, the image variable behind each patch variable, every
  image variable exactly once.

The bundle's parameters are shared by the positions; a block of the bundle becomes one block
per position, next to each other in the order of the latent circuit's input blocks.
`latents["z"]` lists, by position, the block of width K that puts the K heads together.
"""
function glue(latent::Circuit, bundle::Circuit, patch_variables::AbstractMatrix{<:Integer})
    leaf = check_glue(latent, bundle, patch_variables)
    positions = size(patch_variables, 2)
    places = patch_variables[:, leaf.variables]
    layers = Layer[spread(layer, places) for layer in bundle.layers]
    heads = [(root - 1) * positions + p for root in bundle.roots, p = 1:positions]
    offsets = 1:length(bundle.roots):(length(heads)+1)
    push!(layers, ProductLayer(:concat, offsets, vec(heads)))
    before = num_blocks(bundle) * positions
    blocks = (before+1):(before+positions)
    push!(layers, SumLayer(1:(positions+1), blocks, leaf.groups, leaf.params))
    by = (blocks = before + positions, layers = length(layers) - 1)
    append!(
        layers,
        shifted(layer, by) for layer in view(latent.layers, 2:length(latent.layers))
    )
    return Circuit(
        length(patch_variables),
        layers,
        latent.roots .+ by.blocks;
        latents = Dict("z" => Vector{Int32}(blocks[invperm(leaf.variables)])),
        meta = merge(
            bundle.meta,
            Dict("structure" => "glued patches", "positions" => positions),
        ),
    )
end

"The input layer of `latent`, once everything is known to fit."
function check_glue(latent, bundle, places)
    isempty(places) &&
        refuse("patch_variables must be a non-empty [variables, positions] matrix.")
    sort(vec(places)) == 1:length(places) || refuse(
        "patch_variables must hold every image variable 1..$(length(places)) " *
        "exactly once.",
    )
    patch_size, positions = size(places)
    clusters = length(bundle.roots)
    bundle.num_vars == clusters * patch_size || refuse(
        "patch_variables has $patch_size variables per patch, but the bundle has " *
        "$(bundle.num_vars) variables for $clusters clusters.",
    )
    leaf = isempty(latent.layers) ? nothing : latent.layers[1]
    fits =
        leaf isa InputLayer &&
        count(layer -> layer isa InputLayer, latent.layers) == 1 &&
        length(latent.roots) == 1 &&
        sort(leaf.variables) == 1:positions
    fits || refuse(
        "The latent circuit must have one root and one input block for each of the " *
        "$positions positions, all in its first layer.",
    )
    vals = size(leaf.params, 1)
    vals == clusters || refuse(
        "The latent circuit has $vals values per position, but the bundle has " *
        "$clusters clusters.",
    )
    return leaf
end

"One copy of every block per position (columns of `places`), positions fastest."
function spread(layer::InputLayer, places)
    patch_size, positions = size(places)
    variables = [places[mod1(v, patch_size), p] for p = 1:positions, v in layer.variables]
    groups = repeat(layer.groups; inner = positions)
    return InputLayer(vec(variables), groups, layer.params, layer.family)
end

function spread(layer::ProductLayer, places)
    offsets, children, _ = spread_edges(layer, size(places, 2))
    return ProductLayer(layer.kind, offsets, children)
end

function spread(layer::SumLayer, places)
    offsets, children, edges = spread_edges(layer, size(places, 2))
    return SumLayer(offsets, children, layer.groups[edges], layer.weights, layer.tied_to)
end

function spread_edges(layer, copies)
    offsets, children, edges = Int32[1], Int32[], Int32[]
    for b = 1:num_blocks(layer), instance = 1:copies
        for edge in child_range(layer, b)
            push!(children, (layer.children[edge] - 1) * copies + instance)
            push!(edges, edge)
        end
        push!(offsets, length(children) + 1)
    end
    return offsets, children, edges
end

"The layer with its children `by.blocks` blocks and its owner `by.layers` layers further on."
shifted(layer::InputLayer, by) = layer
shifted(layer::ProductLayer, by) =
    ProductLayer(layer.kind, layer.offsets, layer.children .+ by.blocks)
function shifted(layer::SumLayer, by)
    owner = layer.tied_to == 0 ? 0 : layer.tied_to + by.layers
    children = layer.children .+ by.blocks
    return SumLayer(layer.offsets, children, layer.groups, layer.weights, owner)
end
