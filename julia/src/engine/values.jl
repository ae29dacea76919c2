# The values of a batch's blocks, and what both passes share.
#
# Scaled arithmetic: a tile holds linear values, and each (column, block) has a power of two
# by which they are to be multiplied. The sum path is then a matrix product without an
# exponential or a logarithm per element, and scaling is exact. A column is one row of data
# in the batch.

"""
    Pass{T}(program, params)

Buffers for batches through a circuit in the precision `T`: `load!`, `observe!`, then
`upward!` and `downward!`. Buffers keep their memory from batch to batch.

- `whole`: where this is a [`Part`](@ref)'s, the pass of the whole circuit, with the same
  buffers;
- `params`: by layer, tables (width, 1 + categories, groups) of inputs and weights (width
  in, width out, groups) of sums; empty for products and tied layers;
- `weights`: the latter in precision `T` (the same arrays where that is theirs), not those of
  now where `stale`;
- `codes`: `[columns, variables]`, the value plus two, or one where it is missing;
- `tiles`, `edges`, `masks`, `flows`: (width, columns, blocks) by layer, as far as it has
  them;
- `scales`: `[columns, blocks]`, the exponent of each tile's power of two; for a tile of
  zeros that of its error bound, -Inf where they are exact;
- `errors`: `[columns, blocks]`, a bound on what underflow took from any value of the tile,
  where `lossy` says that it took anything;
- `flips`: transposed weights that several layers share, by owner;
- `spares`: counts of single threads, by owner, in use where `spared` ([`is_cut`](@ref));
- `scratch`, `aside` (transposed weights, ratios), `incoming` (weights at the roots),
  `mantissas`, `exponents`, `marks`: working space;
- `scores`: `[columns, roots]`, log-likelihoods;
- `masked`: layers with latent evidence; `keeps_flow`: layers whose flows are to be read
  afterwards;
- `faint`: whether a layer has weights that a product might lose, `nothing` where not known
  yet;
- `limit`: rows that go through together, 0 where not known yet;
- `double`: the same in double precision, for columns that `T` cannot hold;
- `extra`: counts of those columns, to be added to the others' where `has_extra`.
"""
Base.@kwdef mutable struct Pass{T<:AbstractFloat,V,P3,A3,B3,B2,BI}
    const program::Program{V}
    const whole::Union{Nothing,Pass}
    const params::Vector{P3}
    const weights::Vector{A3}
    stale::Bool = false
    batch::Int = 0
    const codes::BI
    const tiles::Vector{B3}
    const edges::Vector{B3}
    const masks::Vector{B3}
    const flows::Vector{B3}
    const flips::Vector{B3}
    const spares::Vector{B3}
    const scratch::B3
    const aside::B3
    const incoming::B3
    const mantissas::B2
    const exponents::B2
    const marks::BI
    const scales::Vector{B2}
    const errors::Vector{B2}
    const scores::B2
    const lossy::Vector{Bool}
    const spared::Vector{Bool}
    const masked::Vector{Bool}
    const keeps_flow::Vector{Bool}
    const faint::Vector{Union{Nothing,Bool}}
    limit::Int = 0
    double::Union{Nothing,Pass{Float64}} = nothing
    const extra::Vector{A3}
    has_extra::Bool = false
end

"Passes whose arrays are `Array`s: these have loops where others have broadcasts."
const HostPass{T<:AbstractFloat} = Pass{T,Vector{Int32}}

function Pass{T}(program::Program{V}, params::Vector{P3}) where {T,V,P3}
    layers, like = length(program.plans), params[1]
    weights = in_precision(T, program, params)
    tile, grid, codes = Buffer(like, T, 3), Buffer(like, Float64, 2), Buffer(like, Int32, 2)
    tiles() = [Buffer(like, T, 3) for _ = 1:layers]
    grids() = [Buffer(like, Float64, 2) for _ = 1:layers]
    flags() = fill(false, layers)
    types = eltype(weights), typeof(tile), typeof(grid), typeof(codes)
    return Pass{T,V,P3,types...}(;
        program,
        whole = nothing,
        params,
        weights,
        codes,
        tiles = tiles(),
        edges = tiles(),
        masks = tiles(),
        flows = tiles(),
        flips = tiles(),
        spares = tiles(),
        scratch = tile,
        aside = Buffer(like, T, 3),
        incoming = Buffer(like, T, 3),
        mantissas = Buffer(like, Float64, 2),
        exponents = Buffer(like, Float64, 2),
        marks = Buffer(like, Int32, 2),
        scales = grids(),
        errors = grids(),
        scores = grid,
        lossy = flags(),
        spared = flags(),
        masked = flags(),
        keeps_flow = flags(),
        faint = Union{Nothing,Bool}[nothing for _ = 1:layers],
        extra = empty(weights),
    )
end

"""
    Pass(whole, program, params)

The pass of a part of a circuit, with parameters of its own and the buffers of the whole one.
"""
function Pass(whole::Pass{T}, program::Program, params) where {T}
    own = Pass{T}(program, params)
    buffers = (name for name in fieldnames(Pass) if is_buffer(getfield(whole, name)))
    return typeof(whole)(;
        (name => getfield(own, name) for name in fieldnames(Pass))...,
        whole,
        (name => getfield(whole, name) for name in buffers)...,
    )
end

is_buffer(::Any) = false
is_buffer(::Buffer) = true
is_buffer(::Vector{<:Buffer}) = true

