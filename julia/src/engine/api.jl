# What the engine does for its callers: checks, the trip to the device and back.

"""
    log_likelihood(circuit, x; latents = nothing, device = "cpu", precision = Float32)

log p(x, observed latents) in nats: float64 `[roots, N]`.

- `x`: integers `[num_vars, N]`, -1 where a value is missing (it is marginalised);
- `latents`: name → states, integers `[positions, N]` (-1 = not observed), or weights
  `[width, positions, N]` from 0 to 1;
- `device`: `"cpu"`, `"cuda"`, `"cuda:1"`, … or an array type;
- `precision`: of tiles and parameters; results equal those of the log domain to 1e-5 in
  either.
"""
function log_likelihood(
    circuit::Circuit,
    x;
    latents = nothing,
    device = "cpu",
    precision::Type = Float32,
)
    check_rows(circuit, x)
    check_latents(circuit, latents, size(x, 2))
    return with_engine() do
        A = array_type(device)
        evidence = evidence_on_device(A, latents, precision)
        return evaluate!(prepare(circuit, A, precision), rows_on_device(A, x), evidence)
    end
end

"""
Expected edge counts (flows), summed over rows: an array per layer in the shape of its
parameters, `nothing` for products and for layers tied to another, whose counts stand there.
"""
struct Counts
    layers::Vector{Union{Nothing,Array}}
    log_likelihood::Float64
end

"""
    expected_counts(circuit, x; weights = nothing, latents = nothing, device = "cpu", …)

Flows summed over the columns of `x` ([`Counts`](@ref)). `weights` is `[N]` or `[roots, N]`,
all one unless given. Other arguments as in [`log_likelihood`](@ref).
"""
function expected_counts(
    circuit::Circuit,
    x;
    weights = nothing,
    latents = nothing,
    device = "cpu",
    precision::Type = Float32,
)
    check_rows(circuit, x)
    return with_engine() do
        A = array_type(device)
        rows, scale = training_rows(circuit, A, x, weights, latents, precision)
        pass = prepare(circuit, A, precision)
        counts = new_counts(pass)
        total = collect!(pass, counts, rows, 1:size(x, 2))
        finish_counts!(pass, counts)
        foreach(count -> count .*= eltype(count)(scale), counts)
        return Counts(circuit_params(pass.program, counts), total * scale)
    end
end

"""
Checked rows on the device; weights are divided by their maximum, which is returned. With
weights of at most one no intermediate of the downward pass overflows.
"""
function training_rows(circuit, A, x, weights, latents, ::Type{T}) where {T}
    given = check_weights(circuit, weights, size(x, 2))
    check_latents(circuit, latents, size(x, 2))
    scale = maximum(given)
    on_it = on_device(A, Array{T}(permutedims(given ./ scale)))
    return Rows(rows_on_device(A, x), on_it, evidence_on_device(A, latents, T)), scale
end

"""
    fit(circuit, x, options = FitOptions(); keywords...)

Train by EM; returns a [`FitResult`](@ref).

- `weights`, `latents`, `device`, `precision`: as in [`expected_counts`](@ref);
- `valid`: validation rows `[num_vars, M]`; the returned circuit is then the best one seen;
- `order`: `[N, epochs]`, for each epoch a permutation of the rows; `nothing` draws them
  from the seed;
- `checkpoint`: a file written after every epoch, and resumed from when it exists; `key` is
  text that identifies the training, so that a file of another one is refused;
- `on_epoch(epoch)` is called after every [`Epoch`](@ref), those of a resumed training
  included, and `on_batch(done, total)` after every step.
"""
function fit(
    circuit::Circuit,
    x,
    options::FitOptions = FitOptions();
    weights = nothing,
    latents = nothing,
    valid = nothing,
    order = nothing,
    checkpoint = nothing,
    key = "",
    on_epoch = epoch -> nothing,
    on_batch = (done, total) -> nothing,
    device = "cpu",
    precision::Type = Float32,
)
    check_rows(circuit, x)
    isnothing(valid) || check_rows(circuit, valid, "valid")
    check_options(circuit, options, order, size(x, 2))
    return with_engine() do
        A = array_type(device)
        rows, scale = training_rows(circuit, A, x, weights, latents, precision)
        held_out = isnothing(valid) ? nothing : rows_on_device(A, valid)
        pass = prepare(circuit, A, precision)
        permutations = isnothing(order) ? nothing : Matrix{Int32}(order)
        trainer = Trainer(pass, rows, held_out, scaled(options, scale), permutations)
        params = train!(trainer, checkpoint, String(key), on_epoch, on_batch)
        trained = with_params(circuit, circuit_params(pass.program, params))
        return FitResult(trained, trainer.state.history)
    end
