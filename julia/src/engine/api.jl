# What the engine does for its callers: checks, the trip to the device and back.

"""
    compiled(circuit; device = "cpu", precision = Float32)

The circuit checked, laid out for a device and ready to run. What asks several questions of
one circuit passes this in its place, and does that once: [`log_likelihood`](@ref),
[`expected_counts`](@ref), [`sample`](@ref) and [`posteriors`](@ref) take either. Later
changes of the circuit's arrays do not reach it, and one task at a time can use it.

- `device`: `"cpu"`, `"cuda"`, `"cuda:1"`, … or an array type;
- `precision`: of tiles and parameters; results equal those of the log domain to 1e-5 in
  either.
"""
function compiled(circuit::Circuit; device = "cpu", precision = Float32)
    check_precision(precision)
    A = array_type(device)
    return CompiledCircuit(circuit, prepare(circuit, A, precision), A)
end

"A circuit with the buffers and parameters of the engine; see [`compiled`](@ref)."
struct CompiledCircuit{P<:Pass}
    circuit::Circuit
    pass::P
    array::Type
end

precision_of(::Pass{T}) where {T} = T

"""
    log_likelihood(circuit, x; latents = nothing, device = "cpu", precision = Float32)

log p(x, observed latents) in nats: float64 `[roots, N]`.

- `x`: integers `[num_vars, N]`, -1 or `missing` where a value is missing (it is
  marginalised);
- `latents`: name → states, integers `[positions, N]` (-1 = not observed), or weights
  `[width, positions, N]` from 0 to 1;
- `device`, `precision`: as in [`compiled`](@ref).

```jldoctest
julia> weather = hmm([0.5, 0.5], [0.75 0.25; 0.25 0.75], [1.0 0.0; 0.0 1.0], 2);

julia> round.(exp.(log_likelihood(weather, [0 0 missing; 0 1 1])); digits = 6)
1×3 Matrix{Float64}:
 0.375  0.125  0.5
```
"""
function log_likelihood(circuit::Circuit, x; latents = nothing, on...)
    return log_likelihood(compiled(circuit; on...), x; latents)
end

function log_likelihood(ready::CompiledCircuit, x; latents = nothing)
    (; circuit, pass, array) = ready
    x = check_rows(circuit, x)
    check_latents(circuit, latents, size(x, 2))
    return with_engine() do
        evidence = evidence_on_device(array, latents, precision_of(pass))
        return evaluate!(pass, rows_on_device(array, x), evidence)
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

```jldoctest
julia> coin = Circuit(1, [InputLayer([1], [1], reshape([0.5, 0.5], 2, 1, 1))], [1]);

julia> expected_counts(coin, [1 1 0 1]).layers[1][:, 1, 1]
2-element Vector{Float32}:
 1.0
 3.0
```
"""
function expected_counts(circuit::Circuit, x; weights = nothing, latents = nothing, on...)
    return expected_counts(compiled(circuit; on...), x; weights, latents)
end

function expected_counts(ready::CompiledCircuit, x; weights = nothing, latents = nothing)
    (; circuit, pass, array) = ready
    x = check_rows(circuit, x)
    return with_engine() do
        T = precision_of(pass)
        rows, scale = training_rows(circuit, array, x, weights, latents, T)
        counts = new_counts(pass)
        total = collect!(pass, counts, rows, 1:size(x, 2))
        finish_counts!(pass, counts)
        foreach(tally -> tally .*= eltype(tally)(scale), counts)
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
    fit(circuit, x, options::FitOptions; keywords...)
    fit(circuit, x; keywords...)

Train by EM; returns a [`FitResult`](@ref). Without `options`, those of
[`FitOptions`](@ref) are keywords like the others: `fit(circuit, x; epochs = 3)`.

- `weights`, `latents`, `device`, `precision`: as in [`expected_counts`](@ref);
- `valid`: validation rows `[num_vars, M]`; the returned circuit is then the best one seen;
- `order`: `[N, epochs]`, for each epoch a permutation of the rows; `nothing` draws them
  from the seed;
- `checkpoint`: a file written after every epoch, and resumed from when it exists; `key` is
  text that identifies the training, so that a file of another one is refused;
- `on_epoch(epoch)` is called after every [`Epoch`](@ref), those of a resumed training
  included, and `on_batch(done, total)` after every step.

```jldoctest
julia> coin = Circuit(1, [InputLayer([1], [1], reshape([0.5, 0.5], 2, 1, 1))], [1]);

julia> em = FitOptions(; optimizer = :full_em, epochs = 1, pseudocount = 0);

julia> trained = JuiceBridge.fit(coin, [1 1 0 1], em);

julia> trained.circuit.layers[1].params[:, 1, 1]
2-element Vector{Float32}:
 0.25
 0.75
```
"""
function fit(
    circuit::Circuit,
    x,
    options::FitOptions;
    weights = nothing,
    latents = nothing,
    valid = nothing,
    order = nothing,
    checkpoint = nothing,
    key = "",
    on_epoch = epoch -> nothing,
    on_batch = (done, total) -> nothing,
    device = "cpu",
    precision = Float32,
)
    (; pass, array) = compiled(circuit; device, precision)
    x = check_rows(circuit, x)
    isnothing(valid) || (valid = check_rows(circuit, valid, "valid"))
    isnothing(valid) || size(valid, 2) > 0 || refuse("valid has no rows; leave it out.")
    check_training(circuit, options, order, size(x, 2))
    return with_engine() do
        rows, scale = training_rows(circuit, array, x, weights, latents, precision)
        held_out = isnothing(valid) ? nothing : rows_on_device(array, valid)
        permutations = isnothing(order) ? nothing : Matrix{Int32}(order)
        pseudocount = options.pseudocount / scale
        parts = parts_to_train(circuit, pass, rows, options)
        trainer = Trainer(pass, parts, rows, held_out, options, pseudocount, permutations)
        params = train!(trainer, checkpoint, String(key), on_epoch, on_batch)
        trained = with_params(circuit, circuit_params(pass.program, params))
        return FitResult(trained, trainer.state.history)
    end
