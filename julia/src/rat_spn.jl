# RAT-SPNs: circuits with dense sums and Kronecker products over a region graph.

"""
    rat_spn(graph, sums, inputs, categories; seed = default_rng())

A RAT-SPN over a [`RegionGraph`](@ref) with Dirichlet(1) parameters (Peharz et al., *Random
Sum-Product Networks*, UAI 2019).

- `sums`: width of the sum block of every region but the root;
- `inputs`: width of the leaf regions, products of one input block per variable;
- `categories`: values of every variable, one number or `[num_vars]`;
- `seed`: of the random columns, a number or a generator.

A partition is the Kronecker product of its two regions; a region with partitions is one sum
block over all of them together, of width one at the root. Regions are placed by their
height above the leaves, one product and one sum layer per height and width.
"""
function rat_spn(
    graph::RegionGraph,
    sums::Integer,
    inputs::Integer,
    categories;
    seed = default_rng(),
)
    sums >= 1 && inputs >= 1 || refuse("sums and inputs must be at least 1.")
    builder = built_rat_spn(graph, sums, inputs, categories, generator(seed))
    meta = Dict{String,Any}(
        "structure" => "rat-spn",
        "sums" => Int(sums),
        "inputs" => Int(inputs),
    )
    root = [builder.block[graph.root]]
    return Circuit(graph.num_vars, builder.layers, root; meta)
end

"""
    tucker_circuit(graph, latents, categories; seed = default_rng())

A [`rat_spn`](@ref) in which every region but the root has a latent variable of `latents`
values: `latents["z"]` lists their blocks. A `seed` of `nothing` leaves uniform columns.
"""
function tucker_circuit(
    graph::RegionGraph,
    latents::Integer,
    categories;
    seed = default_rng(),
)
    latents >= 1 || refuse("latents must be at least 1.")
    length(graph.scopes) > 1 ||
        refuse("The region graph has one region alone, which has nothing to mix.")
    builder = built_rat_spn(graph, latents, latents, categories, generator_or_none(seed))
    meta = Dict{String,Any}(
        "structure" => "region graph",
        "layer" => "tucker",
        "latent_states" => Int(latents),
    )
    z = Int32[builder.block[r] for r in eachindex(graph.scopes) if r != graph.root]
    root = [builder.block[graph.root]]
    return Circuit(graph.num_vars, builder.layers, root; latents = Dict("z" => z), meta)
end

function built_rat_spn(graph, sums, inputs, categories, rng)
    for (region, children...) in graph.partitions
        length(children) == 2 && (isempty(graph.own) || isempty(graph.own[region])) ||
            refuse(
                "Region $(region - 1) has a partition into other than two regions, which " *
                "Kronecker products cannot multiply.",
            )
    end
    builder = RatSpn(graph, sums, inputs, rng)
    add_leaves!(builder, category_vector(categories, graph.num_vars))
    for regions in by_height(graph)
        add_regions!(builder, regions)
    end
    if isempty(graph.splits[graph.root])
        add_sums!(builder, [graph.root], [[builder.block[graph.root]]], 1, inputs)
    end
    return builder
end

"The layers so far, and the block that stands for each region."
mutable struct RatSpn{R<:Union{Nothing,AbstractRNG}}
    const graph::RegionGraph
    const sums::Int
    const inputs::Int
    const rng::R
    const layers::Vector{Layer}
    const block::Vector{Int}
    blocks::Int
end

RatSpn(graph, sums, inputs, rng) =
    RatSpn(graph, Int(sums), Int(inputs), rng, Layer[], zeros(Int, length(graph.scopes)), 0)

"Add a layer and return the ids of its blocks."
function append_layer!(builder, layer)
    push!(builder.layers, layer)
    ids = (builder.blocks+1):(builder.blocks+num_blocks(layer))
    builder.blocks = last(ids)
    return ids
end

"Input layers, one per number of categories, and the products of the leaf regions."
function add_leaves!(builder::RatSpn, categories)
    graph = builder.graph
    regions = findall(isempty, graph.splits)
    factors = Dict(region => Int[] for region in regions)
    for number in sort!(unique(categories))
        chosen =
            [(r, v) for r in regions for v in graph.scopes[r] if categories[v] == number]
        params = dirichlet_columns(builder.rng, number, builder.inputs, length(chosen))
        layer = InputLayer(last.(chosen), 1:length(chosen), params)
        for ((region, _), block) in zip(chosen, append_layer!(builder, layer))
            push!(factors[region], block)
        end
    end
    children, offsets = ragged([factors[region] for region in regions])
    ids = append_layer!(builder, ProductLayer(:hadamard, offsets, children))
    return builder.block[regions] = ids
end

"The products of the partitions of `regions`, and the sums over them."
function add_regions!(builder::RatSpn, regions)
    graph = builder.graph
    for (width, alike) in by_width(builder, regions)
        halves = [pair for region in alike for pair in graph.splits[region]]
        children, offsets = ragged([builder.block[pair] for pair in halves])
        ids = append_layer!(builder, ProductLayer(:kronecker, offsets, children))
        ends = cumsum(length(graph.splits[region]) for region in alike)
        edges = Dict(
            region => ids[(stop-length(graph.splits[region])+1):stop] for
            (region, stop) in zip(alike, ends)
        )
        inner = filter(!=(graph.root), alike)
        root = filter(==(graph.root), alike)
        for (group, out) in ((inner, builder.sums), (root, 1))
            isempty(group) && continue
            add_sums!(builder, group, [edges[region] for region in group], out, width)
        end
    end
end

"Regions by the width of their partitions, in order of appearance."
function by_width(builder, regions)
    graph = builder.graph
    width(region) = isempty(graph.splits[region]) ? builder.inputs : builder.sums
    found = Pair{Int,Vector{Int}}[]
    for region in regions
        widths =
            unique(width(left) * width(right) for (left, right) in graph.splits[region])
        length(widths) == 1 || refuse(
            "Region $(region - 1) has partitions of different widths; use inputs equal " *
            "to sums.",
        )
        place = findfirst(entry -> first(entry) == widths[1], found)
        place === nothing && push!(found, widths[1] => Int[])
        push!(last(found[something(place, length(found))]), region)
    end
    return found
end

"One sum layer: a block of `width` nodes per region, over blocks of width `width_in`."
function add_sums!(builder, regions, edges, width, width_in)
    weights = [row_weights(builder.rng, width_in, width, length(ids)) for ids in edges]
    children, offsets = ragged(edges)
    layer = SumLayer(offsets, children, 1:length(children), cat(weights...; dims = 3))
    return builder.block[regions] = append_layer!(builder, layer)
end

"Regions with partitions, grouped by the longest way down to a leaf, lowest first."
function by_height(graph::RegionGraph)
    heights = region_heights(graph)
    return [findall(==(h), heights) for h = 1:maximum(heights)]
end

"The lists one after another, and where each begins."
function ragged(lists)
    return reduce(vcat, lists), cumsum([1; length.(lists)])
end
