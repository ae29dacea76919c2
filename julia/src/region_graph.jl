# Region graphs: which sets of variables a circuit splits, and how.

"""
    RegionGraph(num_vars, scopes, partitions)

Regions and partitions over `num_vars` variables, checked when made.

- `scopes`: the variables of each region;
- `partitions`: (region, left child, right child), indices into `scopes`; a region may have
  several, and one without any is a leaf;
- `root`: the region that is nobody's child;
- `splits`: the partitions of each region as (left child, right child).

Ids count from one here and from zero in files.
"""
struct RegionGraph
    num_vars::Int
    scopes::Vector{Vector{Int}}
    partitions::Vector{NTuple{3,Int}}
    root::Int
    splits::Vector{Vector{NTuple{2,Int}}}

    function RegionGraph(num_vars::Integer, scopes, partitions)
        check_scopes(num_vars, scopes)
        check_partitions(scopes, partitions)
        root = top_region(num_vars, scopes, partitions)
        splits = [NTuple{2,Int}[] for _ in scopes]
        for (region, left, right) in partitions
            push!(splits[region], (left, right))
        end
        return new(num_vars, scopes, partitions, root, splits)
    end
end

graph_error(problem) = throw(BridgeError("$problem."))

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

function check_partitions(scopes, partitions)
    for (i, (region, children...)) in enumerate(partitions)
        all(r -> 1 <= r <= length(scopes), (region, children...)) || graph_error(
            "partitions[$(i - 1)] must name regions from 0 to $(length(scopes) - 1)",
        )
        together = sort!([v for child in children for v in scopes[child]])
        together == sort(scopes[region]) || graph_error(
            "partitions[$(i - 1)].children must split the scope of region $(region - 1) " *
            "in two",
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

"The graph in parsed JSON, types checked entry by entry."
function region_graph(data)
    check_keys(data, ("num_vars", "regions", "partitions"), "the file")
    num_vars = whole_number(data["num_vars"], "num_vars")
    num_vars >= 1 || graph_error("num_vars must be at least 1")
    for key in ("regions", "partitions")
        data[key] isa AbstractVector || graph_error("$key must be a list")
    end
    scopes = map(enumerate(data["regions"])) do (i, region)
        check_keys(region, ("scope",), "regions[$(i - 1)]")
        return whole_numbers(region["scope"], "regions[$(i - 1)].scope") .+ 1
    end
    partitions = map(enumerate(data["partitions"])) do (i, partition)
        item = "partitions[$(i - 1)]"
        check_keys(partition, ("region", "children"), item)
        region = whole_number(partition["region"], "$item.region")
        children = whole_numbers(partition["children"], "$item.children")
        length(children) == 2 || graph_error("$item.children must name two regions")
        return (region, children...) .+ 1
    end
    return RegionGraph(num_vars, scopes, partitions)
end

function check_keys(data, expected, item)
    data isa AbstractDict && issetequal(string.(keys(data)), expected) && return
    listed = join(expected, ", ")
    return graph_error("$item must be an object with the entries $listed and no others")
end

whole_number(value::Int, _) = value
whole_number(::Any, item) = graph_error("$item must be an integer")

function whole_numbers(vals, item)
    vals isa AbstractVector || graph_error("$item must be a list of integers")
    return Int[whole_number(value, item) for value in vals]
end
