# Rows, weights and latent evidence that fit a circuit, or one sentence on what does not.

"""
    check_rows(circuit, x, name = "x")

The rows as an integer matrix `[num_vars, N]` of values of the circuit's variables, -1 where
missing; throw unless `x` is one, or is one with `missing`.
"""
function check_rows(circuit::Circuit, x, name = "x")
    if !(x isa AbstractMatrix) || size(x, 1) != circuit.num_vars
        shape = x isa AbstractArray ? size(x) : typeof(x)
        wrong_size("$name: expected size ($(circuit.num_vars), N), got $shape.")
    end
    rows = with_missing(x)
    if isnothing(rows)
        expected = "expected integers, with -1 or missing where a value is missing"
        refuse("$name: $expected, got $(eltype(x)).")
    end
    limits = num_categories(circuit)
    for n in axes(rows, 2), v in axes(rows, 1)
        MISSING <= rows[v, n] < limits[v] ||
            limits[v] == 0 ||
            refuse(
                "$name: in column $n the variable $v is $(rows[v, n]); values must be " *
                "0 … $(limits[v] - 1), or -1 where missing.",
            )
    end
    return rows
end

"Integers with -1 in place of `missing`; `nothing` for anything else."
with_missing(x::AbstractMatrix{<:Integer}) = x
with_missing(x::AbstractMatrix{<:Union{Missing,Integer}}) = coalesce.(x, Int32(MISSING))
with_missing(::AbstractMatrix) = nothing

"""
    check_latents(circuit, latents, rows)

Throw unless names, sizes and values of the latent evidence fit the circuit: states
`[positions, rows]`, -1 where not observed, or weights `[width, positions, rows]` from 0 to
1.
"""
function check_latents(circuit::Circuit, latents, rows)
    isnothing(latents) && return nothing
    for (name, vals) in latents
        check_latent(circuit, string(name), vals, rows)
    end
end

function check_latent(circuit, name, vals, rows)
    blocks = latent_blocks(circuit, name)
    widths = [circuit.widths[layer_of(circuit, b)] for b in blocks]
    soft = eltype(vals) <: AbstractFloat
    expected = soft ? (maximum(widths), length(blocks), rows) : (length(blocks), rows)
    if size(vals) != expected || soft && !allequal(widths)
        wrong_size("Latents '$name' have size $(size(vals)), expected $expected.")
    end
    if soft && !all(w -> 0 <= w <= 1, vals)
        refuse("Latents '$name' must hold weights from 0 to 1.")
    end
    if !soft && !all(MISSING .<= vals .< widths)
        limit = maximum(widths) - 1
        refuse("Latents '$name' must hold states from 0 to $limit (-1 = unknown).")
    end
end

"The blocks of a latent, or one sentence on which there are."
function latent_blocks(circuit::Circuit, name)
    haskey(circuit.latents, name) && return circuit.latents[name]
    known =
        isempty(circuit.latents) ? "none" :
        join(sort!(collect(keys(circuit.latents))), ", ")
    return refuse("The circuit has no latent '$name'; it has: $known.")
end

"""
    check_weights(circuit, weights, rows)

The weights of rows as float64 `[roots, rows]`: from `[rows]`, `[roots, rows]` or `nothing`
(all one).
"""
function check_weights(circuit::Circuit, weights, rows)
    rows > 0 || refuse("x has no rows; training and counting need at least one.")
    shape = (length(circuit.roots), rows)
    given = isnothing(weights) ? ones(1, rows) : Float64.(weights)
    given isa AbstractVector && (given = reshape(given, 1, :))
    if !(given isa AbstractMatrix) ||
       size(given, 2) != rows ||
       size(given, 1) ∉ (1, shape[1])
        wrong_size("weights have size $(size(weights)), expected $shape.")
    end
    if !all(w -> isfinite(w) && w >= 0, given) || !any(>(0), given)
        refuse("weights must be finite, not negative and not all zero.")
    end
    return repeat(given, shape[1] ÷ size(given, 1), 1)
end

"The block of root number `root`, which counts from one."
function root_block(circuit::Circuit, root)
    root in eachindex(circuit.roots) && return Int(circuit.roots[root])
    return refuse("root is $root; the circuit has $(length(circuit.roots)) of them.")
end

"A precision the engine computes in."
function check_precision(precision)
    precision in (Float32, Float64) && return precision
    return refuse("precision is $precision; it must be Float32 or Float64.")
end

const LARGEST_SEED = typemax(Int64)

"A number from 0 to 2^63 - 1 that seeds generators; of a generator, its next one."
function seed_number(seed)
    seed isa AbstractRNG && return rand(seed, 0:LARGEST_SEED)
    seed isa Integer && 0 <= seed <= LARGEST_SEED && return Int(seed)
    return refuse("seed is $(repr(seed)); it must be from 0 to 2^63 - 1, or a generator.")
end

"Rows on the device, in their own type where a device can hold it."
function rows_on_device(A::Type, x::AbstractMatrix)
    narrow = eltype(x) in (UInt8, Int8, Int16, Int32, Int64)
    return on_device(A, narrow ? x : Int32.(x))
end

"Latent evidence on the device: states as `Int32`, weights in precision `T`."
function evidence_on_device(A::Type, latents, ::Type{T}) where {T}
    evidence = Evidence()
    isnothing(latents) && return evidence
    for (name, vals) in latents
        S = eltype(vals) <: AbstractFloat ? T : Int32
        evidence[string(name)] = on_device(A, Array{S}(vals))
    end
    return evidence
end
