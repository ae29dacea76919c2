# To and from Juice.jl (ProbabilisticCircuits.jl). The methods that do it come with that
# package, in an extension; without it, every call ends in a sentence.

"""
    to_juice(circuit; root = 1)

The circuit as nodes of Juice.jl: a `ProbCircuit` over the variables 1, 2, … with input
nodes of the type `Categorical`. Needs `using ProbabilisticCircuits`.

Every node becomes one node; a product with a single factor is that factor. Juice's
parameters are logarithms in Float32. Its nodes share no parameters, so ties become copies,
and nothing of `latents` and `meta` is kept. `root` is the number of the root.
"""
function to_juice(arguments...; keywords...)
    return without_juice(to_juice, arguments)
end

"""
    from_juice(pc; num_vars = nothing, categories = nothing, precision = Float32)

A [`Circuit`](@ref) with the distribution of `pc`, any smooth and decomposable `ProbCircuit`
of Juice.jl. Needs `using ProbabilisticCircuits`.

Nodes are put together in blocks where they form one: sums over the same nodes, and products
of aligned factors. A hidden tree of Juice's `hclt` becomes blocks like those of
[`hclt`](@ref); where nothing fits together, blocks have width 1. Categorical, indicator,
literal and binomial input nodes become categorical leaves; a sum over indicators of one
variable is a leaf, too. Rows that do not quite sum to one, as happens to rounded
logarithms, are normalised.

- `num_vars`: the number of variables, by default the highest one that occurs;
- `categories`: the number of values of every variable, one number or a vector, by default
  what the input nodes need;
- `precision`: of the parameters.
"""
function from_juice(arguments...; keywords...)
    return without_juice(from_juice, arguments)
end

"""
    load_juice(path; keywords...)

Read a circuit that Juice.jl can read, by the ending of `path`: `.jpc`, `.spn`, `.psdd`, or
one of these with `.gz`. The keywords are those of [`from_juice`](@ref).
Needs `using ProbabilisticCircuits`.
"""
function load_juice(arguments...; keywords...)
    return without_juice(load_juice, arguments)
end

"""
    save_juice(circuit, path; root = 1)

Write [`to_juice`](@ref) of the circuit to a `.jpc` or `.jpc.gz` file, atomically. Needs
`using ProbabilisticCircuits`.
"""
function save_juice(arguments...; keywords...)
    return without_juice(save_juice, arguments)
end

"""
    juice_rows(x)

Rows `[num_vars, rows]`, -1 where a value is missing, as Juice.jl takes them: `[rows,
num_vars]` with `missing`. [`from_juice_rows`](@ref) is the way back.

```jldoctest
julia> juice_rows([0 1; 2 -1])
2×2 Matrix{Union{Missing, Int64}}:
 0  2
 1   missing
```
"""
function juice_rows(x::AbstractMatrix{<:Integer})
    any(<(0), x) || return permutedims(x)
    return permutedims(map(value -> value < 0 ? missing : value, x))
end

"""
    from_juice_rows(data)

Rows as Juice.jl takes them, `[rows, num_vars]` with `missing`, as `[num_vars, rows]` with -1:
what [`juice_rows`](@ref) turns round. Bits become zeros and ones.

```jldoctest
julia> from_juice_rows([0 2; 1 missing])
2×2 Matrix{Int32}:
 0   1
 2  -1
```
"""
function from_juice_rows(data::AbstractMatrix{<:Union{Missing,Integer}})
    return permutedims(map(value -> Int32(coalesce(value, MISSING)), data))
end

"""
    juice_em(circuit, x; epochs = 1, batch_size = 512, inertia = 0.9, inertia_end = inertia,
             pseudocount = 0.1, root = 1)

Train by Juice.jl's own `mini_batch_em`, as a baseline for [`fit`](@ref). It runs on CUDA
only. Needs `using ProbabilisticCircuits`.

- `circuit`: a [`Circuit`](@ref), trained without its ties, or a `ProbCircuit`, which is
  changed;
- `x`: `[num_vars, rows]`, -1 where a value is missing;
- `inertia`: the weight of the old parameters in a step, 1 - η; it moves to `inertia_end`
  epoch by epoch.

Returns `(; pc, log_likelihoods, seconds)`: the trained `ProbCircuit`, the mean
log-likelihood of each epoch, and how long training took, the way to the GPU and compiling
not included if it ran before.
"""
function juice_em(arguments...; keywords...)
    return without_juice(juice_em, arguments)
end

function without_juice(f, arguments)
    loaded = Base.get_extension(JuiceBridge, :JuiceBridgeJuiceExt) !== nothing
    loaded && throw(MethodError(f, arguments))
    throw(BridgeError("$f needs Juice.jl: run `using ProbabilisticCircuits` first."))
end
