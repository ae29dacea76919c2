# The top-down pass that turns values into states: shared by sampling and MPE. It runs on
# the host.
#
# A *state* is a node of a block. From the root down, every active sum block picks an (edge,
# child node); every active product block hands states to its children; an active input
# block whose variable is missing picks a value. Smooth, decomposable circuits reach a block
# at most once.

"""
    descend!(out, states, circuit, root, chooser)

Fill in the missing values of `out` `[num_vars]` below the block `root`; `states` is
scratch, an integer per block. `choose_edge(chooser, i, b, state)` returns (edge, child
node) for block `b` of sum layer `i`, and `choose_leaf(chooser, i, b, state)` a value.
"""
function descend!(out, states::Vector{Int32}, circuit::Circuit, root::Int, chooser)
    fill!(states, 0)
    states[root] = 1
    for i in reverse(eachindex(circuit.layers))
        descend_layer!(out, states, circuit.layers[i], circuit, i, chooser)
    end
    return out
end

function descend_layer!(out, states, layer::SumLayer, circuit, i, chooser)
    start = circuit.starts[i]
    for b = 1:num_blocks(layer)
        state = states[start+b-1]
        state > 0 || continue
        edge, node = choose_edge(chooser, i, b, state)
        states[layer.children[edge]] = node
    end
end

function descend_layer!(out, states, layer::ProductLayer, circuit, i, chooser)
    start = circuit.starts[i]
    for b = 1:num_blocks(layer)
        state = states[start+b-1]
        state > 0 && hand_state!(states, layer, circuit, b, state)
    end
end

function hand_state!(states, layer::ProductLayer, circuit, b, state)
    children = child_range(layer, b)
    if layer.kind === :hadamard
        for k in children
            states[layer.children[k]] = state
        end
    elseif layer.kind === :kronecker
        second = layer.children[children[2]]
        inner = circuit.widths[layer_of(circuit, second)]
        states[layer.children[children[1]]] = (state - 1) ÷ inner + 1
        states[second] = (state - 1) % inner + 1
    else
        for k in children
            width = circuit.widths[layer_of(circuit, layer.children[k])]
            if state <= width
                states[layer.children[k]] = state
                break
            end
            state -= width
        end
    end
    return nothing
end

function descend_layer!(out, states, layer::InputLayer, circuit, i, chooser)
    start = circuit.starts[i]
    for b = 1:num_blocks(layer)
        state, v = states[start+b-1], layer.variables[b]
        state > 0 && out[v] < 0 || continue
        out[v] = choose_leaf(chooser, i, b, state)
    end
end
