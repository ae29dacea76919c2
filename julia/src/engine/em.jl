# M-steps: how counts become parameters, in place.

"Turn collected counts into expected counts, in place."
function finish_counts!(pass::Pass, counts)
    for (plan, θ, flow) in zip(pass.program.plans, pass.params, counts)
        isempty(flow) && continue
        if plan isa SumPlan
            times_weights!(flow, θ)
        else
            view(flow, :, 1, :) .= 0
        end
    end
    return counts
end

"""
Multiply the counts of weights by these; where a weight is zero, counts without it may have left
the range of numbers.
"""
times_weights!(flow::AbstractArray{T}, θ) where {T} =
    flow .= min.(flow, T(LARGEST_RATIO)) .* θ

"Expect the missing values too: the flow of a missing value counts θ for each category."
function spread_missing!(pass::Pass, counts)
    for (plan, θ, flow) in zip(pass.program.plans, pass.params, counts)
        plan isa InputPlan && !isempty(flow) || continue
        view(flow, :, 2:size(flow, 2), :) .+= flow[:, 1:1, :] .* view(θ, :, 2:size(θ, 2), :)
    end
    return counts
end

"""
    m_step!(pass, counts, η, pseudocount)

θ ← (1 - η)·θ + η·normalise(counts + pseudocount / siblings), in place; counts are set to
zero.

`counts` are as the downward pass collects them. A row without flow stays as it is, before
pseudocounts. η = 1 is full-batch EM. The columns of leaves that are not categorical are then
brought back into their [`Family`](@ref).
"""
function m_step!(pass::Pass, counts, η::Real, pseudocount::Real)
    for (plan, θ, flow) in zip(pass.program.plans, pass.params, counts)
        isempty(flow) && continue
        T = eltype(θ)
        if plan isa InputPlan
            in_family!(plan.family, θ, flow) do
                return step_table!(θ, flow, T(η), T(pseudocount))
            end
        else
            families = pass.program.families[plan.layer]
            step_weights!(θ, flow, families, T(η), T(pseudocount))
        end
    end
    params_changed!(pass)
    return nothing
end

"""
    in_family!(step!, family, θ, flow)

Pool the counts, take a categorical's step, and project the columns that it has moved.
"""
in_family!(step!, ::Categorical, θ, flow) = step!()

function in_family!(step!, family::Family, θ, flow)
    columns(table) = permutedims(Array(table)[:, 2:end, :], (2, 1, 3))
    set!(table, new) = copyto!(
        view(table, :, 2:size(table, 2), :),
        convert(typeof(similar(table)), permutedims(new, (2, 1, 3))),
    )
    set!(flow, pool(family, columns(flow)))
    old = columns(θ)
    step!()
    is_constrained(family) || return θ
    new = columns(θ)
    still = all(new .== old; dims = 1)
    set!(θ, ifelse.(still, old, project!(family, copy(new), old)))
    return θ
end

"""
The share of the old parameter, the rate of counts and what is added, for a row of this
total.

What is kept and what is new add up to one exactly, or rows would drift by rounding.
"""
@inline function blend(total::T, siblings, η::T, pseudocount::T) where {T}
    keep = ifelse(total > 0, one(T) - η, one(T))
    rate = ifelse(total > 0, (one(T) - keep) / (total + pseudocount), zero(T))
    return keep, rate, rate * (pseudocount / siblings)
end

"Columns added up by themselves: a vocabulary's sum, number by number, is off by 1e-5."
const COLUMNS_TOGETHER = 256

"How many of some columns make one long enough for vector instructions, where they follow."
function columns_in_one(number, width, columns)
    number == width || return 1
    together = 1
    while 2 * together * width <= 8 * LANES && columns % (2 * together) == 0
        together *= 2
    end
    return together
end

function step_table!(θ::Array{T,3}, flow::Array{T,3}, η::T, pseudocount::T) where {T}
    width, columns, groups = size(θ)
    rows = zeros(T, max(width, 8 * LANES), 4, Threads.nthreads())
    each_slab(width, groups, 4 * length(θ)) do g, nodes, part
        together = columns_in_one(length(nodes), width, columns - 1)
        number = length(nodes) * together
        keep = size(rows, 1) * 4 * (part - 1)
        rate, add, some = (keep + size(rows, 1) * k for k = 1:3)
        column(c) = first(nodes) - 1 + width * (c - 1 + columns * (g - 1))
        each_lane(w -> @inbounds(rows[keep+w] = 0), number)
        for left = 2:COLUMNS_TOGETHER:columns
            each_lane(w -> @inbounds(rows[some+w] = 0), number)
            for c = left:together:min(left + COLUMNS_TOGETHER - 1, columns)
                at = column(c)
                each_lane(w -> @inbounds(rows[some+w] += flow[at+w]), number)
            end
            each_lane(w -> @inbounds(rows[keep+w] += rows[some+w]), number)
        end
        @inbounds for w in eachindex(nodes)
            places = w:length(nodes):number
            total = sum(k -> @inbounds(rows[keep+k]), places)
            kept = blend(total, columns - 1, η, pseudocount)
            for k in places
                rows[keep+k], rows[rate+k], rows[add+k] = kept
            end
        end
        for c = 2:together:columns
            at = column(c)
            each_lane(number) do w
                @inbounds begin
                    fresh = muladd(rows[rate+w], flow[at+w], rows[add+w])
                    θ[at+w] = muladd(rows[keep+w], θ[at+w], fresh)
                    flow[at+w] = 0
                end
            end
        end
        flow[nodes, 1, g] .= 0
        return false
    end
    return θ
