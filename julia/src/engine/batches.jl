# Rows through the circuit in batches of bounded memory.

"Bytes of the largest tile of a batch on a CPU."
const TILE_BYTES = 16 * 2^20

"""
Bytes of all tiles of a batch on a CPU: they stay in a cache then. Where that would be fewer
columns than products are fast with, they do not.
"""
const CACHED_BYTES = 2^20

"Most rows that are evaluated together."
const EVALUATION_ROWS = 1024

"""
    micro_batch(pass)

Rows that go through the circuit together. On a GPU the tiles take at most half of what is
free.
"""
function micro_batch(pass::Pass{T}) where {T}
    pass.limit > 0 && return pass.limit
    program = pass.program
    kept, blocks = sum(kept_values, program.plans), sum(plan -> plan.blocks, program.plans)
    free = free_bytes(pass.codes.flat)
    if isnothing(free)
        pass.limit = max(8, TILE_BYTES ÷ (sizeof(T) * largest_tile(program)))
        cached = CACHED_BYTES ÷ (sizeof(T) * kept + 16 * blocks)
        cached >= SMALL_COLUMNS && (pass.limit = min(pass.limit, cached))
    else
        floats = 3 * kept + 4 * largest_tile(program)
        pass.limit = max(1, free ÷ 2 ÷ (sizeof(T) * floats + 32 * blocks))
    end
    return pass.limit
end

"`1:rows` in ranges of equal length, as far as possible, of at most `most`."
function cut_rows(rows::Int, most::Int)
    parts = cld(rows, most)
    return ((1+rows*(k-1)÷parts):(rows*k÷parts) for k = 1:parts)
end

"""
    prepare(circuit, device, T)

The engine's pass for a circuit: checked, since its loops look at no bounds, compiled, with
parameters in precision `T` on the device.
"""
function prepare(circuit::Circuit, device, ::Type{T}) where {T}
    A = array_type(device)
    check(circuit)
    params = [engine_params(layer, A, T) for layer in circuit.layers]
    return Pass{T}(compile(circuit, A), params)
end

engine_params(::Layer, A, ::Type{T}) where {T} = on_device(A, zeros(T, 0, 0, 0))
function engine_params(layer::SumLayer, A, ::Type{T}) where {T}
    owns_params(layer) || return on_device(A, zeros(T, 0, 0, 0))
    return on_device(A, Array{T,3}(layer.weights))
end
function engine_params(layer::InputLayer, A, ::Type{T}) where {T}
    categories, width, groups = size(layer.params)
    table = ones(T, width, categories + 1, groups)
    permutedims!(view(table, :, 2:(categories+1), :), layer.params, (2, 1, 3))
    return on_device(A, table)
end

"Parameters or counts as the circuit's layers have them, `nothing` where a layer has none."
function circuit_params(program::Program, arrays)
    return map(program.plans, arrays) do plan, array
        isempty(array) && return nothing
        host = Array(array)
        return plan isa InputPlan ? permutedims(host[:, 2:end, :], (2, 1, 3)) : copy(host)
    end
end

"""
    evaluate!(pass, x, evidence)

log p of every column of `x`: float64 `[roots, N]` on the host.
"""
function evaluate!(pass::Pass, x::AbstractMatrix, evidence::Evidence)
    scores = Matrix{Float64}(undef, pass.program.num_roots, size(x, 2))
    for rows in cut_rows(size(x, 2), min(micro_batch(pass), EVALUATION_ROWS))
        load!(pass, x, rows)
        observe!(pass, evidence, rows)
        upward!(pass)
        permutedims!(view(scores, :, rows), Array(scores!(pass)), (2, 1))
        doubts = doubtful(pass)
        isempty(doubts) && continue
        again = rows[doubts]
        scores[:, again] = rescore!(double_pass!(pass), x, evidence, again)
    end
    return scores
end

function rescore!(pass::Pass{Float64}, x, evidence, rows)
    scores = Matrix{Float64}(undef, pass.program.num_roots, length(rows))
    for part in cut_rows(length(rows), micro_batch(pass))
        load!(pass, x, rows[part])
        observe!(pass, evidence, rows[part])
        upward!(pass)
        permutedims!(view(scores, :, part), Array(scores!(pass)), (2, 1))
    end
    return scores
end

function upward!(pass::Pass)
    flip_shared!(pass)
    for plan in pass.program.plans
        up!(pass, plan)
    end
    return pass
end

