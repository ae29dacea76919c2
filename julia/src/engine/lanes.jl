# Loops over a column's values, as vector instructions even where they are few.

"""
    each_lane(body, count)

Call `body(k)` for k in `1:count`, in any order. Few are taken [`LANES`](@ref) at a time, a
number that the compiler knows, so that short loops become vector instructions, too.
"""
@inline function each_lane(body::F, count::Int) where {F}
    whole = in_lanes(count)
    for before = 0:LANES:(whole-1)
        @simd ivdep for k = 1:LANES
            body(before + k)
        end
    end
    @simd ivdep for k = (whole+1):count
        body(k)
    end
    return nothing
end

"Values that a vector instruction takes, or two."
const LANES = 16

"How many of `count` values are taken in whole lanes: none of many, which need no help."
@inline in_lanes(count::Int) = count < 4 * LANES ? count & ~(LANES - 1) : 0

"""
    extremes(values, start, count)

The smallest and largest of `values[start + 1]` … `values[start + count]`, none of them
negative. They are compared as integers, which has the same order and compiles to vector
instructions.
"""
@inline function extremes(values::Array{T}, start::Int, count::Int) where {T}
    I = bits_type(T)
    low, top = typemax(I), zero(I)
    whole = in_lanes(count)
    @inbounds for at = start:LANES:(start+whole-1)
        some, most = typemax(I), zero(I)
        @simd for k = 1:LANES
            bits = reinterpret(I, values[at+k])
            some, most = min(some, bits), max(most, bits)
        end
        low, top = min(low, some), max(top, most)
    end
    @inbounds @simd for i = (start+whole+1):(start+count)
        bits = reinterpret(I, values[i])
        low = min(low, bits)
        top = max(top, bits)
    end
    return reinterpret(T, low), reinterpret(T, top)
end

@inline extremes(values::Array, ::Nothing, start::Int, count::Int) =
    extremes(values, start, count)

"The same where entries that are zero in `mask` do not count as small."
@inline function extremes(
    values::Array{T},
    mask::Array{T},
    start::Int,
    count::Int,
) where {T}
    I = bits_type(T)
    low, top = typemax(I), zero(I)
    @inbounds @simd for i = (start+1):(start+count)
        bits = reinterpret(I, values[i])
        low = min(low, ifelse(mask[i] > 0, bits, typemax(I)))
        top = max(top, bits)
    end
    return reinterpret(T, low), reinterpret(T, top)
end

"The sum of some values."
@inline function sum_column(values::Array{T}, start::Int, count::Int) where {T}
    found, whole = zero(T), in_lanes(count)
    @inbounds for at = start:LANES:(start+whole-1)
        @simd for k = 1:LANES
            found += values[at+k]
        end
    end
    @inbounds @simd for k = (start+whole+1):(start+count)
        found += values[k]
    end
    return found
end

"Whether any entry, none of them negative, lies below `limit`."
any_below(values::Array, limit) = first(extremes(values, 0, length(values))) < limit
any_below(values::AbstractArray, limit) = minimum(values; init = one(limit)) < limit
