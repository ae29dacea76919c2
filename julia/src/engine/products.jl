# Product layers on the way up.
#
# All factors are at most one, so a product's entry that underflows is truly below the
# smallest normal number and matters only where the whole tile is tiny. Columns whose
# maximum is below the cube root of that number are redone with mantissas and exponents
# apart (`redo_column!`). An entry that is zero because a factor is has lost nothing.
#
# In single precision the largest value of a column is not brought to one but raised, so that
# values far below it have a place, too. Raised factors are multiplied first: what they lose is
# then below the smallest normal number in the end, unless a third one raises it again (`spills`).

weakest(::Type{T}) where {T} = cbrt(floatmin(T))

"""
The exponent to which columns are raised at most. Two such columns have a product in range,
and flows down to 2^-66 of a sample are told from none.
"""
const HIGHEST = 60

"The largest exponent of the factors of a product together."
const HIGHEST_PRODUCT = 2 * HIGHEST

"An exponent by which single precision raises values; double precision need not."
@inline raised(::Type{Float32}, power) = power
@inline raised(::Type{Float64}, power) = zero(power)

function up!(pass::HostPass, plan::ProductPlan)
    start_tile!(pass, plan)
    sized!(pass.errors[plan.layer], pass.batch, plan.blocks)
    sized!(pass.mantissas, plan.width, Threads.nthreads())
    sized!(pass.exponents, plan.width, Threads.nthreads())
    sized!(pass.marks, plan.width, Threads.nthreads())
    pass.lossy[plan.layer] = multiply_blocks!(pass, plan, start_mixing!(pass, plan))
    return nothing
end

"""
The products, and the values of the layer that mixes them as long as they are in a cache.
Returns whether underflow took anything.
"""
function multiply_blocks!(pass::HostPass, plan::ProductPlan, mixer)
    work = work_of(pass.tiles[plan.layer].array, mixer)
    return each_slab(pass.batch, plan.blocks, work) do b, columns, part
        lost = false
        isnothing(mixer) || flip_weights!(pass, mixer, b, columns, part)
        for some in portions(columns, columns_to_mix(mixer, columns))
            for few in portions(some, CACHED_VALUES ÷ plan.width)
                lost |= multiply_columns!(pass, plan, b, few, part)
            end
            isnothing(mixer) || mix_block!(pass, mixer, b, some, part)
        end
        return lost
    end
end

function multiply_columns!(pass, plan, b, columns, part)
    tile, scale = pass.tiles[plan.layer].array, pass.scales[plan.layer].array
    loss_bound, mask = pass.errors[plan.layer].array, pass.masks[plan.layer].array
    masked = pass.masked[plan.layer]
    plan.kind === :kronecker &&
        !masked &&
        return multiply_pairs!(tile, scale, loss_bound, pass, plan, b, columns)
    multiply!(tile, scale, pass, plan, b, columns)
    masked ||
        return normalise!(tile, scale, loss_bound, nothing, pass, plan, b, columns, part)
    times_mask!(tile, mask, b, columns)
    return normalise!(tile, scale, loss_bound, mask, pass, plan, b, columns, part)
end

"Values that stay in the first cache while a product goes over them several times."
const CACHED_VALUES = 1 << 12

"""
The sum layer whose values are computed along with a product layer's, its tile ready for
them, or `nothing`.
"""
function start_mixing!(pass::HostPass, plan::ProductPlan)
    plan.mixer == 0 && return nothing
    mixer = pass.program.plans[plan.mixer]::SumPlan{Vector{Int32}}
    sized!(pass.tiles[mixer.layer], mixer.width, pass.batch, mixer.blocks)
    sized!(pass.aside, mixer.width, mixer.width_in, Threads.nthreads())
    return mixer
end

work_of(tile, ::Nothing) = 4 * length(tile)
work_of(tile, mixer::SumPlan) = (4 + 2 * mixer.width) * length(tile)

# The product itself -----------------------------------------------------------------------

function multiply!(tile, scale, pass, plan, b, columns)
    children = plan.offsets[b]:(plan.offsets[b+1]-1)
    if plan.kind === :hadamard
        multiply_factors!(tile, scale, pass, plan, b, columns, children)
    elseif plan.kind === :kronecker
        multiply_outer!(tile, scale, pass, plan, b, columns)
    else
        list_nodes!(tile, scale, pass, plan, b, columns, children)
    end
    return nothing
end