end

function fit(circuit::Circuit, x; keywords...)
    is_option(pair) = first(pair) in fieldnames(FitOptions)
    options = FitOptions(; filter(is_option, keywords)...)
    return fit(circuit, x, options; filter(!is_option, keywords)...)
end

function check_training(circuit, options::FitOptions, order, rows)
    for i in options.frozen
        i in eachindex(circuit.layers) || refuse(
            "frozen names layer $i; the circuit has $(length(circuit.layers)) layers.",
        )
        layer = circuit.layers[i]
        layer isa SumLayer && layer.tied_to > 0 || continue
        refuse("frozen names layer $i, whose weights are those of layer $(layer.tied_to).")
    end
    isnothing(order) && return nothing
    if size(order) != (rows, options.epochs)
        wrong_size("order has size $(size(order)), expected $((rows, options.epochs)).")
    end
    return all(isperm, eachcol(order)) ||
           refuse("Every column of order must be a permutation of 1 … $rows.")
end

"""
    sample(circuit, n; evidence = nothing, latents = nothing, seed = default_rng(), root = 1, …)

Draw int32 `[num_vars, n]`, or `[num_vars, n, N]` given `evidence` `[num_vars, N]` or
latents of N columns. `seed` is a number, or a generator that yields one.
"""
function sample(
    circuit::Circuit,
    n::Integer;
    evidence = nothing,
    latents = nothing,
    seed = default_rng(),
    root::Integer = 1,
    on...,
)
    return sample(compiled(circuit; on...), n; evidence, latents, seed, root)
end

function sample(
    ready::CompiledCircuit,
    n::Integer;
    evidence = nothing,
    latents = nothing,
    seed = default_rng(),
    root::Integer = 1,
)
    (; circuit, pass, array) = ready
    given = isnothing(latents) ? Dict() : latents
    alone = isnothing(evidence) && isempty(given)
    if isnothing(evidence)
        rows = alone ? 1 : last(size(first(values(given))))
        evidence = fill(Int8(MISSING), circuit.num_vars, rows)
    end
    evidence = check_rows(circuit, evidence, "evidence")
    check_latents(circuit, given, size(evidence, 2))
    root_block(circuit, root)
    n >= 0 || refuse("n is $n; it is a number of samples, so not negative.")
    number = seed_number(seed)
    return with_engine() do
        observed = evidence_on_device(array, given, precision_of(pass))
        x = rows_on_device(array, evidence)
        drawn = draw_rows(circuit, pass, x, observed, n, number, root)
        return alone ? drawn[:, :, 1] : drawn
    end
end

"""
    mpe(circuit, evidence; root = 1)

The jointly most probable completion and latents: `x`, int32 `[num_vars, N]`, and the
log-values `[N]`, -Inf where the evidence is impossible. It runs on the host, whatever the
device.

```jldoctest
julia> weather = hmm([0.5, 0.5], [0.75 0.25; 0.25 0.75], [1.0 0.0; 0.0 1.0], 2);

julia> x, value = mpe(weather, [1; missing;;]);

julia> vec(x), round.(exp.(value); digits = 6)
(Int32[1, 1], [0.375])
```
"""
function mpe(circuit::Circuit, evidence; root::Integer = 1, device = "cpu")
    array_type(device)
    check(circuit)
    rows = check_rows(circuit, evidence, "evidence")
    return with_engine(() -> best_rows(circuit, rows, root))
end

"""
    posteriors(circuit, x, name; root = 1, device = "cpu", precision = Float32)

p(latent = j | x) of the latents `name`: float32 `[width, positions, N]`.

```jldoctest
julia> weather = hmm([0.5, 0.5], [0.75 0.25; 0.25 0.75], [1.0 0.0; 0.0 1.0], 2);

julia> posteriors(weather, [1; missing;;], "z")[:, :, 1]
2×2 Matrix{Float32}:
 0.0  0.25
 1.0  0.75
```
"""
function posteriors(circuit::Circuit, x, name; root::Integer = 1, on...)
    return posteriors(compiled(circuit; on...), x, name; root)
end

function posteriors(ready::CompiledCircuit, x, name; root::Integer = 1)
    (; circuit, pass, array) = ready
    name isa AbstractString ||
        refuse("The name of a latent is text, such as \"z\", but this is $(repr(name)).")
    x = check_rows(circuit, x)
    root_block(circuit, root)
    return with_engine() do
        return latent_flows(circuit, pass, rows_on_device(array, x), name, root)
    end
end
