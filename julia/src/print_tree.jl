# Trees as text.

"""
    hidden_tree(circuit)

The tree of the latents `"z"` of an HCLT, an HMM or glued patches: parents `[positions]`, 0
at the root.
"""
function hidden_tree(circuit::Circuit)
    haskey(circuit.latents, "z") || refuse("The circuit has no latents named \"z\".")
    above = only_parents(circuit)
    is_product(block) = circuit.layers[layer_of(circuit, block)] isa ProductLayer
    function climb(block)
        block = above[block]
        while block > 0 && !is_product(block)
            block = above[block]
        end
        return block
    end
    hadamard(block) = circuit.layers[layer_of(circuit, block)].kind === :hadamard
    nodes = [
        is_product(block) && hadamard(block) ? Int(block) : climb(block) for
        block in circuit.latents["z"]
    ]
    rank = Dict(node => p for (p, node) in enumerate(nodes))
    rank[0] = 0
    parents = [get(rank, node > 0 ? climb(node) : -1, -1) for node in nodes]
    -1 in parents && refuse("The latents \"z\" of this circuit are not nodes of one tree.")
    return check_parents(parents)
end

"""
By block: the only block that has it as a child; 0 where there is none, -1 where there are
several.
"""
function only_parents(circuit)
    above = zeros(Int, num_blocks(circuit))
    for (i, layer) in enumerate(circuit.layers)
        layer isa InputLayer && continue
        for (b, block) in enumerate(layer_blocks(circuit, i))
            for child in view(layer.children, child_range(layer, b))
                above[child] = above[child] == 0 ? block : -1
            end
        end
    end
    return above
end

"""
    print_tree([io], parents; label = string, lines = 40)
    print_tree([io], circuit; label = string, lines = 40)

Draw a tree of `parents`, 0 at the root, or the [`hidden_tree`](@ref) of a circuit: one node
per line, below its parent. `label(node)` is what is written for a node. No more than
`lines` are printed.

```jldoctest
julia> print_tree([2, 0, 2, 3])
2
├─ 1
└─ 3
   └─ 4
```
"""
function print_tree(io::IO, parents::AbstractVector{<:Integer}; label = string, lines = 40)
    tree = check_parents(parents)
    tree_levels(tree)
    children = [findall(==(node), tree) for node in eachindex(tree)]
    waiting = [(findfirst(==(0), tree), "", "")]
    for _ = 1:lines
        isempty(waiting) && return
        node, line, rest = pop!(waiting)
        println(io, line, label(node))
        for child in reverse(children[node])
            ends = child == children[node][end]
            push!(
                waiting,
                (child, rest * (ends ? "└─ " : "├─ "), rest * (ends ? "   " : "│  ")),
            )
        end
    end
    printed = min(lines, length(tree))
    printed < length(tree) &&
        println(io, "⋮ $(counted_noun(length(tree) - printed, "more node"))")
    return
end

print_tree(io::IO, circuit::Circuit; keywords...) =
    print_tree(io, hidden_tree(circuit); keywords...)
print_tree(tree; keywords...) = print_tree(stdout, tree; keywords...)
