# What underflow would take away in products, on the CPU: columns that are redone, and bounds
# on what was lost (products_anywhere.jl has both for other arrays).

# What is redone with exponents apart ------------------------------------------------------

"""
Set a column from the mantissas and exponents of its factors, in double precision, with a
maximum from 0.5 to 1. Returns the power of two it is to be multiplied by on top of the
children's scales, -Inf where all is zero.
"""
@noinline function redo_column!(tile::Array{T}, pass, plan, n, b, part) where {T}
    mantissas = view(pass.mantissas.array, :, part)
    exponents = view(pass.exponents.array, :, part)
    fill!(mantissas, 0.5)
    fill!(exponents, 1)
    multiply_exactly!(mantissas, exponents, pass, plan, n, b)
    if pass.masked[plan.layer]
        mask = view(pass.masks[plan.layer].array, :, n, b)
        foreach(w -> times_exactly!(mantissas, exponents, w, mask[w]), eachindex(mask))
    end
    power = -Inf
    for w in eachindex(mantissas)
        power = ifelse(mantissas[w] > 0, max(power, exponents[w]), power)
    end
    common = finite_or_zero(power)
    for w in eachindex(mantissas)
        tile[w, n, b] = mantissas[w] * power_of_two(Float64, exponents[w] - common)
    end
    return power
end

"One more factor of node `w`; its mantissa stays from 0.5 to 1, or zero."
@inline function times_exactly!(mantissas, exponents, w, factor, shift = 0.0)
    bits = reinterpret(UInt64, Float64(factor))
    own = reinterpret(Float64, (bits & 0x000fffffffffffff) | 0x3fe0000000000000)
    product = mantissas[w] * ifelse(factor > 0, own, 0.0)
    low = product < 0.5
    mantissas[w] = ifelse(low, 2 * product, product)
    exponents[w] += power_of(Float64(factor)) - low + shift
    return nothing
end

function multiply_exactly!(mantissas, exponents, pass, plan, n, b)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    common = plan.kind === :concat ? scale_of_parts(pass, plan, n, children) : 0.0
    for k in children
        values, at, width = child_column(pass, plan, k, n)
        if plan.kind === :hadamard
            @inbounds @simd ivdep for w = 1:width
                times_exactly!(mantissas, exponents, w, values[at+w])
            end
        elseif plan.kind === :concat
            low, shift = Int(plan.lows[k]), child_scale(pass, plan, k, n) - common
            for w = 1:width
                times_exactly!(mantissas, exponents, low + w, values[at+w], shift)
            end
        else  # the second child's nodes run fastest
            fast, other = k == last(children), length(mantissas) ÷ width
            for w = 1:width, v = 1:other
                node = fast ? width * (v - 1) + w : other * (w - 1) + v
                times_exactly!(mantissas, exponents, node, values[at+w])
            end
        end
    end
    return nothing
end

child_scale(pass, plan, k, n) = pass.scales[plan.sources[k]].array[n, plan.places[k]]

"""
Where the values of a child are in column `n`: an array, how many come before, and how many
they are.
"""
function child_column(pass, plan, k, n)
    i, place = Int(plan.sources[k]), Int(plan.places[k])
    if has_tile(pass, i)
        tile = pass.tiles[i].array
        return tile, size(tile, 1) * (n - 1 + pass.batch * (place - 1)), size(tile, 1)
    end
    leaf = pass.program.plans[i]::InputPlan{Vector{Int32}}
    table = pass.params[i]
    return table,
    leaf.width * (leaf_column(leaf, pass.codes.array, n, place) - 1),
    leaf.width
end

# What the children lost -------------------------------------------------------------------

"""
The share of the children in a column's error bound, on the scale of the normalised column:
the product of (maximum + error) less that of the maxima; for `:concat` the largest of the
children's.
"""
@noinline function inherited_loss(pass, plan, n, b, power)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    ratios, tops, largest = 0.0, 0.0, 0.0
    common = scale_of_parts(pass, plan, n, children)
    for k in children
        i, place = Int(plan.sources[k]), Int(plan.places[k])
        lost = pass.lossy[i] ? pass.errors[i].array[n, place] : 0.0
        if plan.kind === :concat
            lost > 0 || continue
            shift = child_scale(pass, plan, k, n) - common - power
            largest = max(largest, or_unknown(lost * exp2(shift)))
        else
            _, top = extremes(child_column(pass, plan, k, n)...)
            tops += log(top)
            lost > 0 && (ratios += log1p(lost / top))
        end
    end
    plan.kind === :concat && return largest
    return ratios > 0 ? or_unknown(expm1(ratios) * exp(tops - power * log(2.0))) : 0.0
end

or_unknown(bound) = isnan(bound) ? Inf : bound

function scale_of_parts(pass, plan, n, children)
    plan.kind === :concat || return 0.0
    common = maximum(k -> child_scale(pass, plan, k, n), children)
    return isfinite(common) ? common : 0.0
end
