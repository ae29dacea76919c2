# Circuits over any region graph, with a latent variable for every region.
#
# Every child of a partition has a dense sum block p(Z_child | Z_region) of its own, and these are
# multiplied elementwise. The product block is the region's; a region with several partitions has
# one for each, and the sums above mix them all. Of the tree of a hidden Chow-Liu tree this is the
# HCLT. `tucker_circuit` has Kronecker products in their place.

"""
    region_circuit(graph, latents, categories; shapes = nothing, seed = default_rng())

The circuit of a [`RegionGraph`](@ref) with a dense sum for every child of a partition.

- `latents`: values of every region's latent variable, one number or `[regions]`;
- `categories`: values of every variable, one number or `[num_vars]`;
- `shapes`: `[regions]`, such as [`JuiceBridge.congruent`](@ref) finds; regions of equal
  numbers share their parameters, and so must be split alike. Zero and below: shares none;
- `seed`: of the random columns, a number or a generator; `nothing` leaves uniform ones.

`latents["z"]` lists the product blocks, one for every partition of a region and one for a
leaf, in the order of [`latent_regions`](@ref).

```jldoctest
julia> region_circuit(quad_tree((2, 2, 1)), 3, 2; seed = 1)
Circuit(4 variables, 5 layers, 14 blocks, 63 parameters, 1 root)
  1  input     4 blocks × 3  2 values        24 parameters (Float32)
  2  hadamard  4 blocks × 3  4 factors
  3  sum       4 blocks × 3  mixing 3 nodes  36 parameters (Float32)
  4  hadamard  1 block × 3   4 factors
  5  sum       1 block × 1   mixing 3 nodes  3 parameters (Float32)
  latent z: 5 positions
  latent_states: 3
  layer: cp
  structure: region graph
```
"""
function region_circuit(
    graph::RegionGraph,
    latents,
    categories;
    shapes = nothing,
    seed = default_rng(),
)
    widths = per_region(latents, graph, "latents")
    all(>=(1), widths) || refuse("latents must be at least 1.")
    sizes = category_vector(categories, graph.num_vars)
    shapes = per_region(something(shapes, 0), graph, "shapes")
    builder = CpCircuit(graph, widths, shapes, generator_or_none(seed))
    add_leaves!(builder, sizes)
    foreach(key -> add_regions!(builder, key...), layers_of_regions(builder))
    root = builder.products[graph.root]
    top = append_layer!(builder, sum_layer(builder, [root], [0], 1, widths[graph.root]))
    meta = Dict{String,Any}(
        "structure" => "region graph",
        "layer" => "cp",
        "latent_states" => maximum(widths),
    )
    z = Vector{Int32}(reduce(vcat, builder.products))
    return Circuit(graph.num_vars, builder.layers, top; latents = Dict("z" => z), meta)
end

"""
    latent_regions(graph)

`[positions]`: the region of every position of the latents of a [`region_circuit`](@ref).
"""
latent_regions(graph::RegionGraph) =
    [r for r in eachindex(graph.scopes) for _ = 1:max(1, length(graph.splits[r]))]

"The place of a child in a partition."
const Slot = @NamedTuple{parent::Int, partition::Int, child::Int}

"The layers so far, and the blocks of each region."
mutable struct CpCircuit{R<:Union{Nothing,AbstractRNG}}
    const graph::RegionGraph
    const widths::Vector{Int}
    const shapes::Vector{Int}
    const rng::R
    const layers::Vector{Layer}
    const products::Vector{UnitRange{Int}}
    const inputs::Vector{Vector{Int}}
    const sums::Dict{Slot,Int}
    const slots::Vector{Vector{Slot}}
    const matrix::Dict{Slot,Int}
    const users::Vector{Int}
    blocks::Int
end

function CpCircuit(graph, widths, shapes, rng)
    slots = [Slot[] for _ in graph.scopes]
    for (region, splits) in enumerate(graph.splits),
        (partition, children) in enumerate(splits),
        (place, child) in enumerate(children)

        push!(slots[child], Slot((region, partition, place)))
    end
    matrix, users = shared_matrices(slots, shapes)
    products = fill(1:0, length(graph.scopes))
    inputs = [Int[] for _ in graph.scopes]
    sums = Dict{Slot,Int}()
    return CpCircuit(
        graph,
        widths,
        shapes,
        rng,
        Layer[],
        products,
        inputs,
        sums,
        slots,
        matrix,
        users,
        0,
    )
end

"""
The number of the weights of every sum, and how many sums share each.

In a tree, sums of different numbers of users stand in different layers, so that engines find
every matrix next to all that it is multiplied with.
"""
function shared_matrices(slots, shapes)
    numbers, matrix, users = Dict{Any,Int}(), Dict{Slot,Int}(), Int[]
    for slot in Iterators.flatten(slots)
        shape = shapes[slot.parent]
        key = shape > 0 ? (shape, slot.partition, slot.child) : slot
        number = get!(numbers, key, length(numbers) + 1)
        number > length(users) && push!(users, 0)
        users[number] += 1
        matrix[slot] = number
    end
    # With several parents no order of the products would be that of all the sums.
    any(list -> length(list) > 1, slots) && fill!(users, 1)
    return matrix, users