"""
    new_counts(pass, frozen = Int[])

Zeroed counts in the shape of the parameters; empty for frozen layers.
"""
function new_counts(pass::Pass, frozen = Int[])
    return map(eachindex(pass.params), pass.params) do i, array
        i in frozen ? similar(array, (0, 0, 0)) : fill!(similar(array), 0)
    end
end

"""
Rows to train on, on the device: `x` `[num_vars, N]`, weights `[N, roots]`, latent evidence.
"""
struct Rows{X<:AbstractMatrix,W<:AbstractMatrix}
    x::X
    weights::W
    evidence::Evidence
end

"""
    collect!(pass, counts, rows, columns)

Add the flows of some columns of `rows` to `counts`; returns Σ weight · log p. Counts are
sums over rows, so a batch may be cut anywhere.
"""
function collect!(pass::Pass, counts, rows::Rows, columns)
    total = 0.0
    for part in cut_rows(length(columns), micro_batch(pass))
        total += collect_part!(pass, counts, rows, view(columns, part))
    end
    add_extra!(pass, counts)
    return total
end

"Both passes over some columns; in halves where memory does not last for the upward one."
function collect_part!(pass::Pass, counts, rows::Rows, columns)
    weights = try
        load!(pass, rows.x, columns)
        observe!(pass, rows.evidence, columns)
        upward!(pass)
        take_weights!(pass, rows.weights, columns)
    catch err
        is_out_of_memory(err) && length(columns) > 1 || rethrow()
        halve_limit!(pass, length(columns))
        return collect!(pass, counts, rows, columns)
    end
    return count_batch!(pass, counts, weights, rows, columns)
end

"Take half as many rows at once from now on, and give the buffers back."
function halve_limit!(pass::Pass, rows)
    pass.limit = max(1, rows ÷ 2)
    for buffers in
        (pass.tiles, pass.edges, pass.masks, pass.flows, pass.scales, pass.errors)
        foreach(release!, buffers)
    end
    foreach(release!, (pass.codes, pass.scratch, pass.incoming, pass.scores))
    GC.gc()
    @warn "Out of memory: continuing with $(pass.limit) rows at a time."
    return pass
end

"The downward pass after an upward one. Doubtful columns are counted in double precision."
function count_batch!(pass::Pass, counts, weights, rows, columns)
    total = 0.0
    doubts = doubtful(pass)
    if !isempty(doubts)
        weights[doubts, :] .= 0
        total += collect_double!(pass, counts, rows, collect(columns)[doubts])
    end
    total += weigh_scores!(weights, scores!(pass))
    downward!(pass, counts, weights)
    return total
end

"""
Counts without their factor θ stay in the range of float32: one of θ = 1e-36 is cut at 100.
"""
const LARGEST_RATIO = 1e38

function collect_double!(pass::Pass, counts, rows, columns)
    double = double_pass!(pass)
    if isempty(double.extra)
        append!(double.extra, (fill!(similar(c, Float64), 0) for c in counts))
    end
    pass.has_extra = true
    return collect!(double, double.extra, rows, columns)
end

"Add what columns in double precision have counted."
function add_extra!(pass::Pass, counts)
    pass.has_extra || return counts
    pass.has_extra = false
    for (tally, extra) in zip(counts, pass.double.extra)
        isempty(tally) && continue
        tally .= min.(tally .+ min.(extra, LARGEST_RATIO), LARGEST_RATIO)
        fill!(extra, 0)
    end
    return counts
end

"The weights `[columns, roots]` of the batch, a copy."
function take_weights!(pass::HostPass, weights::Matrix, columns)
    taken = sized!(pass.incoming, pass.batch, pass.program.num_roots, 1)
    for root in axes(weights, 2), (n, column) in enumerate(columns)
        taken[n, root, 1] = weights[column, root]
    end
    return reshape(taken, pass.batch, :)
end
function take_weights!(pass::Pass{T}, weights::AbstractMatrix, columns) where {T}
    return T.(weights[columns, :])
end

"Σ weight · score; columns that are impossible under a root lose their weight there."
function weigh_scores!(weights::Matrix, scores::Matrix)
    total = 0.0
    for k in eachindex(weights, scores)
        weights[k] > 0 && (total += weights[k] * scores[k])
        scores[k] == -Inf && (weights[k] = 0)
    end
    return total
end
function weigh_scores!(weights::AbstractMatrix, scores::AbstractMatrix)
    total = sum(ifelse.(weights .> 0, weights .* scores, 0.0))
    weights .= ifelse.(scores .== -Inf, 0, weights)
    return total
end
