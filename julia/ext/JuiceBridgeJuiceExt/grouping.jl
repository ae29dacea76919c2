# Which nodes make a block. Every block wants lists of nodes below it: a sum the nodes it
# mixes, in any order; products their k-th factors, in the order of the products. Nodes at
# one depth and of one family that are wanted by the same lists become a block, if the lists
# agree about their order, and single nodes otherwise. Blocks are made from the root down,
# so that all lists that name a node are known before its block is made.

"A list of different nodes that some block wants below it; where each stands, in `places`."
struct Demand
    nodes::Vector{Int}
    ordered::Bool
    places::Dict{Int,Int}
end

Demand(nodes, ordered) = Demand(nodes, ordered, Dict(n => i for (i, n) in enumerate(nodes)))

"""
Nodes that make a block; `demands` are the lists below it. `kind` as in a circuit, or
`:concat`.
"""
struct Group
    kind::Symbol
    nodes::Vector{Int}
    depth::Int
    demands::Vector{Int}
end

"Groups as they are found. `wanted` are, by node, the demands that name it."
struct Grouping
    graph::Graph
    depths::Vector{Int}
    demands::Vector{Demand}
    wanted::Vector{Vector{Int}}
    groups::Vector{Group}
end

"All groups below `root`, and the lists they want."
function group_nodes(graph, root)
    depths = node_depths(graph, root)
    grouping = Grouping(graph, depths, Demand[], [Int[] for _ in depths], Group[])
    demand!(grouping, [root], true)
    levels = [Int[] for _ = 0:maximum(depths)]
    for (node, depth) in enumerate(depths)
        depth < 0 && continue
        leaf = graph.kinds[node] === :input
        push!(levels[leaf ? end : depth + 1], node)
    end
    foreach(level -> group_level!(grouping, level), levels)
    return grouping
end

"The longest way from the root to each node, -1 where there is none."
function node_depths(graph, root)
    depths = fill(-1, length(graph.kinds))
    depths[root] = 0
    for node = root:-1:1
        depths[node] < 0 && continue
        for child in graph.children[node]
            depths[child] = max(depths[child], depths[node] + 1)
        end
    end
    return depths
end

"Ask for a list of nodes; returns the number of the demand."
function demand!(grouping, nodes, ordered)
    push!(grouping.demands, Demand(nodes, ordered))
    number = length(grouping.demands)
    foreach(node -> push!(grouping.wanted[node], number), nodes)
    return number
end

"Make the groups of nodes of one depth, or of all leaves."
function group_level!(grouping, level)
    classes = Dict{Tuple{Int,Vector{Int}},Vector{Int}}()
    order = Tuple{Int,Vector{Int}}[]
    for node in level
        key = (grouping.graph.families[node], grouping.wanted[node])
        haskey(classes, key) || push!(order, key)
        push!(get!(() -> Int[], classes, key), node)
    end
    foreach(key -> group_class!(grouping, classes[key], last(key)), order)
end

"One group of all nodes; or one for those that share factors; or one for each."
function group_class!(grouping, nodes, wanted)
    arranged = arrange(grouping, nodes, wanted)
    !isnothing(arranged) && add_group!(grouping, arranged...) && return
    parts = connected(grouping.graph, nodes)
    length(parts) == 1 && (parts = [[node] for node in nodes])
    foreach(part -> group_class!(grouping, part, wanted), parts)
end

"The nodes in sets that have no child in common with one another."
function connected(graph, nodes)
    above = Dict(node => node for node in nodes)
    top(node) = above[node] == node ? node : (above[node] = top(above[node]))
    first_parent = Dict{Int,Int}()
    for node in nodes, child in graph.children[node]
        above[top(node)] = top(get!(first_parent, child, node))
    end
    parts = Dict{Int,Vector{Int}}()
    foreach(node -> push!(get!(() -> Int[], parts, top(node)), node), nodes)
    return sort!(collect(values(parts)))
end

"""
The nodes in the order in which all ordered lists have them, one after another, and whether
their order may still change; `nothing` if there is no such order.
"""
function arrange(grouping, nodes, wanted)
    demands = grouping.demands[wanted]
    fixed = filter(demand -> demand.ordered, demands)
    places = first(isempty(fixed) ? demands : fixed).places
    nodes = sort(nodes; by = node -> places[node])
    for demand in fixed
        start = demand.places[nodes[1]]
        all(demand.places[node] == start + i - 1 for (i, node) in enumerate(nodes)) ||
            return nothing
    end
    return nodes, isempty(fixed)
end

"Add the group of these nodes with its demands, unless they do not fit together."
function add_group!(grouping, nodes, free)
    graph = grouping.graph
    kind = graph.kinds[nodes[1]]
    depth = grouping.depths[nodes[1]]
    if kind === :product
        kind, nodes, lists = factor_lists(graph, nodes, free)
        isempty(lists) && return false
        demands = [demand!(grouping, list, true) for list in lists]
    elseif kind === :sum
        demands = [demand!(grouping, graph.children[nodes[1]], false)]
    else
        demands = Int[]
    end
    push!(grouping.groups, Group(kind, nodes, depth, demands))
    return true
end

"""
How products are made of lists of nodes: the kind of block, the products in their order, and
the lists; none if there is no way.
"""
function factor_lists(graph, nodes, free)
    factors = [graph.children[node] for node in nodes]
    scopes = graph.prints[factors[1]]
    aligned = map(factors) do children
        children[sortperm(graph.prints[children])][invperm(sortperm(scopes))]
    end
    lists = [[children[k] for children in aligned] for k in eachindex(scopes)]
    if all(allunique, lists)
        leaf(list) = graph.kinds[list[1]] === :input
        return :hadamard, nodes, sort(lists; by = list -> !leaf(list))
    end
    length(lists) == 2 || return :hadamard, nodes, Vector{Int}[]
    for (left, right) in (lists, reverse(lists))
        order = grid_order(left, right)
        isempty(order) && continue
        free || issorted(order) || continue
        return :kronecker, nodes[order], [unique(left), unique(right)]
    end
    return :hadamard, nodes, Vector{Int}[]
end

"""
The order that makes pairs of `left` and `right` all combinations of their different
nodes, those of `right` running fastest; empty if they are not that.
"""
function grid_order(left, right)
    rows = Dict(node => i for (i, node) in enumerate(unique(left)))
    columns = Dict(node => i for (i, node) in enumerate(unique(right)))
    length(left) == length(rows) * length(columns) || return Int[]
    places = [(rows[u] - 1) * length(columns) + columns[v] for (u, v) in zip(left, right)]
    return allunique(places) ? sortperm(places) : Int[]
end
