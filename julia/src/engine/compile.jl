# From a circuit's arrays to the index vectors of a program.

"""
The layer and place of every block, how many blocks and edges read it, and whether it is a
root.
"""
struct BlockMap
    layers::Vector{Int32}
    places::Vector{Int32}
    readers::Vector{Int32}
    is_root::BitVector
end

function BlockMap(circuit::Circuit)
    total = num_blocks(circuit)
    layers, places = zeros(Int32, total), zeros(Int32, total)
    readers, is_root = zeros(Int32, total), falses(total)
    for (i, layer) in enumerate(circuit.layers)
        blocks = layer_blocks(circuit, i)
        layers[blocks] .= i
        places[blocks] .= 1:length(blocks)
        layer isa InputLayer && continue
        for child in layer.children
            readers[child] += 1
        end
    end
    is_root[circuit.roots] .= true
    return BlockMap(layers, places, readers, is_root)
end

"What compiling a layer needs to know of the circuit; `ints` puts integers on the device."
struct Context{F}
    circuit::Circuit
    blocks::BlockMap
    direct::Vector{Bool}
    flow_owners::Vector{Int}
    lifts::Vector{Int32}
    ints::F
end

"""
    compile(circuit, A, variables = 1:num_vars)

Work out the indices of `circuit` for arrays of type `A`; parameters may change afterwards.
`variables` are the rows of data behind its variables.
"""
function compile(circuit::Circuit, A::Type, variables = collect(1:circuit.num_vars))
    blocks = BlockMap(circuit)
    ints(vals) = on_device(A, convert(Vector{Int32}, vals))
    V = typeof(ints(Int32[]))
    numbers = eachindex(circuit.layers)
    direct = [is_direct(circuit, i, blocks) for i in numbers]
    flow_owners = [find_flow_owner(circuit, i, blocks) for i in numbers]
    context =
        Context(circuit, blocks, direct, flow_owners, find_lifts(circuit, blocks), ints)
    plans = LayerPlan{V}[plan_layer(circuit.layers[i], i, context) for i in numbers]
    families = [families_of(layer, ints) for layer in circuit.layers]
    sites = [latent_sites(circuit, i, blocks, ints) for i in numbers]
    num_roots = length(circuit.roots)
    roots = links(1:num_roots, circuit.roots, blocks, ints; once = :children)
    return Program{V}(plans, families, sites, roots, num_roots, variables)
end

"""
Exponents to which the largest values of blocks are raised: high, but so that the factors of
no `:hadamard` product are together above [`HIGHEST_PRODUCT`](@ref). Kronecker products have
factors of at most one, and are not raised.
"""
function find_lifts(circuit, blocks)
    lifts = fill(Int32(HIGHEST), num_blocks(circuit))
    for i in reverse(eachindex(circuit.layers))
        layer = circuit.layers[i]
        layer isa InputLayer && continue
        for (b, block) in enumerate(layer_blocks(circuit, i))
            children = view(layer.children, child_range(layer, b))
            allowed = Int32(HIGHEST)
            if layer isa SumLayer
                allowed = lifts[block]
            elseif layer.kind === :hadamard
                factors = count(!is_input(circuit, blocks), children)
                allowed = Int32(HIGHEST_PRODUCT ÷ max(1, factors))
            elseif layer.kind === :kronecker
                lifts[block] = 0
            end
            for child in children
                lifts[child] = min(lifts[child], allowed)
            end
        end
    end
    return lifts
end

"Whether a block is one of inputs, whose values are not raised."
is_input(circuit, blocks) = block -> circuit.layers[blocks.layers[block]] isa InputLayer

"By how much factors of each block of a product layer may raise what two of them have lost."
function find_spills(layer::ProductLayer, circuit, blocks)
    layer.kind === :hadamard || return zeros(Int32, num_blocks(layer))
    return map(1:num_blocks(layer)) do b
        children = view(layer.children, child_range(layer, b))
        factors = count(!is_input(circuit, blocks), children)
        return Int32(max(0, factors - 2) * (HIGHEST_PRODUCT ÷ max(1, factors)))
    end
end

"The layers after `i` that read a block of layer `i`."
function reading_layers(circuit, i)
    own = layer_blocks(circuit, i)
    return filter((i+1):length(circuit.layers)) do j
        layer = circuit.layers[j]
        return !(layer isa InputLayer) && any(in(own), layer.children)
    end
