# Region graphs: which sets of variables a circuit splits, and how.

"""
    RegionGraph(num_vars, scopes, partitions; own = [])

Regions and partitions over `num_vars` variables, checked when made.

- `scopes`: the variables of each region;
- `partitions`: (region, child, child, …), indices into `scopes`; a region may have several,
  and one without any is a leaf;
- `own`: by region the variables that stay with it where it is split; empty if none do;
- `root`: the region that is nobody's child;
- `splits`: the partitions of each region as its children.

Ids count from one here and from zero in files.
"""
struct RegionGraph
    num_vars::Int
    scopes::Vector{Vector{Int}}
    partitions::Vector{Vector{Int}}
    own::Vector{Vector{Int}}
    root::Int
    splits::Vector{Vector{Vector{Int}}}

    function RegionGraph(num_vars::Integer, scopes, partitions; own = Vector{Int}[])
        1 <= num_vars <= ID_LIMIT ||
            graph_error("num_vars is $num_vars, must be from 1 to $ID_LIMIT")
        scopes, partitions, own = map((scopes, partitions, own)) do lists
            return Vector{Int}[collect(Int, list) for list in lists]
        end
        check_scopes(num_vars, scopes)
        check_partitions(scopes, partitions, own)
        root = top_region(num_vars, scopes, partitions)
        splits = [Vector{Int}[] for _ in scopes]
        for (region, children...) in partitions
            push!(splits[region], children)
        end
        return new(num_vars, scopes, partitions, own, root, splits)
    end
end

graph_error(problem) = throw(BridgeError("$problem."))

function Base.:(==)(a::RegionGraph, b::RegionGraph)
    parts = (:num_vars, :scopes, :partitions, :own)
    return all(part -> getfield(a, part) == getfield(b, part), parts)
end
Base.hash(graph::RegionGraph, seed::UInt) =
    hash((graph.num_vars, graph.scopes, graph.partitions, graph.own), seed)

function check_scopes(num_vars, scopes)
    for (i, scope) in enumerate(scopes)
        isempty(scope) | !allunique(scope) && graph_error(
            "regions[$(i - 1)].scope must list at least one variable, none twice",
        )
        all(v -> 1 <= v <= num_vars, scope) || graph_error(
            "regions[$(i - 1)].scope must hold variables from 0 to $(num_vars - 1)",
        )
    end
end

function check_partitions(scopes, partitions, own)
    isempty(own) ||
        length(own) == length(scopes) ||
        graph_error("own has $(length(own)) entries for $(length(scopes)) regions")
    for (i, partition) in enumerate(partitions)
        isempty(partition) && graph_error("partitions[$(i - 1)] must name a region")
        all(r -> 1 <= r <= length(scopes), partition) || graph_error(
            "partitions[$(i - 1)] must name regions from 0 to $(length(scopes) - 1)",
        )
        region, children... = partition
        mine = isempty(own) ? Int[] : own[region]
        parts = [[mine]; scopes[children]]
        together = sort!(reduce(vcat, parts))
        together == sort(scopes[region]) && count(!isempty, parts) >= 2 || graph_error(
            "partitions[$(i - 1)].children must split the scope of region $(region - 1) " *
            "into two or more" *
            (isempty(mine) ? "" : " (with its own variables)"),
        )
    end
    for (region, mine) in enumerate(own)
        isempty(mine) && continue
        count(partition -> first(partition) == region, partitions) == 1 || graph_error(
            "regions[$(region - 1)] has own variables, so it must have exactly one " *
            "partition",
        )
    end
end

function top_region(num_vars, scopes, partitions)
    below = Set(child for (_, children...) in partitions for child in children)
    tops = [region for region in eachindex(scopes) if region ∉ below]
    length(tops) == 1 || graph_error(
        "exactly one region must be no child of a partition, but these are: $(tops .- 1)",
    )
    length(scopes[tops[1]]) == num_vars || graph_error(
        "region $(tops[1] - 1) is at the top and must hold all $num_vars variables",
    )
    return tops[1]
end

"""
    load_region_graph(path)

Read a region-graph file: JSON, as `docs/region_graph.md` specifies.
"""
function load_region_graph(path::AbstractString)
    text = try
        read(path, String)
    catch err
        err isa SystemError || rethrow()
        throw(BridgeError("$path: cannot be read ($(Base.Libc.strerror(err.errnum)))."))
    end
    data = try
        JSON3.read(text)
    catch err
        throw(BridgeError("$path: is not JSON text ($(one_line(err)))."))
    end
    try
        return region_graph(data)
    catch err
        err isa BridgeError && throw(BridgeError("$path: $(err.message)"))
        rethrow()
    end
end

