# Product layers on the way up.
#
# All factors are at most one, so a product's entry that underflows is truly below the
# smallest normal number and matters only where the whole tile is tiny. Columns whose
# maximum is below the cube root of that number are redone with mantissas and exponents
# apart (`redo_column!`).

weakest(::Type{T}) where {T} = cbrt(floatmin(T))

function up!(pass::HostPass, plan::ProductPlan)
    tile, scale = start_tile!(pass, plan)
    inherits = any(i -> pass.lossy[i], plan.below)
    error = sized!(pass.errors[plan.layer], pass.batch, plan.blocks)
    sized!(pass.mantissas, plan.width, Threads.nthreads())
    sized!(pass.exponents, plan.width, Threads.nthreads())
    lost = each_slab(pass.batch, plan.blocks, 4 * length(tile)) do b, columns, part
        multiply!(tile, scale, pass, plan, b, columns)
        if pass.masked[plan.layer]
            mask = pass.masks[plan.layer].array
            times_mask!(tile, mask, b, columns)
            return normalise_masked!(tile, scale, error, pass, plan, b, columns, mask, part)
        end
        return normalise!(tile, scale, error, pass, plan, b, columns, inherits, part)
    end
    pass.lossy[plan.layer] = lost
    return nothing
end

# The product itself -----------------------------------------------------------------------

function multiply!(tile, scale, pass, plan, b, columns)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    if plan.kind === :hadamard
        for k in children
            i, place, first = Int(plan.sources[k]), Int(plan.places[k]), k == children[1]
            if has_tile(pass, i)
                times_tile!(tile, b, pass.tiles[i].array, place, columns, first)
                add_scale!(scale, b, pass.scales[i].array, place, columns)
            else
                times_leaf!(tile, b, pass, i, place, columns, first)
            end
        end
    elseif plan.kind === :kronecker
        multiply_outer!(tile, scale, pass, plan, b, columns, children)
    else
        list_nodes!(tile, scale, pass, plan, b, columns, children)
    end
    return nothing
end

@inline function times_tile!(tile, b, source, place, columns, first)
    width, batch = size(tile, 1), size(tile, 2)
    before = width * (columns[1] - 1)
    at, from = width * batch * (b - 1) + before, width * batch * (place - 1) + before
    if first
        copyto!(tile, at + 1, source, from + 1, width * length(columns))
    else
        @inbounds @simd ivdep for k = 1:(width*length(columns))
            tile[at+k] *= source[from+k]
        end
    end
    return nothing
end

@inline function add_scale!(scale, b, source, place, columns)
    @inbounds @simd ivdep for n in columns
        scale[n, b] += source[n, place]
    end
    return nothing
end

function multiply_outer!(tile, scale, pass, plan, b, columns, children)
    i, j = Int(plan.sources[children[1]]), Int(plan.sources[children[2]])
    p, q = Int(plan.places[children[1]]), Int(plan.places[children[2]])
    first, second = pass.tiles[i].array, pass.tiles[j].array
    inner = size(second, 1)
    @inbounds for n in columns, u in axes(first, 1)
        factor, low = first[u, n, p], inner * (u - 1)
        @simd ivdep for v = 1:inner
            tile[low+v, n, b] = factor * second[v, n, q]
        end
    end
    add_scale!(scale, b, pass.scales[i].array, p, columns)
    add_scale!(scale, b, pass.scales[j].array, q, columns)
    return nothing
end

"`:concat`: all children on the scale of the largest."
function list_nodes!(tile::Array{T}, scale, pass, plan, b, columns, children) where {T}
    @inbounds for n in columns
        common = -Inf
        for k in children
            common = max(common, pass.scales[plan.sources[k]].array[n, plan.places[k]])
        end
        common = isfinite(common) ? common : 0.0
        for k in children
            source, place, low =
                pass.tiles[plan.sources[k]].array, plan.places[k], plan.lows[k]
            shift = pass.scales[plan.sources[k]].array[n, place] - common
            factor = power_of_two(T, shift)
            @simd ivdep for w in axes(source, 1)
                tile[low+w, n, b] = source[w, n, place] * factor
            end
        end
        scale[n, b] = common
    end
    return nothing
end

# Normalising ------------------------------------------------------------------------------

"""
Give each column of block `b` a maximum from 0.5 to 1, and bound what underflow took from
it. Returns whether it took anything.
"""
function normalise!(
    tile::Array{T},
    scale,
    error,
    pass,
    plan,
    b,
    columns,
    inherits,
    part,
) where {T}
    width, batch, lost = size(tile, 1), size(tile, 2), false
    tiny, weak = floatmin(T), weakest(T)
    @inbounds for n in columns
        at = width * (n - 1 + batch * (b - 1))
        low, top = extremes(tile, at, width)
        power = 0.0
        if top < weak
            power = redo_column!(tile, pass, plan, n, b, part)
            low, _ = extremes(tile, at, width)
            loss = low < tiny ? Float64(tiny) : 0.0
        else
            power = Float64(power_of(top))
            factor = power_of_two(T, -power)
            @simd ivdep for k = (at+1):(at+width)
                tile[k] *= factor
            end
            loss = low < tiny ? tiny * exp2(-power) : 0.0
        end
        inherits && (loss += inherited_loss(pass, plan, n, b, power))
        scale[n, b] += power
        error[n, b] = loss
        lost |= loss > 0
    end
    return lost
end

"The same under latent evidence, whose zeros are exact."
function normalise_masked!(
    tile::Array{T},
    scale,
    error,
    pass,
    plan,
    b,
    columns,
    mask,
    part,
) where {T}
    inherits = any(i -> pass.lossy[i], plan.below)
    lost = false
    for n in columns
        column, allowed = view(tile, :, n, b), view(mask, :, n, b)
        top = maximum(column)
        power = 0.0
        if top < weakest(T)
            power = redo_column!(tile, pass, plan, n, b, part)
        else
            power = Float64(power_of(top))
            column .*= power_of_two(T, -power)
        end
        divisor = top < weakest(T) ? 1.0 : exp2(power)
        low = smallest_allowed(column, allowed)
        loss = low * divisor < floatmin(T) ? floatmin(T) / divisor : 0.0
        inherits && (loss += inherited_loss(pass, plan, n, b, power))
        scale[n, b] += power
        error[n, b] = loss
        lost |= loss > 0
    end
    return lost
end

"The least value of a column, exact zeros of the evidence apart."
function smallest_allowed(column, allowed)
    low = typemax(eltype(column))
    @inbounds for w in eachindex(column, allowed)
        low = ifelse(allowed[w] > 0, min(low, column[w]), low)
    end
    return low
end

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
