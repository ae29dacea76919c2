# Brute force: a circuit node by node, for a few variables.

using JuiceBridge: child_range, layer_blocks, layer_of

"The value of node `j` of `block` for one row `x`, from the definitions of the layers."
function node_value(circuit::Circuit, block, j, x)
    i = layer_of(circuit, block)
    return node_value(circuit, circuit.layers[i], block - circuit.starts[i] + 1, j, x)
end

function node_value(circuit, layer::InputLayer, b, j, x)
    value = x[layer.variables[b]]
    return value == MISSING ? 1.0 : Float64(layer.params[value+1, j, layer.groups[b]])
end

function node_value(circuit, layer::ProductLayer, b, j, x)
    children = layer.children[child_range(layer, b)]
    width(child) = circuit.widths[layer_of(circuit, child)]
    if layer.kind === :hadamard
        return prod(node_value(circuit, child, j, x) for child in children)
    elseif layer.kind === :kronecker
        first, second = fldmod1(j, width(children[2]))
        return node_value(circuit, children[1], first, x) *
               node_value(circuit, children[2], second, x)
    end
    for child in children
        j <= width(child) && return node_value(circuit, child, j, x)
        j -= width(child)
    end
end

function node_value(circuit, layer::SumLayer, b, j, x)
    return sum(child_range(layer, b)) do edge
        weights = layer.weights[:, j, layer.groups[edge]]
        child = layer.children[edge]
        sum(w * node_value(circuit, child, k, x) for (k, w) in enumerate(weights))
    end
end

"p(x) of each root."
root_values(circuit, x) = [node_value(circuit, root, 1, x) for root in circuit.roots]

"Every row over variables with these numbers of values."
all_rows(sizes) = (collect(row) for row in Iterators.product((0:(s-1) for s in sizes)...))
