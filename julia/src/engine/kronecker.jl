# Kronecker products on the CPU: all pairs of two blocks' nodes, in one visit. The second
# child's nodes run fastest.

"The layers and places of the two children of block `b`."
function pair_of(plan, b)
    k = Int(plan.offsets[b])
    i, j = Int(plan.sources[k]), Int(plan.sources[k+1])
    return i, Int(plan.places[k]), j, Int(plan.places[k+1])
end

"""
The products of all pairs, each factor brought to a maximum from 0.5 to 1 before, so that
none has to be redone; they are on their scale, and bounded, then. Returns whether underflow
took anything.
"""
function multiply_pairs!(
    tile::Array{T},
    scale,
    loss_bound,
    pass,
    plan,
    b,
    columns,
) where {T}
    i, p, j, q = pair_of(plan, b)
    left, right = pass.tiles[i].array, pass.tiles[j].array
    outer, inner, batch = size(left, 1), size(right, 1), pass.batch
    inherits, lost = pass.lossy[i] || pass.lossy[j], false
    for n in columns
        low, power, factor = range_of(left, outer * (n - 1 + batch * (p - 1)), outer)
        other_low, other_power, other_factor =
            range_of(right, inner * (n - 1 + batch * (q - 1)), inner)
        from, to = inner * (n - 1 + batch * (q - 1)), n - 1 + batch * (b - 1)
        for u = 1:outer
            value, before = @inbounds(left[u, n, p]) * factor, inner * (u - 1 + outer * to)
            each_lane(inner) do v
                @inbounds tile[before+v] = value * (right[from+v] * other_factor)
            end
        end
        power += other_power
        loss = low * other_low < floatmin(T) && power > -Inf ? Float64(floatmin(T)) : 0.0
        inherits && ((loss, power) = add_inherited(loss, power, pass, plan, n, b))
        @inbounds scale[n, b] += power
        @inbounds loss_bound[n, b] = loss
        lost |= loss > 0
    end
    add_scale!(scale, b, pass.scales[i].array, p, columns)
    add_scale!(scale, b, pass.scales[j].array, q, columns)
    return lost
end

"""
Of some values: the least that is not zero, brought to a maximum from 0.5 to 1; the power of
two that was above it, -Inf where all are zero; and the factor that brings them there.
"""
@inline function range_of(vals::Array{T}, start::Int, number::Int) where {T}
    I = bits_type(T)
    low, top = typemax(I), zero(I)
    @inbounds @simd for k = (start+1):(start+number)
        bits = reinterpret(I, vals[k])
        low = min(low, ifelse(bits > 0, bits, typemax(I)))
        top = max(top, bits)
    end
    top > 0 || return one(T), -Inf, zero(T)
    power = power_of(reinterpret(T, top))
    factor = power_of_two(T, -power)
    return reinterpret(T, low) * factor, Float64(power), factor
end

"The products of all pairs as they are, for latent evidence to come."
function multiply_outer!(tile, scale, pass, plan, b, columns)
    i, p, j, q = pair_of(plan, b)
    left, right = pass.tiles[i].array, pass.tiles[j].array
    inner = size(right, 1)
    @inbounds for n in columns, u in axes(left, 1)
        factor, low = left[u, n, p], inner * (u - 1)
        @simd ivdep for v = 1:inner
            tile[low+v, n, b] = factor * right[v, n, q]
        end
    end
    add_scale!(scale, b, pass.scales[i].array, p, columns)
    add_scale!(scale, b, pass.scales[j].array, q, columns)
    return nothing
end

"Hand the flow to both children at once, where neither is an input."
function hand_pairs!(pass::HostPass, plan::ProductPlan, flow::Array, counts)
    any(i -> pass.program.plans[i] isa InputPlan, plan.below) &&
        return @invoke hand_pairs!(pass::Pass, plan::ProductPlan, flow, counts)
    threaded(pass.batch, 4 * length(flow)) do columns, _
        for b = 1:plan.blocks
            i, p, j, q = pair_of(plan, b)
            into, other = pass.flows[i].array, pass.flows[j].array
            push_columns!(into, p, other, q, flow, b, columns)
        end
        return false
    end
    return nothing
end

function push_columns!(into::Array{T}, p, other, q, flow, b, columns) where {T}
    outer, inner, batch = size(into, 1), size(other, 1), size(into, 2)
    for n in columns
        to, from = inner * (n - 1 + batch * (q - 1)), n - 1 + batch * (b - 1)
        for u = 1:outer
            before = inner * (u - 1 + outer * from)
            each_lane(v -> @inbounds(other[to+v] += flow[before+v]), inner)
            @inbounds into[u, n, p] += sum_column(flow, before, inner)
        end
    end
    return nothing
end
