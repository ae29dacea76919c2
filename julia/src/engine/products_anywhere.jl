# Product layers on the way up, as broadcasts: for arrays on any device (see products.jl).

function up!(pass::Pass{T}, plan::ProductPlan) where {T}
    tile, scale = start_tile!(pass, plan)
    common = add_scales!(scale, pass, plan)
    fill!(tile, 1)
    foreach(link -> times_link!(tile, pass, plan, link, common), plan.reads)
    mask = pass.masked[plan.layer] ? pass.masks[plan.layer].array : nothing
    isnothing(mask) || (tile .*= mask)
    lift, spill = raised.(T, by_block(plan.lifts)), raised.(T, by_block(plan.spills))
    top = largest(tile)
    weak = top .< weakest(T) .* power_of_two.(T, spill)
    power = Float64.(power_of.(top)) .- lift
    factor = ifelse.(weak, one(T), power_of_two.(T, .-power))
    if any(weak)
        logs = fill!(similar(tile, Float64), 0)
        foreach(link -> add_link_logs!(logs, pass, plan, link, common), plan.reads)
        isnothing(mask) || (logs .+= log2.(Float64.(mask)))
        peak = largest_log(logs)
        power .= ifelse.(weak, floor.(peak) .+ 1 .- lift, power)
        tile .= ifelse.(weak, exp2.(logs .- finite_or_zero.(power)), tile)
    end
    tile .*= factor
    scale .+= reshape(power, size(scale))
    bound_loss!(pass, plan, tile, power, weak, mask, common)
    return nothing
end

"Numbers of blocks as `[1, 1, blocks]`."
by_block(numbers) = reshape(numbers, 1, 1, :)

finite_or_zero(x) = ifelse(isfinite(x), x, zero(x))

"The largest value of each column, `[1, columns, blocks]`."
largest(tile::AbstractArray{T}) where {T} = Base.mapreducedim!(
    identity,
    max,
    fill!(similar(tile, T, 1, size(tile)[2:3]...), 0),
    tile,
)
largest_log(logs::AbstractArray{T}) where {T} = Base.mapreducedim!(
    identity,
    max,
    fill!(similar(logs, T, 1, size(logs)[2:3]...), -Inf),
    logs,
)
smallest(tile::AbstractArray{T}) where {T} = Base.mapreducedim!(
    identity,
    min,
    fill!(similar(tile, T, 1, size(tile)[2:3]...), Inf),
    tile,
)

"""
The children's scales, added up; for `:concat` the largest of them, which is returned as
`[1, columns, blocks]` (`nothing` for the other kinds).
"""
function add_scales!(scale, pass, plan)
    if plan.kind !== :concat
        for link in plan.reads
            has_tile(pass, link.layer) || continue
            view(scale, :, link.readers) .+= pass.scales[link.layer].array[:, link.children]
        end
        return nothing
    end
    fill!(scale, -Inf)
    for link in plan.reads
        part = view(scale, :, link.readers)
        part .= max.(part, pass.scales[link.layer].array[:, link.children])
    end
    scale .= finite_or_zero.(scale)
    return reshape(copy(scale), 1, size(scale)...)
end

"The values (width, columns, readers) of a link's children."
function child_values(pass, link)
    has_tile(pass, link.layer) && return pass.tiles[link.layer].array[:, :, link.children]
    return leaf_values(pass, pass.program.plans[link.layer]::InputPlan, link.children)
end

"The exponent by which a `:concat` child is below its block's scale."
function shift_of(pass, link, common)
    scale = pass.scales[link.layer].array[:, link.children]
    return reshape(scale, 1, size(scale)...) .- common[:, :, link.readers]
end

"The part of `tile` that a link's children are factors of."
function part_of(tile, pass, plan, link)
    width = pass.program.plans[link.layer].width
    plan.kind === :concat &&
        return view(tile, (link.low+1):(link.low+width), :, link.readers)
    return view(tile, :, :, link.readers)