end

"Every block of layer `i` is read exactly once, and none is a root."
function read_once(circuit, i, blocks)
    own = layer_blocks(circuit, i)
    return !any(view(blocks.is_root, own)) && all(==(1), view(blocks.readers, own))
end

"One edge per block and the children consecutive products of one layer."
function is_direct(circuit::Circuit, i, blocks::BlockMap)
    layer = circuit.layers[i]
    layer isa SumLayer || return false
    children = layer.children
    length(children) == num_blocks(layer) || return false
    all(==(1), diff(children)) || return false
    source = blocks.layers[first(children)]
    return source == blocks.layers[last(children)] &&
           circuit.layers[source] isa ProductLayer
end

"Every block of the product layer is read once, by an edge of a direct sum layer."
function is_in_place(i, context::Context)
    read_once(context.circuit, i, context.blocks) || return false
    return all(j -> context.direct[j], reading_layers(context.circuit, i))
end

"The first direct sum layer that has an edge to every block of product layer `i`, or 0."
function mixer_of(i, context::Context)
    own = layer_blocks(context.circuit, i)
    found = findfirst(context.circuit.layers) do layer
        return layer isa SumLayer && layer.children == own
    end
    return isnothing(found) || !context.direct[found] ? 0 : found
end

"Whether no two blocks of product layer `i`, or of its mixer, share parameters."
function counts_along(i, context::Context)
    (; circuit, blocks) = context
    layer, mixer = circuit.layers[i], mixer_of(i, context)
    layer.kind === :hadamard && mixer > 0 && is_in_place(i, context) || return false
    allunique(circuit.layers[mixer].groups) || return false
    return all(layer.children) do child
        source = circuit.layers[blocks.layers[child]]
        source isa InputLayer || return true
        return blocks.readers[child] == 1 && allunique(source.groups)
    end
end

"""
The one Hadamard layer that has every block of sum layer `i` as a factor exactly once, or 0.
"""
function find_flow_owner(circuit, i, blocks)
    circuit.layers[i] isa SumLayer && read_once(circuit, i, blocks) || return 0
    readers = reading_layers(circuit, i)
    length(readers) == 1 || return 0
    layer = circuit.layers[only(readers)]
    return layer isa ProductLayer && layer.kind === :hadamard ? only(readers) : 0
end

function plan_layer(layer::InputLayer, i, context::Context)
    (; circuit, blocks, ints) = context
    categories, width, groups = size(layer.params)
    if groups * (categories + 1) > typemax(Int32)
        refuse("Input layer $i has more than 2^31 columns of parameters.")
    end
    factors_only = all(reading_layers(circuit, i)) do j
        reader = circuit.layers[j]
        return reader isa ProductLayer && reader.kind === :hadamard
    end
    return InputPlan(;
        layer = i,
        width,
        blocks = num_blocks(layer),
        variables = ints(layer.variables),
        bases = ints((layer.groups .- Int32(1)) .* Int32(categories + 1)),
        apart = allunique(layer.groups),
        tiled = !factors_only || any(view(blocks.is_root, layer_blocks(circuit, i))),
        layer.family,
    )
end

function plan_layer(layer::ProductLayer, i, context::Context)
    (; circuit, blocks, flow_owners, ints) = context
    readers, slots = enumerate_children(layer.offsets)
    children = layer.children
    if layer.kind === :hadamard
        inputs_last = map(is_input(circuit, blocks), children)
        children = children[sortperm(collect(zip(readers, inputs_last)))]
    end
    sources = blocks.layers[children]
    lows = zeros(Int32, length(children))
    if layer.kind === :concat
        for k in eachindex(lows)
            lows[k] = slots[k] == 1 ? 0 : lows[k-1] + circuit.widths[sources[k-1]]
        end
    end
    layer.kind === :kronecker || fill!(slots, 1)
    given = [flow_owners[source] != i for source in sources]
    flow_targets = (readers[given], children[given])
    placed = (lows = lows[given], slots = slots[given])
    reads = links(readers, children, blocks, ints; once = :readers, lows, slots)
    return ProductPlan(;
        layer = i,
        layer.kind,
        width = circuit.widths[i],
        blocks = num_blocks(layer),
        layer.offsets,
        sources,
        places = blocks.places[children],
        lows,
        below = sort!(unique(Int.(sources))),
        reads = sort(reads; by = link -> circuit.layers[link.layer] isa InputLayer),
        pushes = links(flow_targets..., blocks, ints; once = :children, placed...),
        lifts = ints(context.lifts[layer_blocks(circuit, i)]),
        spills = ints(find_spills(layer, circuit, blocks)),
        in_place = is_in_place(i, context),
        mixer = mixer_of(i, context),
        counts_along = counts_along(i, context),
    )
