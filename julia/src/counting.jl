# Maximum-likelihood parameters where the latent values are observed: counting.

"""
    count_parameters(circuit, x, z; pseudocount)

The HCLT or HMM `circuit` with its parameters set to relative frequencies.

With every hidden variable observed, log p(x, z) falls apart into one categorical
distribution per parameter column, and the maximum is the relative frequency (Liu, Zhang &
Van den Broeck, *Scaling Up Probabilistic Circuits by Latent Variable Distillation*, ICLR
2023, section 4).

- `circuit`: its `latents["z"]` lists the product block of each hidden variable; tied blocks
  and layers add their counts;
- `x`: `[num_vars, rows]` integers, -1 where a value is missing (it is not counted);
- `z`: `[hidden variables, rows]`, the value of every hidden variable from zero, -1 where
  there is none (nothing that involves it is counted);
- `pseudocount`: added to every parameter column, shared evenly by its entries.

Returns the same structure with new parameters in the old precision. A column that no data
reaches becomes uniform, or stays as it was when `pseudocount` is 0.

```jldoctest
julia> circuit = hclt([0, 1], 2, 2);

julia> x = z = [0 0 1 1; 0 1 1 1];                   # every value shows its latent

julia> circuit = count_parameters(circuit, x, z; pseudocount = 0);

julia> round.(exp.(log_likelihood(circuit, [0 0 1 1; 0 1 0 1])); digits = 6)
1×4 Matrix{Float64}:
 0.25  0.25  0.0  0.5
```
"""
function count_parameters(
    circuit::Circuit,
    x::AbstractMatrix{<:Integer},
    z::AbstractMatrix{<:Integer};
    pseudocount::Real,
)
    hidden, owner = hidden_variables(circuit)
    check_counted(circuit, x, z)
    pseudocount >= 0 || refuse("pseudocount must be at least 0.")
    edges = [EdgeColumns() for _ in circuit.layers]
    for (i, layer) in enumerate(circuit.layers)
        layer isa ProductLayer && continue
        target = layer isa SumLayer && layer.tied_to > 0 ? edges[layer.tied_to] : edges[i]
        for (b, block) in enumerate(layer_blocks(circuit, i))
            given = owner[block] > 0 ? hidden[owner[block]] : 0
            column = layer isa InputLayer ? layer.variables[b] : hidden[layer.children[b]]
            push!(target, (layer.groups[b], given, column))
        end
    end
    params = map(circuit.layers, edges) do layer, found
        owns_params(layer) || return nothing
        name, data = layer isa InputLayer ? ("x", x) : ("z", z)
        old = layer_params(layer)
        layer isa InputLayer && !(layer.family isa Categorical) &&
            return counted_leaves(layer, found, z, data, Float64(pseudocount))
        return counted(old, found, z, data, name, Float64(pseudocount))
    end
    return with_params(circuit, params)
end

"""
One entry per block: its group, the row of `z` that picks the parameter column (0: there is
one column), and the row of the counted data.
"""
const EdgeColumns = Vector{NTuple{3,Int}}

"By block: the hidden variable of a product block, and the product a block is a factor of."
function hidden_variables(circuit)
    haskey(circuit.latents, "z") ||
        refuse("The circuit has no latents named \"z\"; build it with hclt().")
    hidden, owner = zeros(Int, num_blocks(circuit)), zeros(Int, num_blocks(circuit))
    hidden[circuit.latents["z"]] = eachindex(circuit.latents["z"])
    for (i, layer) in enumerate(circuit.layers)
        blocks = layer_blocks(circuit, i)
        fits = if layer isa ProductLayer
            for (b, block) in enumerate(blocks)
                owner[view(layer.children, child_range(layer, b))] .= block
            end
            layer.kind === :hadamard && all(>(0), view(hidden, blocks))
        elseif layer isa SumLayer
            length(layer.children) == length(blocks) &&
                all(>(0), view(hidden, layer.children))
        else
            true
        end
        fits || refuse(
            "The circuit is not a hidden tree with latents \"z\" at every product " *
            "block: layer $i has other blocks.",
        )
    end
    return hidden, owner
end

function check_counted(circuit, x, z)
    for (name, data, number) in
        (("x", x, circuit.num_vars), ("z", z, length(circuit.latents["z"])))
        size(data, 1) == number ||
            wrong_size("$name must be an integer matrix of shape [$number, rows].")
    end
    size(x, 2) == size(z, 2) || wrong_size(
        "x has $(size(x, 2)) rows but z has $(size(z, 2)); they must be the same rows.",
    )
end