end

"A Kronecker child's values repeated to the product's width."
function spread_nodes(vals, plan, link)
    plan.kind === :kronecker || return vals
    width, batch, readers = size(vals)
    other = plan.width ÷ width
    shape = link.slot == 2 ? (width, 1, batch, readers) : (1, width, batch, readers)
    repeats = link.slot == 2 ? (1, other, 1, 1) : (other, 1, 1, 1)
    return reshape(repeat(reshape(vals, shape), repeats...), plan.width, batch, readers)
end

function times_link!(tile, pass, plan, link, common)
    vals = spread_nodes(child_values(pass, link), plan, link)
    part = part_of(tile, pass, plan, link)
    isnothing(common) || times_power!(vals, shift_of(pass, link, common))
    part .*= vals
    return nothing
end

"Multiply values by powers of two, in the two steps of `two_powers`."
function times_power!(vals::AbstractArray{T}, exponents) where {T}
    vals .*= power_of_two.(T, max.(exponents, -126))
    vals .*= power_of_two.(T, min.(exponents .+ 126, 0))
    return vals
end

function add_link_logs!(logs, pass, plan, link, common)
    vals = spread_nodes(child_values(pass, link), plan, link)
    part = part_of(logs, pass, plan, link)
    if isnothing(common)
        part .+= log2.(Float64.(vals))
    else
        part .+= log2.(Float64.(vals)) .+ shift_of(pass, link, common)
    end
    return nothing
end

"Bound what underflow took from the tile; see `normalise!` and `inherited_loss`."
function bound_loss!(
    pass,
    plan,
    tile::AbstractArray{T},
    power,
    weak,
    mask,
    common,
) where {T}
    low = smallest(isnothing(mask) ? tile : ifelse.(mask .> 0, tile, typemax(T)))
    divisor = ifelse.(weak, 1.0, exp2.(power))
    least = Float64(floatmin(T)) .* exp2.(raised.(T, by_block(plan.spills)))
    loss = ifelse.(low .* divisor .< floatmin(T), least ./ divisor, 0.0)
    if any(i -> pass.lossy[i], plan.below)
        loss .+= inherited_losses(pass, plan, power, common)
    end
    lost = any(>(0), loss)
    if lost
        loss_bound = sized!(pass.errors[plan.layer], pass.batch, plan.blocks)
        loss_bound .= reshape(loss, size(loss_bound))
    end
    pass.lossy[plan.layer] = lost
    return nothing
end

function inherited_losses(pass, plan, power, common)
    ratios, tops = fill!(similar(power), 0), fill!(similar(power), 0)
    for link in plan.reads
        lost = child_errors(pass, link)
        part = view(ratios, :, :, link.readers)
        if plan.kind === :concat
            shift = shift_of(pass, link, common) .- power[:, :, link.readers]
            part .=
                max.(
                    part,
                    ifelse.(lost .> 0, unknown_as_infinite.(lost .* exp2.(shift)), 0.0),
                )
        else
            top = Float64.(largest(child_values(pass, link)))
            part .+= ifelse.(lost .> 0, log1p.(lost ./ top), 0.0)
            view(tops, :, :, link.readers) .+= log.(top)
        end
    end
    plan.kind === :concat && return ratios
    bound = unknown_as_infinite.(expm1.(ratios) .* exp.(tops .- power .* log(2.0)))
    return ifelse.(ratios .> 0, bound, 0.0)
end

unknown_as_infinite(bound) = ifelse(isnan(bound), oftype(bound, Inf), bound)

"The error bounds of a link's children, `[1, columns, readers]`."
function child_errors(pass, link)
    if pass.lossy[link.layer]
        loss_bound = pass.errors[link.layer].array[:, link.children]
        return reshape(loss_bound, 1, size(loss_bound)...)
    end
    like = pass.scales[link.layer].array
    return fill!(similar(like, Float64, 1, pass.batch, length(link.children)), 0)
end
