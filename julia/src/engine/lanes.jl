# Loops over a column's values, as vector instructions even where they are few.

"""
    each_lane(body, number)

Call `body(k)` for k in `1:number`, in any order. Few are taken [`LANES`](@ref) at a time, a
number that the compiler knows, so that short loops become vector instructions, too.
"""
@inline function each_lane(body::F, number::Int) where {F}
    whole = in_lanes(number)
    for before = 0:LANES:(whole-1)
        @simd ivdep for k = 1:LANES
            body(before + k)
        end
    end
    @simd ivdep for k = (whole+1):number
        body(k)
    end
    return nothing
end

"Values that a vector instruction takes, or two."
const LANES = 16

"How many of `number` values are taken in whole lanes: none of many, which need no help."
@inline in_lanes(number::Int) = number < 4 * LANES ? number & ~(LANES - 1) : 0

"""
    set_lanes!(f, into, at, a, i, b, j, number)

Set `into[at + k]` to `f(a[i + k], b[j + k])` for k in `1:number`. Few are all computed before
the first is stored, so that `into` may be anything and vector instructions do it all the same.
"""
@inline function set_lanes!(f::F, into, at, a, i, b, j, number::Int) where {F}
    done = in_lanes(number)
    for before = 0:LANES:(done-1)
        set_some!(f, into, at + before, a, i + before, b, j + before, Val(LANES))
    end
    if number - done >= LANES ÷ 2 && number < 4 * LANES
        set_some!(f, into, at + done, a, i + done, b, j + done, Val(LANES ÷ 2))
        done += LANES ÷ 2
    end
    @inbounds @simd ivdep for k = (done+1):number
        into[at+k] = f(a[i+k], b[j+k])
    end
    return nothing
end

@inline function set_some!(f::F, into, at, a, i, b, j, ::Val{N}) where {F,N}
    vals = ntuple(k -> @inbounds(f(a[i+k], b[j+k])), Val(N))
    foreach(k -> @inbounds(into[at+k] = vals[k]), ntuple(identity, Val(N)))
    return nothing
end

"""
    extremes(vals, start, number)

The smallest and largest of `vals[start + 1]` … `vals[start + number]`, none of them
negative. They are compared as integers, which has the same order and compiles to vector
instructions.
"""
@inline function extremes(vals::Array{T}, start::Int, number::Int) where {T}
    I = bits_type(T)
    low, top = typemax(I), zero(I)
    whole = in_lanes(number)
    @inbounds for at = start:LANES:(start+whole-1)
        some, most = typemax(I), zero(I)
        @simd for k = 1:LANES
            bits = reinterpret(I, vals[at+k])
            some, most = min(some, bits), max(most, bits)
        end
        low, top = min(low, some), max(top, most)
    end
    @inbounds @simd for i = (start+whole+1):(start+number)
        bits = reinterpret(I, vals[i])
        low = min(low, bits)
        top = max(top, bits)
    end
    return reinterpret(T, low), reinterpret(T, top)
end

"The largest of some values, none of them negative."
@inline largest(vals::Array, start::Int, number::Int) = last(extremes(vals, start, number))

@inline extremes(vals::Array, ::Nothing, start::Int, number::Int) =
    extremes(vals, start, number)

"The same where entries that are zero in `mask` do not count as small."
@inline function extremes(vals::Array{T}, mask::Array{T}, start::Int, number::Int) where {T}
    I = bits_type(T)
    low, top = typemax(I), zero(I)
    @inbounds @simd for i = (start+1):(start+number)
        bits = reinterpret(I, vals[i])
        low = min(low, ifelse(mask[i] > 0, bits, typemax(I)))
        top = max(top, bits)
    end
    return reinterpret(T, low), reinterpret(T, top)
end

"The sum of some values."
@inline function sum_column(vals::Array{T}, start::Int, number::Int) where {T}
    found, whole = zero(T), in_lanes(number)
    @inbounds for at = start:LANES:(start+whole-1)
        @simd for k = 1:LANES
            found += vals[at+k]
        end
    end
    @inbounds @simd for k = (start+whole+1):(start+number)
        found += vals[k]
    end
    return found
end

"Whether any entry, none of them negative, lies below `limit`."
any_below(vals::Array, limit) = first(extremes(vals, 0, length(vals))) < limit
any_below(vals::AbstractArray, limit) = minimum(vals; init = one(limit)) < limit