function multiply_factors!(tile, scale, pass, plan, b, columns, children)
    vals, place = tile, 0  # the product so far, if any
    for k in children
        i, own = Int(plan.sources[k]), Int(plan.places[k])
        if !has_tile(pass, i)
            times_leaf!(tile, b, vals, place, pass, i, own, columns)
            vals, place = tile, b
            continue
        end
        factor = pass.tiles[i].array
        add_scale!(scale, b, pass.scales[i].array, own, columns)
        if place == 0
            vals, place = factor, own
        else
            times_tile!(tile, b, vals, place, factor, own, columns)
            vals, place = tile, b
        end
    end
    vals === tile || copy_block!(tile, b, vals, place, columns)
    return nothing
end

@inline function times_tile!(tile, b, vals, place, factor, own, columns)
    width, batch = size(tile, 1), size(tile, 2)
    before = width * (columns[1] - 1)
    at, i, j = (width * batch * (block - 1) + before for block in (b, place, own))
    @inbounds @simd ivdep for k = 1:(width*length(columns))
        tile[at+k] = vals[i+k] * factor[j+k]
    end
    return nothing
end

function copy_block!(tile, b, vals, place, columns)
    width, batch = size(tile, 1), size(tile, 2)
    at, from = (width * (columns[1] - 1 + batch * (block - 1)) + 1 for block in (b, place))
    copyto!(tile, at, vals, from, width * length(columns))
    return nothing
end

@inline function add_scale!(scale, b, source, place, columns)
    @inbounds @simd ivdep for n in columns
        scale[n, b] += source[n, place]
    end
    return nothing
end

"`:concat`: all children on the scale of the largest."
function list_nodes!(tile::Array{T}, scale, pass, plan, b, columns, children) where {T}
    @inbounds for n in columns
        common = scale_of_parts(pass, plan, n, children)
        for k in children
            source, place, low =
                pass.tiles[plan.sources[k]].array, plan.places[k], plan.lows[k]
            shift = pass.scales[plan.sources[k]].array[n, place] - common
            near, far = two_powers(T, shift)
            @simd ivdep for w in axes(source, 1)
                tile[low+w, n, b] = source[w, n, place] * near * far
            end
        end
        scale[n, b] = common
    end
    return nothing
end

# Normalising ------------------------------------------------------------------------------

"""
Raise the maximum of each column of block `b` to its lift or just below, and bound what
underflow took from it; zeros of the latent evidence `mask` are exact. Returns whether it took
anything.

A column of zeros gets the scale on which its bound is one, -Inf where it is exact.

Columns that are all near each other are raised by the same power.
"""
function normalise!(
    tile::Array{T},
    scale,
    loss_bound,
    mask,
    pass,
    plan,
    b,
    columns,
    part,
) where {T}
    width, batch, lost = size(tile, 1), size(tile, 2), false
    lift, spill = raised(T, plan.lifts[b]), power_of_two(T, raised(T, plan.spills[b]))
    tiny, weak = floatmin(T), weakest(T) * spill
    inherits = any(i -> pass.lossy[i], plan.below)
    before, number = width * (first(columns) - 1 + batch * (b - 1)), width * length(columns)
    lowest, highest = extremes(tile, before, number)
    steps = power_of(highest) - lift
    together =
        highest >= weak && lowest >= max(tiny * spill, power_of_two(T, steps - SPREAD))
    if together && !inherits
        raise_together!(tile, scale, loss_bound, before, number, b, columns, steps)
        return false
    end
    careful = lowest < tiny
    @inbounds for n in columns
        at = width * (n - 1 + batch * (b - 1))
        low, top =
            careful ? extremes(tile, mask, at, width) : (tiny, largest(tile, at, width))
        if top < weak
            power, loss = redo_weak!(tile, mask, pass, plan, n, b, part, top, lift)
        else
            lossy = low < tiny && underflowed(tile, mask, pass, plan, n, b, part)
            steps = power_of(top) - lift
            factor = normal_power(T, -steps)
            each_lane(w -> @inbounds(tile[at+w] *= factor), width)
            power = Float64(steps)
            loss = lossy ? tiny * Float64(spill) * power_of_two(Float64, -power) : 0.0
        end
        inherits && ((loss, power) = add_inherited(loss, power, pass, plan, n, b))
        scale[n, b] += power
        loss_bound[n, b] = loss
        lost |= loss > 0
    end
    return lost
end

"The exponent below which no value lies where columns are raised together is minus this."
const SPREAD = 16

function raise_together!(
    tile::Array{T},
    scale,
    loss_bound,
    before,
    number,
    b,
    columns,
    steps,
) where {T}
    factor = normal_power(T, -steps)
    @inbounds @simd ivdep for k = (before+1):(before+number)
        tile[k] *= factor
    end
    @inbounds @simd ivdep for n in columns
        scale[n, b] += steps
        loss_bound[n, b] = 0
    end
    return nothing
end
