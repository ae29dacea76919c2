# Exact sampling with evidence, and posteriors of latents.
#
# Sampling is an upward pass with the evidence, then a top-down pass: an active sum block in
# state i picks (edge, child node j) with probability ∝ weight[j, i] · value of the child
# node, and an active input block draws a value. Both choices invert a cumulative sum, so
# that no choice of probability zero is ever made. A posterior is the flow of the latent's
# block.

"Columns that share a generator, whatever the number of threads."
const CHUNK = 64

"""
Weights are lifted by this power of two before they are multiplied by values, in double
precision.
"""
const LIFT = exp2(400)

"What an upward pass left, on the host."
struct Found{T,P,V}
    plans::Vector{LayerPlan{V}}
    tiles::Vector{Array{T,3}}
    scales::Vector{Matrix{Float64}}
    params::Vector{Array{P,3}}
    groups::Vector{Vector{Int32}}
end

function Found(circuit::Circuit, pass::Pass, params)
    host(buffers) = map(buffer -> Array(buffer.array), buffers)
    groups = [layer isa InputLayer ? layer.groups : Int32[] for layer in circuit.layers]
    return Found(pass.program.plans, host(pass.tiles), host(pass.scales), params, groups)
end

"Draws states for column `column` of an upward pass."
mutable struct Draw{F<:Found,G}
    const found::F
    const generator::G
    const cumulative::Vector{Float64}
    column::Int
end

function choose_edge(draw::Draw, i, b, state)
    (; plans, tiles, scales, params) = draw.found
    plan = plans[i]::SumPlan
    span = plan.offsets[b]:(plan.offsets[b+1]-1)
    scale(e) = scales[plan.sources[e]][draw.column, plan.places[e]]
    common = maximum(scale, span)
    total = 0.0
    cumulative = resize!(draw.cumulative, plan.width_in * length(span))
    for (slot, e) in enumerate(span)
        factor = length(span) == 1 ? LIFT : LIFT * exp2(scale(e) - common)
        vals, place, group = tiles[plan.sources[e]], plan.places[e], plan.groups[e]
        weights, low = params[plan.owner], plan.width_in * (slot - 1)
        @inbounds for node = 1:plan.width_in
            weight = Float64(weights[node, state, group]) * factor
            total += weight * vals[node, draw.column, place]
            cumulative[low+node] = total
        end
    end
    k = invert(cumulative, total, draw.generator)
    return span[(k-1)÷plan.width_in+1], (k - 1) % plan.width_in + 1
end

function choose_leaf(draw::Draw, i, b, state)
    table, group = draw.found.params[i], draw.found.groups[i][b]
    total, cumulative = 0.0, resize!(draw.cumulative, size(table, 2) - 1)
    for k in eachindex(cumulative)
        total += table[state, k+1, group]
        cumulative[k] = total
    end
    return invert(cumulative, total, draw.generator) - 1
end

"An index drawn by the increments of `cumulative`; the target stays below the total."
function invert(cumulative, total, generator)
    target = min(rand(generator) * total, prevfloat(total))
    return searchsortedlast(cumulative, target) + 1
end

"""
    draw_rows(circuit, pass, x, evidence, n, seed, root)

`n` completions of every column of `x`: int32 `[num_vars, n, N]`; variables outside the
root's scope stay as in `x`.
"""
function draw_rows(circuit::Circuit, pass::Pass, x, evidence, n, seed, root)
    out = Array{Int32}(undef, circuit.num_vars, n, size(x, 2))
    block = root_block(circuit, root)
    params = map(Array, pass.params)
    for rows in cut_rows(size(x, 2), micro_batch(pass))
        used = possible_upward!(pass, x, evidence, rows, root)
        found = Found(circuit, used, params)
        given = Int32.(Array(x[:, rows]))
        threaded(
            cld(n * length(rows), CHUNK),
            n * length(rows) * num_blocks(circuit),
        ) do chunks, _
            states = zeros(Int32, num_blocks(circuit))
            for chunk in chunks
                number = (n * (first(rows) - 1)) ÷ CHUNK + chunk
                generator = Xoshiro(hash((seed, first(rows), number)))
                draw = Draw(found, generator, Float64[], 0)
                for k = (CHUNK*(chunk-1)+1):min(CHUNK * chunk, n * length(rows))
                    draw.column = (k - 1) ÷ n + 1
                    target = view(out, :, (k - 1) % n + 1, rows[draw.column])
                    copyto!(target, view(given, :, draw.column))
                    descend!(target, states, circuit, block, draw)
                end
            end
            return false
        end
    end
    return out
end

"The pass after an upward pass of some columns, none of them impossible."
function possible_upward!(pass::Pass, x, evidence, rows, root)
    load!(pass, x, rows)
    observe!(pass, evidence, rows)
    upward!(pass)
    if !isempty(doubtful(pass))
        return possible_upward!(double_pass!(pass), x, evidence, rows, root)
    end
    impossible = findfirst(==(-Inf), Array(scores!(pass))[:, root])
    isnothing(impossible) && return pass
    column = rows[impossible]
    refuse(
        "Column $column of the evidence (row $(column - 1), counted from zero) has " *
        "probability zero under the circuit.",
    )
end

"""
    latent_flows(circuit, pass, x, name, root)

p(latent = j | x) for the latents `name`: float32 `[width, positions, N]`. This is the flow
of the latent's block, so where the root does not reach the block for certain (a region of a
random graph) a column sums to the probability that it does.
"""
function latent_flows(circuit::Circuit, pass::Pass, x, name, root)
    blocks = latent_blocks(circuit, name)
    layers = [layer_of(circuit, b) for b in blocks]
    widths = circuit.widths[layers]
    allequal(widths) || refuse("The latents '$name' have different numbers of values.")
    out = zeros(Float32, maximum(widths; init = 0), length(blocks), size(x, 2))
    for rows in cut_rows(size(x, 2), micro_batch(pass))
        used = possible_upward!(pass, x, Evidence(), rows, root)
        used.keeps_flow[layers] .= true
        enter = zeros(Float64, length(rows), length(circuit.roots))
        enter[:, root] .= 1
        weights = copyto!(
            similar(used.scores.array, eltype(used.scratch.array), size(enter)),
            enter,
        )
        none = map(p -> similar(p, (0, 0, 0)), used.params)
        downward!(used, none, weights)
        for i in unique(layers)
            plan = used.program.plans[i]
            flow = Array(flow_tile(used, plan))
            flow_blocks =
                plan isa SumPlan && plan.flow_owner > 0 ? Array(plan.flow_blocks) : Int32[]
            for p in findall(==(i), layers)
                place = blocks[p] - circuit.starts[i] + 1
                out[:, p, rows] .=
                    view(flow, :, :, isempty(flow_blocks) ? place : flow_blocks[place])
            end
        end
        used.keeps_flow[layers] .= false
    end
    return out
end
