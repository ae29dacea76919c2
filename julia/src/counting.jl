# Maximum-likelihood parameters where the latent values are observed: counting.

"""
    count_parameters(circuit, x, z; pseudocount)

The `circuit` with its parameters set to relative frequencies: an HCLT, an HMM, or one over a
region graph.

With every hidden variable observed, log p(x, z) falls apart into one categorical
distribution per parameter column, and the maximum is the relative frequency (Liu, Zhang &
Van den Broeck, *Scaling Up Probabilistic Circuits by Latent Variable Distillation*, ICLR
2023, section 4).

- `circuit`: its `latents["z"]` lists every block that stands for a hidden variable; tied
  blocks and layers add their counts. The edges of one sum, where it has several, are a choice
  that nothing is known about: each gets an equal share;
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
    nodes = hidden_nodes(circuit)
    check_counted(circuit, x, z)
    0 <= pseudocount < Inf || refuse("pseudocount must be a finite number of at least 0.")
    sizes = [circuit.widths[layer_of(circuit, block)] for block in circuit.latents["z"]]
    hidden(rows) = ColumnDigits(z, rows, sizes[rows], "z")
    edges = [CountedEdge[] for _ in circuit.layers]
    for (i, layer) in enumerate(circuit.layers)
        layer isa ProductLayer && continue
        target = layer isa SumLayer && layer.tied_to > 0 ? edges[layer.tied_to] : edges[i]
        for (b, block) in enumerate(layer_blocks(circuit, i)), edge in edges_of(layer, b)
            below = if layer isa InputLayer
                ColumnDigits(x, Int[layer.variables[b]], [size(layer.params, 1)], "x")
            else
                hidden(nodes[layer.children[edge]])
            end
            push!(target, CountedEdge(layer.groups[edge], hidden(nodes[block]), below))
        end
    end
    params = map(circuit.layers, edges) do layer, found
        return owns_params(layer) ? counted(layer, found, Float64(pseudocount)) : nothing
    end
    return with_params(circuit, params)
end

"Rows of integer data that together are a number, digit by digit; `sizes` are their bases."
struct ColumnDigits
    data::AbstractMatrix{<:Integer}
    rows::Vector{Int}
    sizes::Vector{Int}
    name::String
end

"What is counted into a group: which node is active above the edge, and which entry below."
struct CountedEdge
    group::Int
    above::ColumnDigits
    below::ColumnDigits
end

edges_of(::InputLayer, b) = b:b
edges_of(layer::SumLayer, b) = child_range(layer, b)

"""
By block the hidden variables whose values say which of its nodes is active: its own, of a
Kronecker product those of its children, else those of the product that it is a factor of; none
at a root.
"""
function hidden_nodes(circuit)
    haskey(circuit.latents, "z") ||
        refuse("The circuit has no latents named \"z\"; build it with hclt().")
    nodes = Vector{Union{Nothing,Vector{Int}}}(nothing, num_blocks(circuit))
    for (variable, block) in enumerate(circuit.latents["z"])
        nodes[block] = [variable]
    end
    nodes[circuit.roots] .= Ref(Int[])
    for i in reverse(eachindex(circuit.layers))
        layer = circuit.layers[i]
        layer isa ProductLayer || continue
        for (b, block) in enumerate(layer_blocks(circuit, i))
            children = view(layer.children, child_range(layer, b))
            if layer.kind === :kronecker
                known = nodes[children]
                nodes[block] = any(isnothing, known) ? nothing : reduce(vcat, known)
            elseif layer.kind === :hadamard
                for child in children
                    nodes[child] = something(nodes[child], Some(nodes[block]))
                end
            end
        end
    end
    for (i, layer) in enumerate(circuit.layers)
        known = all(!isnothing, view(nodes, layer_blocks(circuit, i)))
        if known && layer isa SumLayer
            known = all(child -> nodes[child] != Int[], layer.children)
        end
        known || refuse(
            "The circuit is not an HCLT, an HMM or one over a region graph with latents " *
            "\"z\" for all of its blocks: layer $i has other blocks.",
        )
    end
    return Vector{Vector{Int}}(nodes)
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
function counted_leaves(layer::InputLayer, edges, pseudocount)
    family, old = layer.family, Float64.(layer.params)
    counts, pooled = zeros(Int, size(old)), zeros(size(old))
    work = CountWork(edges)
    for edge in edges
        add_counts!(view(counts, :, :, edge.group), work, edge)
    end
    for group in axes(old, 3)
        pooled[:, :, group] = pool(family, Float64.(counts[:, :, group]))
    end
    table = similar(old)
    for group in axes(old, 3)
        normalise!(
            view(table, :, :, group:group),
            view(pooled, :, :, group:group),
            view(old, :, :, group:group),
            pseudocount,
        )
    end
    seen = any(table .!= old; dims = 1)
    return convert(typeof(layer.params), ifelse.(seen, fit_rows!(family, copy(table)), old))
end

"Smoothed relative frequencies in place of a layer's parameters; uses all threads."
function counted(layer, edges, pseudocount)
    layer isa InputLayer &&
        !(layer.family isa Categorical) &&
        return counted_leaves(layer, edges, pseudocount)
    old = layer_params(layer)
    new = similar(old)
    edges = sort(edges; by = edge -> edge.group)
    rows = group_lists(layer)
    @sync for part in Iterators.partition(rows, cld(length(rows), Threads.nthreads()))
        Threads.@spawn begin
            work = CountWork(edges)
            for groups in part
                counts = zeros(Int, size(old, 1), size(old, 2), length(groups))
                for (k, group) in enumerate(groups)
                    found = searchsorted(edges, group; by = e -> e isa Int ? e : e.group)
                    for edge in view(edges, found)
                        add_counts!(view(counts, :, :, k), work, edge)
                    end
                end
                at(params) = view(params, :, :, groups)
                normalise!(at(new), counts, at(old), pseudocount)
            end
        end
    end
    return new
end

"Groups whose columns sum to one together, those of the edges of one block."
group_lists(layer::InputLayer) = [[g] for g in axes(layer.params, 3)]
function group_lists(layer::SumLayer)
    block, _ = first_uses(layer)
    owners = unique(block)
    return [Int.(layer.groups[child_range(layer, b)]) for b in owners]
end

"What one task needs: the active nodes above and below an edge, of every row."
struct CountWork
    above::Vector{Int}
    below::Vector{Int}
end

function CountWork(edges)
    rows = isempty(edges) ? 0 : size(first(edges).below.data, 2)
    return CountWork(zeros(Int, rows), zeros(Int, rows))
end

"Count one more in `[entry, node]` for every row in which both are known."
function add_counts!(counts, work, edge::CountedEdge)
    take_digits!(work.above, edge.above)
    take_digits!(work.below, edge.below)
    for (node, entry) in zip(work.above, work.below)
        (node == MISSING || entry == MISSING) && continue
        counts[entry+1, node+1] += 1
    end
end

"The number in every row, -1 where a digit is missing, zero where there are none."
function take_digits!(vals, number::ColumnDigits)
    fill!(vals, 0)
    for (row, base) in zip(number.rows, number.sizes)
        take_digit!(vals, number.data, row, base, number.name)
    end
    return vals
end

"One more digit, once it is known to lie in `-1:(base - 1)`."
function take_digit!(vals, data, row, base, name)
    for i in eachindex(vals)
        value = data[row, i]
        MISSING <= value < base || refuse(
            "$name must hold values from -1 to $(base - 1) in row $row, but has $value.",
        )
        known = value != MISSING && vals[i] != MISSING
        vals[i] = known ? vals[i] * base + value : MISSING
    end
end

"Columns `[entries, width, groups]` over all entries of all groups, plus pseudocounts."
function normalise!(new, counts, old, pseudocount)
    extra = pseudocount / size(counts, 1)
    for column in axes(counts, 2)
        total = sum(number -> number + extra, view(counts, :, column, :))
        for group in axes(counts, 3), entry in axes(counts, 1)
            new[entry, column, group] = if total > 0
                (counts[entry, column, group] + extra) / total
            else
                old[entry, column, group]
            end
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