"""
    save_region_graph(graph, path)

Write a region-graph file, which [`load_region_graph`](@ref) and Python read.
"""
function save_region_graph(graph::RegionGraph, path::AbstractString)
    regions = map(eachindex(graph.scopes)) do region
        scope = graph.scopes[region] .- 1
        mine = isempty(graph.own) ? Int[] : graph.own[region] .- 1
        return isempty(mine) ? (; scope) : (; scope, own = mine)
    end
    partitions = [
        (; region = region - 1, children = children .- 1) for
        (region, children...) in graph.partitions
    ]
    text = JSON3.write((; graph.num_vars, regions, partitions))
    return atomic_file(temporary -> write(temporary, text), path, sizeof(text))
end

"The graph in parsed JSON, types checked entry by entry."
function region_graph(data)
    check_keys(data, ("num_vars", "regions", "partitions"), "the file")
    num_vars = whole_number(data["num_vars"], "num_vars")
    for key in ("regions", "partitions")
        data[key] isa AbstractVector || graph_error("$key must be a list")
    end
    scopes = map(enumerate(data["regions"])) do (i, region)
        item = "regions[$(i - 1)]"
        check_keys(region, ("scope",), item; optional = "own")
        return whole_numbers(region["scope"], "$item.scope") .+ 1
    end
    own = map(enumerate(data["regions"])) do (i, region)
        return whole_numbers(get(region, "own", []), "regions[$(i - 1)].own") .+ 1
    end
    partitions = map(enumerate(data["partitions"])) do (i, partition)
        item = "partitions[$(i - 1)]"
        check_keys(partition, ("region", "children"), item)
        region = whole_number(partition["region"], "$item.region")
        children = whole_numbers(partition["children"], "$item.children")
        return [region; children] .+ 1
    end
    return RegionGraph(num_vars, scopes, partitions; own = all(isempty, own) ? [] : own)
end

function check_keys(data, expected, item; optional = "")
    data isa AbstractDict &&
        issetequal(filter(!=(optional), string.(keys(data))), expected) &&
        return
    listed = join(expected, ", ")
    return graph_error("$item must be an object with the entries $listed and no others")
end

whole_number(value::Int, _) = value
whole_number(::Any, item) = graph_error("$item must be an integer")

function whole_numbers(vals, item)
    vals isa AbstractVector || graph_error("$item must be a list of integers")
    return Int[whole_number(value, item) for value in vals]
end

"The longest way from each region down to a leaf."
function region_heights(graph::RegionGraph)
    heights = zeros(Int, length(graph.scopes))
    for region in sortperm(length.(graph.scopes)),
        children in graph.splits[region],
        child in children

        heights[region] = max(heights[region], heights[child] + 1)
    end
    return heights
end

"The variables that each region reads itself: a leaf's scope, another's own variables."
function region_leaves(graph::RegionGraph)
    return map(eachindex(graph.scopes)) do region
        isempty(graph.splits[region]) && return graph.scopes[region]
        return isempty(graph.own) ? Int[] : graph.own[region]
    end
end

"""
    random_region_graph(num_vars, depth, replicas; seed = default_rng())

All variables split into random halves, `replicas` times below one root, `depth` times at
most (Peharz et al., *Random Sum-Product Networks*, UAI 2019). Replicas meet at the root
only.
"""
function random_region_graph(
    num_vars::Integer,
    depth::Integer,
    replicas::Integer;
    seed = default_rng(),
)
    num_vars >= 1 && depth >= 0 && replicas >= 1 ||
        refuse("num_vars and replicas must be at least 1 and depth at least 0.")
    rng = generator(seed)
    scopes, partitions = [collect(1:num_vars)], Vector{Int}[]
    level = fill(1, replicas)
    for _ = 1:depth
        below = Int[]
        for region in level
            scope = shuffle(rng, scopes[region])
            length(scope) >= 2 || continue
            half = length(scope) ÷ 2
            push!(scopes, sort(scope[1:half]), sort(scope[(half+1):end]))
            children = [length(scopes) - 1, length(scopes)]
            push!(partitions, [region; children])
            append!(below, children)
        end
        level = below
    end
    return RegionGraph(num_vars, scopes, partitions)
end

"""
    tree_regions(parents)

The regions of a tree over variables: every subtree, which owns its top variable.

Of a [`chow_liu_tree`](@ref) these are the regions of an [`hclt`](@ref), of a chain (`parents
= 0:(n - 1)`) those of an [`hmm`](@ref). Region `i` is the subtree of variable `i`.
"""
function tree_regions(parents)
    tree = check_parents(parents)
    scopes, children = [[i] for i in eachindex(tree)], [Int[] for _ in tree]
    for level in reverse(tree_levels(tree)), i in level
        tree[i] == 0 && continue
        append!(scopes[tree[i]], scopes[i])
        push!(children[tree[i]], i)
    end
    partitions = [[i; below] for (i, below) in enumerate(children) if !isempty(below)]
    own = [isempty(below) ? Int[] : [i] for (i, below) in enumerate(children)]
    return RegionGraph(
        length(tree),
        sort!.(scopes),
        partitions;
        own = length(tree) > 1 ? own : [],
    )
end
