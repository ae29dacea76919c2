# Most probable explanation: the best joint state of the missing variables and all latents.
#
# An upward pass on the host in the log domain (float64), in which sums and missing
# variables are maximised, then a top-down pass that takes the best choice; ties go to the
# first. On a hidden Markov model this is the Viterbi algorithm.

"Columns that are maximised side by side."
const MPE_COLUMNS = 16

"Log parameters by layer, and of leaves the best value of each node and its logarithm."
struct LogParams
    arrays::Vector{Array{Float64,3}}
    best::Vector{Matrix{Int32}}
    tops::Vector{Matrix{Float64}}
end

function LogParams(circuit::Circuit)
    arrays = map(circuit.layers) do layer
        owns_params(layer) ? log.(Float64.(layer_params(layer))) : zeros(0, 0, 0)
    end
    best = [zeros(Int32, 0, 0) for _ in arrays]
    tops = [zeros(0, 0) for _ in arrays]
    for (i, layer) in enumerate(circuit.layers)
        if layer isa InputLayer
            found = findmax(arrays[i]; dims = 1)
            tops[i] = dropdims(found[1]; dims = 1)
            best[i] = dropdims(getindex.(found[2], 1); dims = 1) .- Int32(1)
        elseif layer isa SumLayer && layer.tied_to > 0
            arrays[i] = arrays[layer.tied_to]
        end
    end
    return LogParams(arrays, best, tops)
end

"""
Max-product values `(columns, width, blocks)` of some columns, and what is chosen in one of
them.
"""
mutable struct Best
    const circuit::Circuit
    const logs::LogParams
    const tiles::Vector{Array{Float64,3}}
    column::Int
end

function Best(circuit::Circuit, logs::LogParams)
    tiles = map(eachindex(circuit.layers)) do i
        zeros(MPE_COLUMNS, circuit.widths[i], num_blocks(circuit.layers[i]))
    end
    return Best(circuit, logs, tiles, 0)
end

"""
    best_rows(circuit, x, root)

The best completion of every column of `x`, int32 `[num_vars, N]` (variables outside the
root's scope stay as in `x`), and the log-value of the best joint state, float64 `[N]`: -Inf
where the evidence is impossible, and the completion then means nothing.
"""
function best_rows(circuit::Circuit, x, root)
    out, vals = Int32.(x), Vector{Float64}(undef, size(x, 2))
    logs, block = LogParams(circuit), root_block(circuit, root)
    i = layer_of(circuit, block)
    work = size(x, 2) * num_parameters(circuit)
    threaded(cld(size(x, 2), MPE_COLUMNS), work) do chunks, _
        best, states = Best(circuit, logs), zeros(Int32, num_blocks(circuit))
        for chunk in chunks
            columns = (MPE_COLUMNS*(chunk-1)+1):min(MPE_COLUMNS * chunk, size(x, 2))
            for (j, layer) in enumerate(circuit.layers)
                maximise!(best.tiles[j], layer, best, j, view(x, :, columns))
            end
            for (n, column) in enumerate(columns)
                best.column = n
                vals[column] = best.tiles[i][n, 1, block-circuit.starts[i]+1]
                descend!(view(out, :, column), states, circuit, block, best)
            end
        end
        return false
    end
    return out, vals
end

function maximise!(tile, layer::InputLayer, best, i, x)
    logs, tops = best.logs.arrays[i], best.logs.tops[i]
    for b in axes(tile, 3), w in axes(tile, 2), n in axes(x, 2)
        value, group = x[layer.variables[b], n], layer.groups[b]
        tile[n, w, b] = value < 0 ? tops[w, group] : logs[value+1, w, group]
    end
    return tile
end

function maximise!(tile, layer::ProductLayer, best, i, x)
    layer.kind === :hadamard && fill!(tile, 0)
    for b in axes(tile, 3)
        children = child_range(layer, b)
        parts = [child_tile(best, layer.children[k]) for k in children]
        if layer.kind === :hadamard
            foreach(part -> view(tile, :, :, b) .+= part, parts)
        elseif layer.kind === :concat
            tile[:, :, b] = reduce(hcat, parts)
        else
            left, right = parts
            grid = reshape(view(tile, :, :, b), :, size(right, 2), size(left, 2))
            grid .= reshape(left, size(left, 1), 1, :) .+ right
        end
    end
    return tile
end

function child_tile(best, block)
    i = layer_of(best.circuit, block)
    return view(best.tiles[i], :, :, block - best.circuit.starts[i] + 1)
end

function maximise!(tile, layer::SumLayer, best, i, x)
    logs = best.logs.arrays[i]
    fill!(tile, -Inf)
    for b in axes(tile, 3), e in child_range(layer, b)
        vals, group = child_tile(best, layer.children[e]), layer.groups[e]
        maximise_edge!(view(tile, :, :, b), view(logs, :, :, group), vals)
    end
    return tile
end

function maximise_edge!(tile, logs, vals)
    @inbounds for state in axes(tile, 2), node in axes(logs, 1)
        θ = logs[node, state]
        @simd ivdep for n in axes(tile, 1)
            found = θ + vals[n, node]
            tile[n, state] = ifelse(found > tile[n, state], found, tile[n, state])
        end
    end
    return tile
end

function choose_edge(best::Best, i, b, state)
    layer = best.circuit.layers[i]::SumLayer
    logs, top = best.logs.arrays[i], -Inf
    edge, chosen = first(child_range(layer, b)), 1
    for e in child_range(layer, b)
        vals = child_tile(best, layer.children[e])
        for node in axes(logs, 1)
            found = logs[node, state, layer.groups[e]] + vals[best.column, node]
            if found > top
                top, edge, chosen = found, e, node
            end
        end
    end
    return edge, chosen
end

function choose_leaf(best::Best, i, b, state)
    layer = best.circuit.layers[i]::InputLayer
    return best.logs.best[i][state, layer.groups[b]]
end