"Columns of a leaf family, estimated from its pooled counts."
function counted_leaves(layer::InputLayer, edges, z, data, pseudocount)
    family, old = layer.family, Float64.(layer.params)
    work = CountWork(size(old, 1), size(old, 2), size(z, 2))
    table = similar(old)
    for group in axes(old, 3)
        fill!(work.counts, 0)
        for (_, given, column) in filter(edge -> edge[1] == group, edges)
            add_counts!(work, z, given, data, column, "x")
        end
        pooled = pool(family, Float64.(work.counts))
        normalise!(view(table, :, :, group), pooled, view(old, :, :, group), pseudocount)
    end
    seen = any(table .!= old; dims = 1)
    return convert(typeof(layer.params), ifelse.(seen, fit_rows!(family, copy(table)), old))
end

"Smoothed relative frequencies, `[entries, width, groups]` like `old`; uses all threads."
function counted(old, edges, z, data, name, pseudocount)
    new = similar(old)
    edges = sort(edges; by = first)
    number = size(old, 3)
    @sync for part in Iterators.partition(1:number, cld(number, Threads.nthreads()))
        Threads.@spawn begin
            work = CountWork(size(old, 1), size(old, 2), size(z, 2))
            for group in part
                fill!(work.counts, 0)
                for (_, given, column) in
                    view(edges, searchsorted(edges, group; by = first))
                    add_counts!(work, z, given, data, column, name)
                end
                normalise!(
                    view(new, :, :, group),
                    work.counts,
                    view(old, :, :, group),
                    pseudocount,
                )
            end
        end
    end
    return new
end

"What one task needs: counts `[entries, width]` and two variables' values `[rows]`."
struct CountWork
    counts::Matrix{Int}
    given::Vector{Int32}
    values::Vector{Int32}

    CountWork(entries, width, rows) =
        new(zeros(Int, entries, width), zeros(Int32, rows), zeros(Int32, rows))
end

function add_counts!(work, z, given, data, column, name)
    entries, width = size(work.counts)
    if given == 0
        fill!(work.given, 0)
    else
        take_values!(work.given, z, given, width, "z")
    end
    take_values!(work.values, data, column, entries, name)
    for row in eachindex(work.values)
        value, state = work.values[row], work.given[row]
        (value == MISSING || state == MISSING) && continue
        work.counts[value+1, state+1] += 1
    end
end

"One variable's values in all rows, once they are known to lie in `-1:(limit - 1)`."
function take_values!(vals, data, variable, limit, name)
    for row in eachindex(vals)
        value = data[variable, row]
        MISSING <= value < limit || refuse(
            "$name must hold values from -1 to $(limit - 1) in row $variable, " *
            "but has $value.",
        )
        vals[row] = value
    end
end

function normalise!(new, counts, old, pseudocount)
    extra = pseudocount / size(counts, 1)
    for column in axes(counts, 2)
        total = sum(number -> number + extra, view(counts, :, column))
        for entry in axes(counts, 1)
            new[entry, column] =
                total > 0 ? (counts[entry, column] + extra) / total : old[entry, column]
        end
    end
end

"""
    latent_circuit(z, clusters; pseudocount, epsilon, parents = nothing)

A hidden tree over cluster ids, started at the counts.

Every position has a hidden variable with as many values as there are clusters: p(H_child |
H_parent) is the smoothed frequency of the ids and p(Z | H) is (1 - ε)·identity + ε·uniform,
so that EM can move away from H = Z.

- `z`: `[positions, rows]`, ids from zero, below `clusters`;
- `pseudocount`: added to every column of p(H_child | H_parent), shared evenly by its
  entries;
- `epsilon`: from 0 to 1; zero leaves entries that EM can never revive;
- `parents`: `[positions]`, the tree, by default the [`chow_liu_tree`](@ref) of the ids.

Returns an HCLT over the positions; `latents["z"]` lists the blocks of the hidden variables.
"""
function latent_circuit(
    z::AbstractMatrix{<:Integer},
    clusters::Integer;
    pseudocount::Real,
    epsilon::Real,
    parents = nothing,
)
    0 <= epsilon <= 1 || refuse("epsilon must be between 0 and 1.")
    isempty(z) && refuse("z must be a non-empty matrix of [positions, rows].")
    tree = parents === nothing ? chow_liu_tree(z, clusters; bins = clusters) : parents
    circuit = count_parameters(hclt(tree, clusters, clusters; seed = 0), z, z; pseudocount)
    soft =
        [(1 - epsilon) * (c == h) + epsilon / clusters for c = 1:clusters, h = 1:clusters]
    leaf = circuit.layers[1]
    params = Vector{Any}(nothing, length(circuit.layers))
    params[1] = repeat(convert(Matrix{eltype(leaf.params)}, soft), 1, 1, num_blocks(leaf))
    circuit = with_params(circuit, params)
    circuit.meta["structure"] = "latent circuit"
    return circuit
end