end

"Regions by layer, lowest first, with the widths and users of the sums above them."
function layers_of_regions(builder)
    found = Dict{Tuple{Int,Int,Vector{NTuple{2,Int}}},Vector{Int}}()
    for (region, height) in enumerate(region_heights(builder.graph))
        above = sort!(unique(sum_kind(builder, slot) for slot in builder.slots[region]))
        push!(get!(() -> Int[], found, (height, builder.widths[region], above)), region)
    end
    # Tied sums stand next to each other, in the order of what they read.
    order(region) = ([builder.matrix[slot] for slot in builder.slots[region]], region)
    return [(sort(found[key]; by = order), key[3]) for key in sort!(collect(keys(found)))]
end

"The width of a sum, and how many share its weights."
sum_kind(builder, slot) = (builder.widths[slot.parent], builder.users[builder.matrix[slot]])

"An input layer for every number of categories and width."
function add_leaves!(builder::CpCircuit, sizes)
    places = Dict{NTuple{2,Int},Vector{Any}}()
    for (region, variables) in enumerate(region_leaves(builder.graph)),
        (place, variable) in enumerate(variables)

        shape = builder.shapes[region]
        key = shape > 0 ? (shape, place) : (-region, place)
        kind = (sizes[variable], builder.widths[region])
        push!(get!(() -> Any[], places, kind), (region, variable, key))
    end
    for (number, width) in sort!(collect(keys(places)))
        chosen = places[(number, width)]
        groups = numbered(last.(chosen))
        params = dirichlet_columns(builder.rng, number, width, maximum(groups))
        layer = InputLayer([variable for (_, variable, _) in chosen], groups, params)
        for ((region, _, _), block) in zip(chosen, append_layer!(builder, layer))
            push!(builder.inputs[region], block)
        end
    end
end

"The products of regions, one for every partition and for a leaf, and the sums above them."
function add_regions!(builder::CpCircuit, regions, above)
    children = Vector{Int}[]
    for region in regions
        splits = builder.graph.splits[region]
        first_block = builder.blocks + length(children) + 1
        for (partition, below) in enumerate(isempty(splits) ? [Int[]] : splits)
            slots = (Slot((region, partition, place)) for place in eachindex(below))
            push!(children, [builder.inputs[region]; [builder.sums[s] for s in slots]])
        end
        builder.products[region] = first_block:(builder.blocks+length(children))
    end
    flat, offsets = ragged(children)
    append_layer!(builder, ProductLayer(:hadamard, offsets, flat))
    for kind in above
        chosen = [
            (slot, region) for region in regions for
            slot in builder.slots[region] if sum_kind(builder, slot) == kind
        ]
        edges = [builder.products[region] for (_, region) in chosen]
        matrices = [builder.matrix[slot] for (slot, _) in chosen]
        layer = sum_layer(builder, edges, matrices, kind[1], builder.widths[regions[1]])
        for ((slot, _), block) in zip(chosen, append_layer!(builder, layer))
            builder.sums[slot] = block
        end
    end
end

"Sums over lists of blocks; those of equal `matrices` share their weights."
function sum_layer(builder, edges, matrices, width, width_in)
    children, offsets = ragged(edges)
    places = [(m, i) for (m, list) in zip(matrices, edges) for i in eachindex(list)]
    groups = numbered(places)
    weights = Array{Float32}(undef, width_in, width, maximum(groups))
    drawn = 0
    for b in eachindex(edges)
        own = groups[offsets[b]:(offsets[b+1]-1)]
        first(own) > drawn || continue
        weights[:, :, own] = row_weights(builder.rng, width_in, width, length(own))
        drawn = last(own)
    end
    return SumLayer(offsets, children, groups, weights)
end

"Random columns over all edges of a block: `[width in, width, edges]`."
function row_weights(rng, width_in, width, edges)
    draws = dirichlet_columns(rng, edges * width_in, width)
    return permutedims(reshape(draws, width_in, edges, width), (1, 3, 2))
end

"The number of every item, in the order of their first appearance."
function numbered(items)
    numbers = Dict{eltype(items),Int}()
    return [get!(numbers, item, length(numbers) + 1) for item in items]
end

"`vals`, one number or one for every region, as a vector."
function per_region(vals, graph, name)
    number = length(graph.scopes)
    vals isa Integer && return fill(Int(vals), number)
    length(vals) == number && all(v -> v isa Integer, vals) ||
        refuse("$name must be an integer, or a vector of $number of them.")
    return Vector{Int}(vals)
end