"Weights in another precision; tables are converted where they are read."
function in_precision(::Type{T}, program::Program, params) where {T}
    eltype(first(params)) === T && return params
    return map(program.plans, params) do plan, array
        plan isa SumPlan ? T.(array) : similar(array, T, (0, 0, 0))
    end
end

"To be called after every change of the parameters."
function params_changed!(pass::Pass)
    fill!(pass.faint, nothing)
    isnothing(pass.double) || (pass.double.stale = true)
    return pass
end

"The pass in double precision, with the weights of now."
function double_pass!(pass::Pass)
    isnothing(pass.double) && (pass.double = new_double(pass, pass.whole))
    double = pass.double::Pass{Float64}
    if double.stale
        for (i, weights) in enumerate(double.weights)
            isempty(weights) && continue
            copyto!(weights, pass.params[i])
        end
        fill!(double.faint, nothing)
        double.stale = false
    end
    return double
end

new_double(pass::Pass, ::Nothing) = Pass{Float64}(pass.program, pass.params)
new_double(pass::Pass, whole::Pass) = Pass(double_pass!(whole), pass.program, pass.params)

"Whether layer `owner` has weights so small that a value of a sum may be lost."
function any_faint!(pass::Pass{T}, owner) where {T}
    known = pass.faint[owner]
    isnothing(known) || return known
    return pass.faint[owner] = any_below(pass.weights[owner], faintest(T))
end

"Below this a value may have lost terms; above, what a sum dropped is negligible."
faintest(::Type{T}) where {T} = sqrt(floatmin(T)) * sqrt(sqrt(floatmin(T)))

"Whether the tile of layer `i` is kept, rather than read from the table where it is used."
has_tile(pass::Pass, i) = has_tile(pass, pass.program.plans[i], i)
has_tile(pass::Pass, plan::InputPlan, i) = plan.tiled || pass.masked[i]
has_tile(::Pass, plan, i) = true

# Rows -------------------------------------------------------------------------------------

"""
    load!(pass, x, columns)

Take the given columns of `x` (integers, `[num_vars, N]`) as the batch, without latent
evidence.
"""
function load!(pass::HostPass, x::AbstractMatrix{<:Integer}, columns)
    codes = start_batch!(pass, length(columns))
    threaded(cld(length(columns), LOADED_COLUMNS), length(codes)) do span, _
        for part in span
            load_columns!(codes, x, pass.program.variables, columns, part)
        end
        return false
    end
    return pass
end

"Columns of a cache line of codes."
const LOADED_COLUMNS = 16

function load_columns!(codes, x, variables, columns, part)
    some = (LOADED_COLUMNS*(part-1)+1):min(LOADED_COLUMNS * part, length(columns))
    @inbounds for (i, v) in enumerate(variables), n in some
        codes[n, i] = (x[v, columns[n]] % Int32) + Int32(2)
    end
    return nothing
end

function load!(pass::Pass, x::AbstractMatrix{<:Integer}, columns)
    codes = start_batch!(pass, length(columns))
    permutedims!(codes, (x[:, columns] .% Int32) .+ Int32(2), (2, 1))
    return pass
end

"Take `number` columns in which every value is missing as the batch."
function load_missing!(pass::Pass, number::Int)
    fill!(start_batch!(pass, number), 1)
    return pass
end

function start_batch!(pass::Pass, number::Int)
    pass.batch = number
    fill!(pass.masked, false)
    return sized!(pass.codes, number, length(pass.program.variables))
end

# Results of the upward pass ---------------------------------------------------------------

"""
    scores!(pass)

log p of the batch's columns under every root: float64 `[columns, roots]` on the device.
"""
function scores!(pass::HostPass)
    scores = sized!(pass.scores, pass.batch, pass.program.num_roots)
    for link in pass.program.roots
        tile, scale = pass.tiles[link.layer].array, pass.scales[link.layer].array
        for (root, place) in zip(link.readers, link.children), n = 1:pass.batch
            scores[n, root] = log_value(tile[1, n, place], scale[n, place])
        end
    end
    return scores
end

function scores!(pass::Pass)
    scores = sized!(pass.scores, pass.batch, pass.program.num_roots)
    for link in pass.program.roots
        tile, scale = pass.tiles[link.layer].array, pass.scales[link.layer].array
        view(scores, :, link.readers) .=
            log_value.(tile[1, :, link.children], scale[:, link.children])
    end
    return scores
end

"The logarithm of a value on a scale, the same however much of it is in either."
@inline function log_value(value, scale)
    power = power_of(Float64(value))
    return log(Float64(value) * power_of_two(Float64, -power)) + (scale + power) * log(2.0)
end

"""
A column is doubtful when underflow may have changed its probability by more than this
share.
"""
const DOUBT = 1e-5

"""
    doubtful(pass)

The columns that underflow may have changed, ascending. Double precision reaches some 700
nats below a tile's maximum and is trusted.
"""
function doubtful(pass::Pass)
    any(link -> pass.lossy[link.layer], pass.program.roots) || return Int[]
    found = falses(pass.batch)
    for link in pass.program.roots
        pass.lossy[link.layer] || continue
        tile, loss_bound =
            Array(pass.tiles[link.layer].array), Array(pass.errors[link.layer].array)
        for place in Array(link.children), n = 1:pass.batch
            found[n] |= !(loss_bound[n, place] <= DOUBT * tile[1, n, place])
        end
    end
    return findall(found)
end
doubtful(::Pass{Float64}) = Int[]
