# What underflow would take away in products, on the CPU: columns that are redone, and bounds
# on what was lost (products_anywhere.jl has both for other arrays).

# What is exactly zero --------------------------------------------------------------------

"""
Whether an entry of a column is below the smallest normal number although none of its
factors is zero. Numbers are compared as bits, where a subnormal one is not zero.
"""
@noinline function underflowed(tile::Array{T}, mask, pass, plan, n, b, part) where {T}
    I, width = bits_type(T), size(tile, 1)
    marks, low, tiny = pass.marks.array, width * (part - 1), reinterpret(I, floatmin(T))
    at = width * (n - 1 + pass.batch * (b - 1))
    @inbounds @simd ivdep for w = 1:width
        marks[low+w] = reinterpret(I, tile[at+w]) < tiny
    end
    isnothing(mask) || keep_positive!(marks, low, mask, at, width)
    for k = plan.offsets[b]:(plan.offsets[b+1]-1)
        vals, from, number = child_column(pass, plan, k, n)
        if plan.kind === :hadamard
            keep_positive!(marks, low, vals, from, number)
        elseif plan.kind === :concat
            keep_positive!(marks, low + Int(plan.lows[k]), vals, from, number)
        else
            keep_positive_pairs!(marks, low, width, plan, k, b, vals, from, number)
        end
    end
    found = zero(Int32)
    @inbounds @simd for w = (low+1):(low+width)
        found |= marks[w]
    end
    return found != 0
end

"Take the marks away from nodes whose values are zero."
@inline function keep_positive!(marks, low, vals::Array{T}, from, number) where {T}
    @inbounds @simd ivdep for w = 1:number
        marks[low+w] &= reinterpret(bits_type(T), vals[from+w]) > 0
    end
    return nothing
end

"The same for the pairs of a Kronecker product's nodes."
function keep_positive_pairs!(
    marks,
    low,
    width,
    plan,
    k,
    b,
    vals::Array{T},
    from,
    number,
) where {T}
    for w = 1:number
        reinterpret(bits_type(T), vals[from+w]) > 0 && continue
        for node in pair_nodes(plan, k, b, w, number, width)
            marks[low+node] = 0
        end
    end
    return nothing
end

"The nodes of a Kronecker product with node `w` of its child `k`, one of `number`."
function pair_nodes(plan, k, b, w, number, width)
    other = width ÷ number
    fast = k == plan.offsets[b+1] - 1  # the second child's nodes run fastest
    return fast ? (w:number:width) : (other*(w-1)+1):1:(other*w)
end

# What is redone with exponents apart ------------------------------------------------------

"""
Redo a column whose maximum `top` is small, unless it is exactly zero. Returns its power of
two (see [`redo_column!`](@ref)) and a bound on what underflow took from it then.
"""
@noinline function redo_weak!(
    tile::Array{T},
    mask,
    pass,
    plan,
    n,
    b,
    part,
    top,
    lift,
) where {T}
    top > 0 || underflowed(tile, mask, pass, plan, n, b, part) || return -Inf, 0.0
    power = redo_column!(tile, pass, plan, n, b, part, lift)
    lossy = underflowed(tile, mask, pass, plan, n, b, part)
    isfinite(power) || return power, lossy ? Inf : 0.0
    return power, lossy ? Float64(floatmin(T)) : 0.0
end

"""
Set a column from the mantissas and exponents of its factors, in double precision, with a
maximum of 2^`lift` or just below. Returns the power of two it is to be multiplied by on top
of the children's scales, -Inf where all is zero.
"""
@noinline function redo_column!(tile::Array{T}, pass, plan, n, b, part, lift) where {T}
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
    power -= lift
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
        vals, at, width = child_column(pass, plan, k, n)
        if plan.kind === :hadamard
            @inbounds @simd ivdep for w = 1:width
                times_exactly!(mantissas, exponents, w, vals[at+w])
            end
        elseif plan.kind === :concat
            low, shift = Int(plan.lows[k]), child_scale(pass, plan, k, n) - common
            for w = 1:width
                times_exactly!(mantissas, exponents, low + w, vals[at+w], shift)
            end
        else
            for w = 1:width, node in pair_nodes(plan, k, b, w, width, length(mantissas))
                times_exactly!(mantissas, exponents, node, vals[at+w])
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
Add the children's share to a column's error bound, on the scale of the normalised column;
a column of zeros gets the power on which that is one.
"""
@noinline function add_inherited(loss, power, pass, plan, n, b)
    bound, shift =
        plan.kind === :concat ? largest_loss(pass, plan, n, b) :
        product_loss(pass, plan, n, b)
    bound > 0 || return loss, power
    power > -Inf && return loss + moved(bound, shift - power), power
    isfinite(bound + loss) || return Inf, power
    return 1.0, Float64(power_of(bound)) + shift
end

"""
The product of the children's (maximum + error) less that of their maxima, and the power of
two it is to be multiplied by.
"""
function product_loss(pass, plan, n, b)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    inherited = 0.0
    for k in children
        inherited += child_loss(pass, plan, k, n)
    end
    0 < inherited < Inf || return inherited, 0.0
    bound, tops, shift = 0.0, 1.0, 0.0
    for k in children
        lost = child_loss(pass, plan, k, n)
        _, top = extremes(child_column(pass, plan, k, n)...)
        bound = bound * (top + lost) + tops * lost
        tops *= top
        larger = max(bound, tops)
        if 0 < larger < 1e-150 || larger > 1e150
            power = power_of(larger)
            factor = power_of_two(Float64, -power)
            bound, tops, shift = bound * factor, tops * factor, shift + power
        end
    end
    return bound, shift
end

"The error bound of a child."
function child_loss(pass, plan, k, n)
    i = Int(plan.sources[k])
    return pass.lossy[i] ? pass.errors[i].array[n, plan.places[k]] : 0.0
end

"`:concat`: the largest of the children's bounds, on the scale of [`scale_of_parts`](@ref)."
function largest_loss(pass, plan, n, b)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    common, largest = scale_of_parts(pass, plan, n, children), 0.0
    for k in children
        lost = child_loss(pass, plan, k, n)
        largest = max(largest, moved(lost, child_scale(pass, plan, k, n) - common))
    end
    return largest, 0.0
end

"""
An error bound times 2^`shift`. It stays above zero; what is unknown stays infinite.
"""
function moved(bound, shift)
    0 < bound < Inf || return bound
    steps = unsafe_trunc(Int, clamp(shift, -3000, 3000))
    return max(ldexp(bound, steps), floatmin(Float64))
end

"The scale of a `:concat` column: that of its largest child, or of the largest bound."
@noinline function scale_of_parts(pass, plan, n, children)
    common = -Inf
    for k in children
        _, top = extremes(child_column(pass, plan, k, n)...)
        top > 0 && (common = max(common, child_scale(pass, plan, k, n)))
    end
    common > -Inf && return common
    for k in children
        lost = child_loss(pass, plan, k, n)
        0 < lost < Inf && (common = max(common, child_scale(pass, plan, k, n)))
    end
    return finite_or_zero(common)
end
