# Every node of a block becomes a node of Juice.

const Node = Juice.PlainProbCircuit

function to_juice(circuit::Circuit; root::Integer = 1)
    top = root_block(circuit, root)
    wanted = blocks_below(circuit, top)
    nodes = Vector{Vector{Node}}(undef, num_blocks(circuit))
    for (i, layer) in enumerate(circuit.layers)
        for (b, block) in enumerate(layer_blocks(circuit, i))
            wanted[block] && (nodes[block] = block_nodes(layer, b, nodes))
        end
    end
    return only(nodes[top])
end

function block_nodes(layer::InputLayer, b, _)
    variable = Int(layer.variables[b])
    columns = eachcol(view(layer.params, :, :, layer.groups[b]))
    return Node[Juice.PlainInputNode(variable, Juice.Categorical(logs(c))) for c in columns]
end

function block_nodes(layer::ProductLayer, b, nodes)
    parts = nodes[view(layer.children, child_range(layer, b))]
    length(parts) == 1 && return only(parts)
    layer.kind === :concat && return reduce(vcat, parts)
    layer.kind === :hadamard && return Node[
        Juice.multiply(Node[part[j] for part in parts]) for j in eachindex(parts[1])
    ]
    return Node[Juice.multiply(Node[u, v]) for u in parts[1] for v in parts[2]]
end

function block_nodes(layer::SumLayer, b, nodes)
    edges = child_range(layer, b)
    children = reduce(vcat, nodes[view(layer.children, edges)])
    weights =
        reduce(vcat, layer.weights[:, :, group] for group in view(layer.groups, edges))
    return Node[Juice.PlainSumNode(copy(children), logs(w)) for w in eachcol(weights)]
end

logs(probabilities) = Vector{Float32}(log.(probabilities))