end

function step_table!(θ::AbstractArray{T,3}, flow, η::T, pseudocount::T) where {T}
    probs, counted = view(θ, :, 2:size(θ, 2), :), view(flow, :, 2:size(θ, 2), :)
    total = T.(sum(Float64, counted; dims = 2))
    step_rows!(probs, counted, total, size(probs, 2), η, pseudocount)
    fill!(flow, 0)
    return θ
end

"The broadcast form of a step: `total` and `siblings` are those of each entry's row."
function step_rows!(θ, counted, total, siblings, η::T, pseudocount::T) where {T}
    seen = total .> 0
    keep = one(T) - η
    rate = ifelse.(seen, (one(T) - keep) ./ (total .+ pseudocount), zero(T))
    θ .= ifelse.(seen, keep, one(T)) .* θ .+ rate .* (counted .+ pseudocount ./ siblings)
    return θ
end

function step_weights!(
    θ::Array{T,3},
    flow::Array{T,3},
    families,
    η::T,
    pseudocount::T,
) where {T}
    isempty(families.family) || return step_families!(θ, flow, families, η, pseudocount)
    width_in, width, groups = size(θ)
    each_slab(width, groups, 4 * length(θ)) do g, nodes, _
        for o in nodes
            at = width_in * (o - 1 + width * (g - 1))
            each_lane(width_in) do i
                @inbounds flow[at+i] = min(flow[at+i], T(LARGEST_RATIO)) * θ[at+i]
            end
            total = sum_column(flow, at, width_in)
            keep, rate, add = blend(total, width_in, η, pseudocount)
            each_lane(width_in) do i
                @inbounds begin
                    θ[at+i] = muladd(keep, θ[at+i], muladd(rate, flow[at+i], add))
                    flow[at+i] = 0
                end
            end
        end
        return false
    end
    return θ
end

function step_weights!(
    θ::AbstractArray{T,3},
    flow,
    families,
    η::T,
    pseudocount::T,
) where {T}
    isempty(families.family) || return step_families!(θ, flow, families, η, pseudocount)
    times_weights!(flow, θ)
    step_rows!(θ, flow, sum(flow; dims = 1), size(θ, 1), η, pseudocount)
    fill!(flow, 0)
    return θ
end

function step_families!(θ, flow, families, η, pseudocount)
    times_weights!(flow, θ)
    totals, siblings = family_totals(flow, families)
    step_rows!(θ, flow, totals, siblings, η, pseudocount)
    fill!(flow, 0)
    return θ
end

"""
Row totals `[1, width out, groups]` over all edges of a block, and the entries a total is
over.
"""
function family_totals(flow::AbstractArray{T,3}, families) where {T}
    rows = sum(flow; dims = 1)
    isempty(families.family) && return rows, size(flow, 1)
    totals = fill!(similar(rows, T, 1, size(rows, 2), families.count), 0)
    for link in families.members
        view(totals, :, :, link.readers) .+= rows[:, :, link.children]
    end
    siblings =
        copyto!(similar(rows, T, 1, 1, length(families.siblings)), T.(families.siblings))
    return totals[:, :, families.family_there], siblings
end

"""
    anemone_step!(pass, counts, average, correction, prior, η, pseudocount)

θ ∝ η·(average / correction + pseudocount / siblings) + (1 - η)·prior, in place (arXiv
2505.19982).

All are expected counts: `counts` of the batch, `average / correction` their mean over
batches, and `prior` of as many draws from the circuit itself. Rows without flow in the
batch stay as they are. Leaves follow their [`Family`](@ref) as in `m_step!`.
"""
function anemone_step!(pass::Pass, counts, average, correction, prior, η, pseudocount)
    for (i, plan) in enumerate(pass.program.plans)
        isempty(counts[i]) && continue
        θ, mean = pass.params[i], copy(average[i])
        step!() = anemone_layer!(
            θ,
            plan,
            pass.program.families[i],
            (counts[i], mean, prior[i]),
            correction,
            η,
            pseudocount,
        )
        plan isa InputPlan ? in_family!(step!, plan.family, θ, mean) : step!()
    end
    params_changed!(pass)
    return nothing
end

"Anemone's step of one layer; `arrays` are the batch's counts, their mean and the prior."
function anemone_layer!(θ, plan, families, arrays, correction, η, pseudocount)
    T, axis = eltype(θ), 1
    if plan isa InputPlan
        θ, arrays... = map(a -> view(a, :, 2:size(a, 2), :), (θ, arrays...))
        axis = 2
    end
    flow, mean, base = arrays
    totals(x) =
        axis == 2 ? (T.(sum(Float64, x; dims = 2)), size(x, 2)) : family_totals(x, families)
    total, siblings = totals(flow)
    η, scale, c = T(η), T(inv(correction)), T(pseudocount)
    fresh = η .* (scale .* mean .+ c ./ siblings) .+ (one(T) - η) .* base
    norm, _ = totals(fresh)
    θ .= ifelse.(total .> 0, fresh ./ norm, θ)
    return θ
end
