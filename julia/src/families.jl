# Leaf families: what the rows of an input layer's table may be.

"""
    Family

Constraints on the columns of an input layer's table of probabilities.

Every pass reads the table alone. A family enters an M-step in two places:

    counts ← pooled counts
    target ← (1 - η)·θ + η·normalise(counts + pseudocount / categories)
    θ      ← the best column of the family for the target, found from θ

The last is no worse than θ, Σ target·log θ, and leaves columns of the family as they are.
So full-batch EM without pseudocounts never lowers the likelihood; with η < 1 the old column
holds the new one back, which for exponential families is online EM on their statistics.

A family has the methods [`pool`](@ref), [`is_constrained`](@ref), [`project!`](@ref) and
[`parameters_per_row`](@ref); its fields are its options, named as in files.
"""
abstract type Family end

"A probability of its own for every value; with two values, the Bernoulli distribution."
struct Categorical <: Family end

"""
    Smooth(bandwidth = 0.1)

A probability for every value, estimated from the counts of its neighbours, too: each count is
spread with the standard deviation `bandwidth` times the width of its column, 0.282 / Σ p²,
and a tenth of it eight times as far.
"""
struct Smooth <: Family
    bandwidth::Float64

    function Smooth(bandwidth = 0.1)
        0 < bandwidth <= 100 ||
            refuse("bandwidth is $bandwidth; it must be above 0, at most 100.")
        return new(bandwidth)
    end
end

"""
Families whose columns are (1 - ε)·shape + ε·uniform, ε being the field `uniform`; the shape
has few numbers. Projecting is one EM step of that mixture.
"""
abstract type Parametric <: Family end

"""
    Binomial(uniform = 0.001)

How many of `categories - 1` trials succeed: one number per column.
"""
struct Binomial <: Parametric
    uniform::Float64

    Binomial(uniform = 1e-3) = new(check_uniform(uniform))
end

"""
    Gaussian(uniform = 0.001)

A Gaussian hump over ordered values, or a hollow: two numbers per column.
"""
struct Gaussian <: Parametric
    uniform::Float64

    Gaussian(uniform = 1e-3) = new(check_uniform(uniform))
end

"""
    Logistic(uniform = 0.001)

The discretised logistic distribution with open ends: location and scale per column.
"""
struct Logistic <: Parametric
    uniform::Float64

    Logistic(uniform = 1e-3) = new(check_uniform(uniform))
end

function check_uniform(uniform)
    0 <= uniform < 1 || refuse("uniform is $uniform; it must be from 0 to below 1.")
    return uniform
end

const FAMILIES = Dict{String,Type{<:Family}}(
    "categorical" => Categorical,
    "smooth" => Smooth,
    "gaussian" => Gaussian,
    "logistic" => Logistic,
    "binomial" => Binomial,
)

"The name of a family in files."
family_name(family::Family) = lowercase(string(nameof(typeof(family))))

"""
    parameters_per_row(family, categories)

How many numbers a column is made from.
"""
parameters_per_row(::Family, categories) = categories
parameters_per_row(::Binomial, categories) = 1
parameters_per_row(::Union{Gaussian,Logistic}, categories) = 2

"""
    is_constrained(family)

Whether some columns of probabilities are not of the family, so that M-steps project.
"""
is_constrained(::Family) = false
is_constrained(::Parametric) = true

"""
    pool(family, counts)

The counts `[categories, …]` spread over values; the total of every column stays.
"""
pool(::Family, counts) = counts

function pool(family::Smooth, counts::AbstractArray)
    rows = reshape(Float64.(counts), size(counts, 1), :)
    for row in eachcol(rows)
        total = max(sum(row), 1e-30)
        width = 0.282 * total / max(sum(abs2, row) / total, 1e-30)
        spread = (family.bandwidth * width)^2 / 2
        row .= 0.9 .* diffused(row, spread) .+ 0.1 .* diffused(row, 64 * spread)
    end
    return convert(Array{float(eltype(counts))}, reshape(rows, size(counts)))
end

"The solution of y - amount·y″ = row, without flow over the ends."
function diffused(row, amount)
    final = length(row)
    final == 1 && return row
    share, y = similar(row), copy(row)
    share[1], y[1] = amount / (1 + amount), row[1] / (1 + amount)
    for k = 2:final
        left = 1 + amount * ((k < final ? 2 : 1) - share[k-1])
        y[k] = (row[k] + amount * y[k-1]) / left
        share[k] = amount / left
    end
    for k = (final-1):-1:1
        y[k] += share[k] * y[k+1]
    end
    return y
end

"""
    project!(family, target, start)

Replace the columns `[categories, …]` of `target` by the best of the family, found from the
columns `start`.
"""
project!(::Family, target, start) = target

