# Trees over variables. `parents[v]` is the parent of v, 0 at the root.

"""
    chow_liu_tree(x, categories; bins = 16, pseudocount = 1.0)

The Chow-Liu tree of `x` (`[n, rows]`), rooted at its centre: parents `[n]`, 0 at the root.

The maximum spanning tree of pairwise [`mutual_information`](@ref), which has the same
arguments (Chow & Liu, *Approximating Discrete Probability Distributions with Dependence
Trees*, 1968). The same rows give the same tree as in Python.

```jldoctest
julia> x = [0 0 1 1 0 1; 0 0 1 1 0 1; 1 0 1 1 1 1];  # the second variable copies the first

julia> print_tree(chow_liu_tree(x, 2))
1
├─ 2
└─ 3
```
"""
function chow_liu_tree(x::AbstractMatrix{<:Integer}, categories; keywords...)
    return maximum_spanning_tree(mutual_information(x, categories; keywords...))
end

"""
    maximum_spanning_tree(weights)

The spanning tree of greatest total weight (`weights [n, n]`, symmetric), rooted at its
centre: parents `[n]`, 0 at the root.

Prim's algorithm from the first node; equal weights go to the lowest index. The centre is
the node of least eccentricity, the lowest index of two.
"""
function maximum_spanning_tree(weights::AbstractMatrix{<:Real})
    n = size(weights, 1)
    size(weights, 2) == n > 0 && all(isfinite, weights) ||
        refuse("weights must be a square matrix of finite numbers.")
    parents = fill(Int32(1), n)
    best = Vector{Float64}(weights[1, :])
    inside = falses(n)
    inside[1] = true
    best[1] = -Inf
    for _ = 2:n
        node = argmax(best)
        inside[node] = true
        best[node] = -Inf
        for other = 1:n
            if !inside[other] && weights[node, other] > best[other]
                best[other] = weights[node, other]
                parents[other] = node
            end
        end
    end
    parents[1] = 0
    return rooted_at_centre(parents)
end

"The same tree rooted in the middle of a longest path."
function rooted_at_centre(parents)
    neighbours = [Int32[] for _ in parents]
    for (node, upper) in enumerate(parents)
        upper == 0 && continue
        push!(neighbours[node], upper)
        push!(neighbours[upper], node)
    end
    far = last(first(walk(neighbours, 1)))
    order, above = walk(neighbours, far)
    path = [last(order)]
    while above[path[end]] > 0
        push!(path, above[path[end]])
    end
    middle = min(path[(length(path)+1)÷2], path[length(path)÷2+1])
    return last(walk(neighbours, middle))
end

"Breadth-first order from `start`, and the parent of each node in it."
function walk(neighbours, start)
    above = fill(Int32(-1), length(neighbours))
    above[start] = 0
    order = Int32[start]
    for node in order, other in neighbours[node]
        if above[other] == -1
            above[other] = node
            push!(order, other)
        end
    end
    return order, above
end

"`parents` as `Vector{Int32}`, once it is known to name one root and valid nodes."
function check_parents(parents)
    isempty(parents) && refuse("parents must hold at least one node.")
    all(p -> p isa Integer && 0 <= p <= length(parents), parents) ||
        refuse("parents must hold nodes from 1 to $(length(parents)), or 0 at the root.")
    count(==(0), parents) == 1 ||
        refuse("parents must hold 0 exactly once, at the root of the tree.")
    return Vector{Int32}(parents)
end

"""
    tree_levels(parents)

The nodes by depth, root level first. Inside a level nodes follow the order of their
parents, then their own index, so that siblings are neighbours.
"""
function tree_levels(parents)
    tree = check_parents(parents)
    children = [Int32[] for _ in tree]
    levels = [Int32[]]
    for (node, above) in enumerate(tree)
        push!(above == 0 ? levels[1] : children[above], node)
    end
    while true
        below = reduce(vcat, children[levels[end]])
        isempty(below) && break
        push!(levels, below)
    end
    sum(length, levels) == length(tree) ||
        refuse("parents holds a cycle: every node must lead to the root.")
    return levels
end
