# Groups of nodes as blocks, and blocks as layers.

"""
A block to be: its nodes, the blocks below it, its level (0 is the root's; children have
higher ones), and its shape, which is the same for all blocks of a layer.
"""
struct Block
    kind::Symbol
    nodes::Vector{Int}
    children::Vector{Int}
    level::Int
    shape::Tuple{Int,Int}
end

const KINDS = (:input, :concat, :hadamard, :kronecker, :sum)

"The circuit of all groups, the first of which is the root's."
function assemble(grouping, num_vars, ::Type{T}) where {T}
    blocks = all_blocks(grouping)
    layers, root = Layer[], 0
    numbers = zeros(Int32, length(blocks))
    total = 0
    for ids in ordered_layers(blocks)
        numbers[ids] = (total+1):(total+length(ids))
        total += length(ids)
        push!(layers, block_layer(grouping.graph, blocks, ids, numbers, T))
    end
    meta = Dict{String,Any}("structure" => "juice")
    return Circuit(num_vars, layers, [numbers[1]]; meta)
end

"The block of each group, followed by those that put groups together."
function all_blocks(grouping)
    (; graph, groups) = grouping
    owner = zeros(Int, length(graph.kinds))
    for (i, group) in enumerate(groups)
        owner[group.nodes] .= i
    end
    joined = Dict{Vector{Int},Int}()
    joins = Group[]
    children = map(groups) do group
        alternatives = [unique(owner[grouping.demands[d].nodes]) for d in group.demands]
        group.kind === :sum &&
            fits_edges(groups, only(alternatives), length(group.nodes)) &&
            return only(alternatives)
        return [join!(joins, joined, groups, parts, group.depth) for parts in alternatives]
    end
    blocks = [
        Block(group.kind, group.nodes, below, 2 * group.depth, (0, 0)) for
        (group, below) in zip(groups, children)
    ]
    foreach(joint -> push!(blocks, joined_block(joint)), joins)
    return [with_shape(graph, blocks, block) for block in blocks]
end

"""
Whether a sum of `width` nodes has one edge per part. Many edges to single nodes are slower
than one matrix over all of them, unless the sum is a single node itself.
"""
function fits_edges(groups, parts, width)
    widths = [length(groups[part].nodes) for part in parts]
    return length(parts) == 1 || allequal(widths) && (widths[1] > 1 || width == 1)
end

"The block of one part, or of several one after another, wanted at `depth`."
function join!(joins, joined, groups, parts, depth)
    length(parts) == 1 && return only(parts)
    number = get!(joined, parts) do
        push!(joins, Group(:concat, reduce(vcat, groups[p].nodes for p in parts), 0, parts))
        length(joins)
    end
    old = joins[number]
    joins[number] = Group(:concat, old.nodes, max(old.depth, depth), parts)
    return length(groups) + number
end

joined_block(joint) =
    Block(:concat, joint.nodes, joint.demands, 2 * joint.depth + 1, (0, 0))

function with_shape(graph, blocks, block)
    (; kind, nodes, children) = block
    shape = if kind === :input
        (length(graph.numbers[nodes[1]]), length(nodes))
    elseif kind in (:sum, :kronecker)
        (length(blocks[children[1]].nodes), length(nodes))
    else
        (0, length(nodes))
    end
    level = kind === :input ? typemax(Int) : block.level
    return Block(kind, nodes, children, level, shape)
end

"""
The blocks of each layer, bottom-up. Inside a layer they are in the order in which the
blocks above, first those of the deepest, name them: breadth-first from the root.
"""
function ordered_layers(blocks)
    key(block) = (-block.level, findfirst(==(block.kind), KINDS), block.shape)
    layers = Dict{Any,Vector{Int}}()
    for (i, block) in enumerate(blocks)
        push!(get!(() -> Int[], layers, key(block)), i)
    end
    rank = fill((0, 0), length(blocks))
    number = 0
    order = [layers[k] for k in sort!(collect(keys(layers)))]
    for ids in Iterators.reverse(order)
        sort!(ids; by = i -> rank[i])
        for i in ids, child in blocks[i].children
            number += 1
            rank[child] == (0, 0) && (rank[child] = (-blocks[i].level, number))
        end
    end
    return order
end

"The layer of the blocks `ids`; `numbers` are those of the blocks in the circuit."
function block_layer(graph, blocks, ids, numbers, ::Type{T}) where {T}
    block = blocks[ids[1]]
    if block.kind === :input
        params = Array{T}(undef, block.shape..., length(ids))
        for (b, id) in enumerate(ids), (j, node) in enumerate(blocks[id].nodes)
            params[:, j, b] = graph.numbers[node]
        end
        variables = [graph.variables[blocks[id].nodes[1]] for id in ids]
        return InputLayer(variables, 1:length(ids), params)
    end
    lists = [numbers[blocks[id].children] for id in ids]
    offsets, children = cumsum([1; length.(lists)]), reduce(vcat, lists)
    block.kind === :sum || return ProductLayer(block.kind, offsets, children)
    weights = Array{T}(undef, block.shape..., length(children))
    for (b, id) in enumerate(ids)
        edges = offsets[b]:(offsets[b+1]-1)
        fill_weights!(view(weights, :, :, edges), graph, blocks, blocks[id])
    end
    return SumLayer(offsets, children, 1:length(children), weights)
end

"`weights [width in, width out, edges]` of one sum block."
function fill_weights!(weights, graph, blocks, block)
    place = Dict{Int,CartesianIndex{2}}()
    for (e, child) in enumerate(block.children), (k, node) in enumerate(blocks[child].nodes)
        place[node] = CartesianIndex(k, e)
    end
    for (j, node) in enumerate(block.nodes)
        for (child, weight) in zip(graph.children[node], graph.numbers[node])
            k, e = Tuple(place[child])
            weights[k, j, e] = weight
        end
    end
end
