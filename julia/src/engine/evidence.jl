# Rows, weights and latent evidence that fit a circuit, or one sentence on what does not.

"""
    check_rows(circuit, x, name = "x")

Throw unless `x` is an integer matrix `[num_vars, N]` of values of the circuit's variables,
-1 where missing.
"""
function check_rows(circuit::Circuit, x, name = "x")
    if !(x isa AbstractMatrix) || size(x, 1) != circuit.num_vars
        shape = x isa AbstractArray ? size(x) : typeof(x)
        throw(BridgeError("$name: expected size ($(circuit.num_vars), N), got $shape."))
    end
    if !(eltype(x) <: Integer)
        expected = "expected integers, with -1 where a value is missing"
        throw(BridgeError("$name: $expected, got $(eltype(x))."))
    end
    limits = num_categories(circuit)
    for n in axes(x, 2), v in axes(x, 1)
        MISSING <= x[v, n] < limits[v] ||
            limits[v] == 0 ||
            throw(
                BridgeError(
                    "$name: in column $n the variable $v is $(x[v, n]); values must be " *
                    "0 … $(limits[v] - 1), or -1 where missing.",
                ),
            )
    end
    return x
end

"""
    check_latents(circuit, latents, rows)

Throw unless names, sizes and values of the latent evidence fit the circuit: states
`[positions, rows]`, -1 where not observed, or weights `[width, positions, rows]` from 0 to
1.
"""
function check_latents(circuit::Circuit, latents, rows)
    isnothing(latents) && return nothing
    for (name, values) in latents
        check_latent(circuit, string(name), values, rows)
    end
end

function check_latent(circuit, name, values, rows)
    blocks = latent_blocks(circuit, name)
    widths = [circuit.widths[layer_of(circuit, b)] for b in blocks]
    soft = eltype(values) <: AbstractFloat
    expected = soft ? (maximum(widths), length(blocks), rows) : (length(blocks), rows)
    if size(values) != expected || soft && !allequal(widths)
        throw(BridgeError("Latents '$name' have size $(size(values)), expected $expected."))
    end
    if soft && !all(w -> 0 <= w <= 1, values)
        throw(BridgeError("Latents '$name' must hold weights from 0 to 1."))
    end
    if !soft && !all(MISSING .<= values .< widths)
        limit = maximum(widths) - 1
        throw(
            BridgeError(
                "Latents '$name' must hold states from 0 to $limit (-1 = unknown).",
            ),
        )
    end
end

"The blocks of a latent, or one sentence on which there are."
function latent_blocks(circuit::Circuit, name)
    haskey(circuit.latents, name) && return circuit.latents[name]
    known =
        isempty(circuit.latents) ? "none" :
        join(sort!(collect(keys(circuit.latents))), ", ")
    throw(BridgeError("The circuit has no latent '$name'; it has: $known."))
end

"""
    check_weights(circuit, weights, rows)

The weights of rows as float64 `[roots, rows]`: from `[rows]`, `[roots, rows]` or `nothing`
(all one).
"""
function check_weights(circuit::Circuit, weights, rows)
    rows > 0 ||
        throw(BridgeError("x has no rows; training and counting need at least one."))
    shape = (length(circuit.roots), rows)
    given = isnothing(weights) ? ones(1, rows) : Float64.(weights)
    given isa AbstractVector && (given = reshape(given, 1, :))
    if !(given isa AbstractMatrix) ||
       size(given, 2) != rows ||
       size(given, 1) ∉ (1, shape[1])
        throw(BridgeError("weights have size $(size(weights)), expected $shape."))
    end
    if !all(w -> isfinite(w) && w >= 0, given) || !any(>(0), given)
        throw(BridgeError("weights must be finite, not negative and not all zero."))
    end
    return repeat(given, shape[1] ÷ size(given, 1), 1)
end

"The block of root number `root`, which counts from one."
function root_block(circuit::Circuit, root)
    root in eachindex(circuit.roots) && return Int(circuit.roots[root])
    throw(BridgeError("root is $root; the circuit has $(length(circuit.roots)) of them."))
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
    for (name, values) in latents
        S = eltype(values) <: AbstractFloat ? T : Int32
        evidence[string(name)] = on_device(A, Array{S}(values))
    end
    return evidence
end