end

"Options for counts that are divided by `scale`."
function scaled(options::FitOptions, scale)
    names = fieldnames(FitOptions)
    same = NamedTuple{names}(getfield.(Ref(options), names))
    return FitOptions(; same..., pseudocount = options.pseudocount / scale)
end

function check_options(circuit, options::FitOptions, order, rows)
    options.optimizer in (:full_em, :mini_em, :anemone) || throw(
        BridgeError(
            "The optimizer '$(options.optimizer)' is unknown; there is full_em, mini_em " *
            "and anemone.",
        ),
    )
    options.epochs >= 0 && options.batch_size >= 1 ||
        throw(BridgeError("epochs must not be negative, and batch_size at least 1."))
    options.pseudocount >= 0 && 0 <= options.momentum < 1 || throw(
        BridgeError("pseudocount must not be negative, and momentum from 0 to below 1."),
    )
    all(in(eachindex(circuit.layers)), options.frozen) ||
        throw(BridgeError("frozen names a layer that is not there."))
    isnothing(order) && return nothing
    if size(order) != (rows, options.epochs)
        expected = (rows, options.epochs)
        throw(BridgeError("order has size $(size(order)), expected $expected."))
    end
    all(isperm, eachcol(order)) ||
        throw(BridgeError("Every column of order must be a permutation of 1 … $rows."))
end

"""
    sample(circuit, n; evidence = nothing, latents = nothing, seed, root = 1, …)

Draw int32 `[num_vars, n]`, or `[num_vars, n, N]` given `evidence` `[num_vars, N]` or
latents of N columns.
"""
function sample(
    circuit::Circuit,
    n::Integer;
    evidence = nothing,
    latents = nothing,
    seed::Integer,
    root::Integer = 1,
    device = "cpu",
    precision::Type = Float32,
)
    given = isnothing(latents) ? Dict() : latents
    alone = isnothing(evidence) && isempty(given)
    if isnothing(evidence)
        rows = alone ? 1 : last(size(first(values(given))))
        evidence = fill(Int8(MISSING), circuit.num_vars, rows)
    end
    check_rows(circuit, evidence, "evidence")
    check_latents(circuit, given, size(evidence, 2))
    root_block(circuit, root)
    return with_engine() do
        A = array_type(device)
        pass = prepare(circuit, A, precision)
        observed = evidence_on_device(A, given, precision)
        drawn =
            draw_rows(circuit, pass, rows_on_device(A, evidence), observed, n, seed, root)
        return alone ? drawn[:, :, 1] : drawn
    end
end

"""
    mpe(circuit, evidence; root = 1)

The jointly most probable completion and latents: `x`, int32 `[num_vars, N]`, and the
log-values `[N]`, -Inf where the evidence is impossible. It runs on the host, whatever the
device.
"""
function mpe(circuit::Circuit, evidence; root::Integer = 1, device = "cpu")
    check_rows(circuit, evidence, "evidence")
    return with_engine(() -> best_rows(circuit, evidence, root))
end

"""
    posteriors(circuit, x, name; root = 1, device = "cpu", precision = Float32)

p(latent = j | x) of the latents `name`: float32 `[width, positions, N]`.
"""
function posteriors(
    circuit::Circuit,
    x,
    name::AbstractString;
    root::Integer = 1,
    device = "cpu",
    precision::Type = Float32,
)
    check_rows(circuit, x)
    root_block(circuit, root)
    return with_engine() do
        A = array_type(device)
        pass = prepare(circuit, A, precision)
        return latent_flows(circuit, pass, rows_on_device(A, x), name, root)
    end
end