function project!(family::Parametric, target::AbstractArray, start::AbstractArray)
    columns, olds = (reshape(a, size(a, 1), :) for a in (target, start))
    number = size(columns, 2)
    @sync for part in Iterators.partition(1:number, max(1, cld(number, Threads.nthreads())))
        Threads.@spawn for k in part
            row = project_row(
                family,
                Float64.(view(columns, :, k)),
                Float64.(view(olds, :, k)),
            )
            view(columns, :, k) .= row
        end
    end
    return target
end

function project_row(family::Parametric, target, start)
    level = family.uniform / length(target)
    weights = target .* (1 .- level ./ max.(start, level, 1e-30))
    numbers = recovered(family, max.(start .- level, 0))
    row = shape(family, improved(family, numbers, weights), length(target))
    return (1 - family.uniform) .* row .+ level
end

"""
The line through some points by weighted least squares: the mean of `x`, the height there, and
the slope, `nothing` where it is not known.
"""
function fitted_line(x, y, weights)
    total = max(sum(weights), 1e-300)
    middle, height = sum(weights .* x) / total, sum(weights .* y) / total
    spread = sum(weights .* (x .- middle) .^ 2) / total
    slope = sum(weights .* (x .- middle) .* y) / total
    return middle, height, spread > 1e-12 ? slope / spread : nothing
end

"The numbers that a column of the family was made from."
recovered(family::Binomial, row) = improved(family, (0.5,), row)

"Numbers that make Σ weights·log shape no lower."
function improved(::Binomial, numbers, weights)
    total = sum(weights)
    total > 0 || return numbers
    mean = sum((v - 1) * weights[v] for v in eachindex(weights)) / total
    return (mean / max(1, length(weights) - 1),)
end

"The column of some numbers."
function shape(::Binomial, (share,), categories)
    n, p = categories - 1, clamp(share, 1e-12, 1 - 1e-12)
    ways = cumsum([v == 0 ? 0.0 : log((n - v + 1) / v) for v = 0:n])
    row = [exp(ways[v+1] + v * log(p) + (n - v) * log(1 - p)) for v = 0:n]
    return row ./ sum(row)
end

# A Gaussian column is exp(α·y - λ·y²/2) over its sum, y being counted from the middle value.
# The likelihood is concave in (α, λ), also with y counted from the target's mean, and the best
# column has the target's mean and variance.

"λ lies between this and its negative."
const SHARPEST = 50.0
"λ from where Newton's method starts, at most: where it is larger, a column hardly changes with it."
const SHARPEST_START = 4.0
"By so much the log of the ratio of two neighbours near the mean changes in a step, at most."
const LEAP = 4.0
"Share added to curvatures: where two values have all mass, (α, λ) are known along one line."
const DAMPING = 1e-4
const NEWTON_STEPS = 2

middle_value(row) = (length(row) - 1) / 2

function recovered(::Gaussian, row)
    logs, roots = log.(max.(row, 1e-300)), sqrt.(max.(row, 1e-60))
    ratios, weights = diff(logs), roots[2:end] .* roots[1:(end-1)]
    x = (1:(length(row)-1)) .- length(row) / 2
    middle, height, slope = fitted_line(x, ratios, weights)
    # Where one pair alone weighs something, all other values have next to none.
    λ = clamp(-something(slope, -SHARPEST), -SHARPEST, SHARPEST)
    return height + λ * middle, λ
end

function improved(::Gaussian, (α, λ), weights)
    total = sum(weights)
    total > 0 || return α, λ
    target = weights ./ total
    mean = sum((v - 1) * target[v] for v in eachindex(target))
    variance = sum(target[v] * (v - 1 - mean)^2 for v in eachindex(target))
    offset = mean - middle_value(weights)
    best, reach = (α - λ * offset, λ), 1.0
    height, ascent = gaussian_climb(length(target), mean, variance, best...)
    tried = (0.0, min(1 / max(variance, 1e-300), SHARPEST_START))
    for attempt = 0:NEWTON_STEPS
        if attempt > 0
            share = min(reach, LEAP / max(sum(abs, ascent), 1e-300))
            tried = best .+ share .* ascent
            tried = (tried[1], clamp(tried[2], -SHARPEST, SHARPEST))
        end
        new_height, new_ascent = gaussian_climb(length(target), mean, variance, tried...)
        better = new_height > height
        if better
            best, height, ascent = tried, new_height, new_ascent
        end
        attempt > 0 && (reach = better ? min(2reach, 1.0) : reach / 16)
    end
    return best[1] + best[2] * offset, best[2]
end