end

function plan_layer(layer::SumLayer, i, context::Context)
    (; circuit, blocks, ints) = context
    width_in, width, num_groups = size(layer.weights)
    children, edges = layer.children, length(layer.children)
    readers, _ = enumerate_children(layer.offsets)
    per_group, rest = divrem(edges, num_groups)
    group_sizes = zeros(Int, num_groups)
    foreach(g -> group_sizes[g] += 1, layer.groups)
    within(readers) = links(readers, 1:edges, nothing, ints; once = :readers)
    owner = layer.tied_to == 0 ? i : layer.tied_to
    return SumPlan(;
        layer = i,
        owner,
        sharers = 1 + count(
            other -> other isa SumLayer && other.tied_to == owner,
            circuit.layers,
        ),
        width,
        width_in,
        blocks = num_blocks(layer),
        edges,
        layer.offsets,
        sources = blocks.layers[children],
        places = blocks.places[children],
        layer.groups,
        groups_there = ints(layer.groups),
        blocks_there = ints(readers),
        below = sort!(unique(Int.(blocks.layers[children]))),
        direct = context.direct[i],
        before = Int(blocks.places[first(children)]) - 1,
        single = edges == num_blocks(layer),
        apart = allunique(layer.groups),
        major = rest == 0 && layer.groups == repeat(1:num_groups; inner = per_group),
        reads = links(1:edges, children, blocks, ints; once = :none),
        pushes = links(1:edges, children, blocks, ints; once = :children),
        by_slot = within(readers),
        by_group = within(layer.groups),
        group_offsets = Int32.(cumsum([1; group_sizes])),
        group_edges = Int32.(sortperm(layer.groups)),
        flow_owner = context.flow_owners[i],
        flow_blocks = ints(find_flow_blocks(i, context)),
        terms = maximum(diff(layer.offsets)) * width_in,
    )
end

"The product whose flow each block of sum layer `i` has; empty where they are its own."
function find_flow_blocks(i, context::Context)
    (; circuit, blocks, flow_owners) = context
    flow_owners[i] == 0 && return Int32[]
    product = circuit.layers[flow_owners[i]]
    readers, _ = enumerate_children(product.offsets)
    flow_blocks = zeros(Int32, length(layer_blocks(circuit, i)))
    for (reader, child) in zip(readers, product.children)
        blocks.layers[child] == i && (flow_blocks[blocks.places[child]] = reader)
    end
    return flow_blocks
end

"A layer without weights of its own has no families."
function families_of(::Layer, ints)
    none = ints(Int32[])
    return Families(Int32[], none, 0, Link{typeof(none)}[], Int[])
end

function families_of(layer::SumLayer, ints)
    num_groups = size(layer.weights, 3)
    lead = collect(Int32, 1:num_groups)
    for b = 1:num_blocks(layer), e in child_range(layer, b)
        lead[layer.groups[e]] = layer.groups[layer.offsets[b]]
    end
    leads = sort!(unique(lead))
    family = Int32[searchsortedfirst(leads, l) for l in lead]
    sizes = zeros(Int, length(leads))
    foreach(f -> sizes[f] += 1, family)
    siblings = sizes[family] .* size(layer.weights, 1)
    alone = length(leads) == num_groups
    members = links(family, 1:num_groups, nothing, ints; once = :readers)
    there = ints(family)
    return Families(alone ? Int32[] : family, there, length(leads), members, siblings)
end

function latent_sites(circuit, i, blocks, ints)
    V = typeof(ints(Int32[]))
    sites = LatentSite{V}[]
    for name in sort!(collect(keys(circuit.latents)))
        listed = circuit.latents[name]
        here = findall(b -> blocks.layers[b] == i, listed)
        isempty(here) && continue
        for link in links(here, listed[here], blocks, ints; once = :children)
            push!(sites, LatentSite{V}(name, link.readers, link.children))
        end
    end
    return sites
end