"Σ target·log p at (α, λ), y counted from the target's mean, and Newton's step from there."
function gaussian_climb(categories, mean, variance, α, λ)
    y = (0:(categories-1)) .- mean
    logs = α .* y .- λ .* y .^ 2 ./ 2
    top = maximum(logs)
    row = exp.(logs .- top)
    total = sum(row)
    row ./= total
    expected, squared = sum(row .* y), sum(row .* y .^ 2)
    a = sum(row .* (y .- expected) .^ 2) * (1 + DAMPING) + 1e-30
    b = -sum(row .* (y .- expected) .* (y .^ 2 .- squared)) / 2
    c = sum(row .* (y .^ 2 .- squared) .^ 2) / 4 * (1 + DAMPING) + 1e-30
    up, side = -expected, (squared - variance) / 2
    area = a * c - b^2
    height = -λ * variance / 2 - log(total) - top
    return height, ((c * up - b * side) / area, (a * side - b * up) / area)
end

function shape(::Gaussian, (α, λ), categories)
    y = (0:(categories-1)) .- (categories - 1) / 2
    logs = α .* y .- λ .* y .^ 2 ./ 2
    row = exp.(logs .- maximum(logs))
    return row ./ sum(row)
end

# With κ = 1 / scale, ν = location / scale and u = κ·(v + 1/2) - ν at the boundary above value
# v, an inner value has the probability σ(u)·σ(κ - u)·(1 - exp(-κ)). So the likelihood is that
# of a logistic regression over boundaries plus a concave term in κ, and Newton's method finds
# its maximum.

const STEEPEST = 10.0
const FLATTEST = 1e-5

log_sigmoid(u) = min(u, zero(u)) - log1p(exp(max(-abs(u), -700)))

function recovered(::Logistic, row)
    categories = length(row)
    below = cumsum(row)[1:(end-1)]
    above = reverse(cumsum(reverse(row)))[2:end]
    weights = (below .* above) .^ 2 .+ 1e-30
    odds = log.(max.(below, 1e-300)) .- log.(max.(above, 1e-300))
    middle, height, slope = fitted_line((1:(categories-1)) .- 0.5, odds, weights)
    κ = clamp(something(slope, 1.0), FLATTEST, STEEPEST)
    return κ, κ * middle - height
end

function improved(::Logistic, numbers, weights)
    best, reach = numbers, 1.0
    height, ascent = climb(weights, best...)
    for _ = 1:NEWTON_STEPS
        bound = 0.75 * best[1] / max(abs(ascent[1]), 1e-300)
        tried = best .+ min(reach, bound) .* ascent
        inside = FLATTEST < tried[1] < STEEPEST
        new_height, new_ascent = inside ? climb(weights, tried...) : (-Inf, ascent)
        if new_height >= height
            best, height, ascent, reach = tried, new_height, new_ascent, min(2reach, 1.0)
        else
            reach /= 4
        end
    end
    return best
end

"Σ weights·log p at (κ, ν), and Newton's step from there."
function climb(weights, κ, ν)
    final = length(weights)
    inner = sum(view(weights, 2:(final-1)); init = 0.0)
    grow = expm1(κ)
    height = inner * log(-expm1(-κ))
    up, side = inner / grow, 0.0
    a, b, c = inner * (grow + 1) / grow^2, 0.0, 0.0
    for k = 1:(final-1)
        x = k - 0.5
        u = κ * x - ν
        logs, pair = log_sigmoid(u), weights[k] + weights[k+1]
        height += pair * logs - weights[k+1] * u
        mass = pair * exp(logs)
        bend = mass * (1 - exp(logs))
        up += (weights[k] - mass) * x
        side += mass - weights[k]
        a, b, c = a + bend * x^2, b - bend * x, c + bend
    end
    a, c = a * (1 + 1e-9) + 1e-30, c * (1 + 1e-9) + 1e-30
    area = a * c - b^2
    return height, ((c * up - b * side) / area, (a * side - b * up) / area)
end

function shape(::Logistic, (κ, ν), categories)
    final = categories - 1
    row = map(0:final) do v
        u = κ * (v + 0.5) - ν
        up = v < final ? log_sigmoid(u) : 0.0
        down = v > 0 ? log_sigmoid(κ - u) : 0.0
        return exp(up + down + (0 < v < final ? log(-expm1(-κ)) : 0.0))
    end
    return row ./ sum(row)
end

"Columns of the family estimated from counts, as one full M-step that is repeated."
function fit_rows!(family::Family, table)
    is_constrained(family) || return table
    target, rows = copy(table), project!(family, copy(table), table)
    for _ = 2:PROJECTIONS
        rows = project!(family, copy(target), rows)
    end
    return copyto!(table, rows)
end

const PROJECTIONS = 25
