# EM steps against counts from plain evaluation, worked out by hand.

"θ ← (1 - η)·θ + η·normalise(counts + pseudocount / siblings); rows without counts stay."
function oracle_step(circuit, counts, η, pseudocount)
    return map(circuit.layers, counts) do layer, count
        isnothing(count) && return nothing
        θ = Float64.(layer_params(layer))
        for family in families_of(layer), o in axes(θ, 2)
            total = sum(count[:, o, family])
            total > 0 || continue
            siblings = length(family) * size(θ, 1)
            fresh = (count[:, o, family] .+ pseudocount / siblings) ./ (total + pseudocount)
            θ[:, o, family] .= (1 - η) .* θ[:, o, family] .+ η .* fresh
        end
        return θ
    end
end

same_params(a, b) =
    all(zip(a.layers, b.layers)) do (p, q)
        layer_params(p) == layer_params(q)
    end

total_ll(circuit, x) = sum(log_likelihood(circuit, x))

steady(η) = Schedule(η, η)

TRAINED = merge(ENGINE_CIRCUITS, Dict("random $s" => random_circuit(s, 4) for s = 1:6))

@testset "one step of a $name" for (name, circuit) in TRAINED
    x, weights = rows_of(circuit, 6, 1), 3 .* rand(Xoshiro(2), length(circuit.roots), 6)
    counts = oracle_counts(circuit, x, weights)
    for (optimizer, η) in ((:full_em, 1.0), (:mini_em, 0.3))
        options = FitOptions(;
            optimizer,
            epochs = 1,
            batch_size = 6,
            step_size = steady(η),
            pseudocount = 0.5,
        )
        fitted = fit(circuit, x, options; weights)
        @test close_params(fitted.circuit, oracle_step(circuit, counts, η, 0.5))
        @test length(fitted.history) == 1
        check(fitted.circuit)
    end
end

"One step of anemone: θ ∝ η·(counts + pseudocount / siblings) + (1 - η)·rows·TD·θ."
function oracle_anemone(circuit, counts, η, pseudocount, rows)
    return map(enumerate(circuit.layers), counts) do (i, layer), count
        isnothing(count) && return nothing
        θ, reach = Float64.(layer_params(layer)), expected_reach(circuit, i)
        for family in families_of(layer), o in axes(θ, 2)
            sum(count[:, o, family]) > 0 || continue
            siblings = length(family) * size(θ, 1)
            fresh = η .* (count[:, o, family] .+ pseudocount / siblings)
            fresh .+= (1 - η) .* rows .* reach[:, o, family]
            θ[:, o, family] .= fresh ./ sum(fresh)
        end
        return θ
    end
end

"Expected counts of one draw: those of every row, weighed by its probability."
function expected_reach(circuit, i)
    every = reduce(hcat, completions(circuit, fill(-1, circuit.num_vars)))
    weights = exp.(oracle_ll(circuit, every))
    return oracle_counts(circuit, every, weights)[i]
end

@testset "one step of anemone" begin
    for circuit in (hclt([0, 1, 1], 2, 2; seed = 3), random_hmm(2, 2, 3; seed = 1))
        x = rows_of(circuit, 5, 1)
        options = FitOptions(;
            optimizer = :anemone,
            epochs = 1,
            batch_size = 5,
            step_size = steady(0.4),
            pseudocount = 0.3,
        )
        found = fit(circuit, x, options).circuit
        counts = oracle_counts(circuit, x)
        @test close_params(found, oracle_anemone(circuit, counts, 0.4, 0.3, 5))
    end
end

@testset "a step with observed latents" begin
    for name in WITH_LATENT
        circuit = ENGINE_CIRCUITS[name]
        x = rows_of(circuit, 6, 3)
        z = rand(Xoshiro(4), Int32(-1):Int32(1), length(circuit.latents["z"]), 6)
        latents = Dict("z" => z)
        options = FitOptions(; optimizer = :full_em, epochs = 1, pseudocount = 0.0)
        found = fit(circuit, x, options; latents).circuit
        counts = oracle_counts(circuit, x; latents)
        @test close_params(found, oracle_step(circuit, counts, 1.0, 0.0))
    end
end

@testset "a root without weight is left alone" begin
    bundle = ENGINE_CIRCUITS["bundle"]
    x = rows_of(bundle, 8, 5; missing_share = 0)
    options = FitOptions(; epochs = 2, batch_size = 4)
    fitted = fit(bundle, x, options; weights = repeat([1, 0], 1, 8)).circuit
    before, after = log_likelihood(bundle, x), log_likelihood(fitted, x)
    @test after[2, :] ≈ before[2, :] rtol = 1e-6
    @test sum(after[1, :]) > sum(before[1, :])
end

"How many parts of a circuit take steps one by one."
function number_of_parts(circuit; optimizer = :mini_em)
    pass = JuiceBridge.prepare(circuit, "cpu", Float32)
    weights = ones(Float32, 2, length(circuit.roots))
    rows = JuiceBridge.Rows(rows_of(circuit, 2, 1), weights, JuiceBridge.Evidence())
    parts = JuiceBridge.parts_to_train(circuit, pass, rows, FitOptions(; optimizer))
    return length(parts)
end

@testset "circuits that share nothing are trained one by one" begin
    bundle = ENGINE_CIRCUITS["bundle"]
    @test number_of_parts(bundle) == 2
    @test number_of_parts(bundle; optimizer = :anemone) == 0
    @test number_of_parts(choose_roots(bundle, [1, 2, 1])) == 2
    @test all(name -> number_of_parts(ENGINE_CIRCUITS[name]) == 0, ("hclt", "hmm", "glued"))
    # Nodes that single precision cannot tell from zero, in each part.
    drawn = patch_bundle([0, 1, 2], 2, 2, 2; seed = 1)
    layers = map(drawn.layers) do layer
        layer isa ProductLayer && return layer
        params = copy(layer_params(layer))
        params[:, 1, :] .= layer isa InputLayer ? [1, 0] : [1.0f-36, 1]
        params[:, end, :] .= layer isa InputLayer ? [0, 1] : [1.0f-36, 1]
        return with_params(layer, params)
    end
    circuit = Circuit(6, layers, drawn.roots)
    x, weights = rand(Xoshiro(8), Int32(0):Int32(1), 6, 9), rand(Xoshiro(9), 2, 9)
    weights[2, 1:4] .= 0
    options = FitOptions(; epochs = 1, batch_size = 9, step_size = steady(0.3))
    fitted = fit(circuit, x, options; weights).circuit
    counts = oracle_counts(circuit, x, weights)
    @test close_params(fitted, oracle_step(circuit, counts, 0.3, 0.1))
end

@testset "parts are trained on from a checkpoint as without one" begin
    circuit = ENGINE_CIRCUITS["bundle"]
    x, options = rows_of(circuit, 20, 1), FitOptions(; epochs = 4, batch_size = 7, seed = 3)
    expected = fit(circuit, x, options).circuit
    mktempdir() do folder
        checkpoint = joinpath(folder, "training.h5")
        stop(epoch) = epoch.epoch == 2 && throw(InterruptException())
        @test_throws InterruptException fit(
            circuit,
            x,
            options;
            checkpoint,
            on_epoch = stop,
        )
        @test same_params(fit(circuit, x, options; checkpoint).circuit, expected)
    end
end

@testset "full-batch EM of a $name never falls" for (name, circuit) in TRAINED
    x = rows_of(circuit, 20, 6)
    options =
        FitOptions(; optimizer = :full_em, epochs = 8, batch_size = 7, pseudocount = 0.0)
    curve = [epoch.train for epoch in fit(circuit, x, options).history]
    @test all(>(-1e-5), diff(curve))
    @test curve[end] > curve[1]
end

@testset "$optimizer improves a $name and repeats" for optimizer in (:mini_em, :anemone),
    (name, circuit) in ENGINE_CIRCUITS

    x = rows_of(circuit, 40, 7; missing_share = 0.1)
    options =
        FitOptions(; optimizer, epochs = 6, batch_size = 16, pseudocount = 0.01, seed = 8)
    first, second = (fit(circuit, x, options).circuit for _ = 1:2)
    @test total_ll(first, x) > total_ll(circuit, x)
    @test same_params(first, second)
end

@testset "frozen layers stay" begin
    for (name, circuit) in ENGINE_CIRCUITS
        x = rows_of(circuit, 20, 9)
        options = FitOptions(; epochs = 2, batch_size = 10, frozen = [1])
        fitted = fit(circuit, x, options).circuit
        @test layer_params(fitted.layers[1]) == layer_params(circuit.layers[1])
        @test total_ll(fitted, x) > total_ll(circuit, x)
        check(fitted)
    end
end

@testset "layers that are tied stay so" begin
    circuit = random_hmm(3, 4, 5; seed = 3)
    fitted = fit(circuit, rows_of(circuit, 30, 1), FitOptions(; epochs = 2)).circuit
    tied = [layer for layer in fitted.layers if layer isa SumLayer && layer.tied_to > 0]
    @test !isempty(tied)
    @test all(layer -> layer.weights === fitted.layers[layer.tied_to].weights, tied)
end

@testset "step sizes" begin
    size_at(schedule) = [JuiceBridge.step_size(schedule, step, 11) for step in (0, 5, 10)]
    @test size_at(Schedule(1, 0.2)) ≈ [1, 0.6, 0.2]
    @test size_at(Schedule(1, 0.2, :cosine)) ≈ [1, 0.6, 0.2]
    @test size_at(Schedule(1, 0.2, :constant)) == [1, 1, 1]
    @test size_at(Schedule(1, 0.2, :step, 0.5)) == [1, 1, 0.2]
    @test_throws "kind is :wild" Schedule(1, 0.2, :wild)
end

@testset "the order of rows can be given" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    x = rows_of(circuit, 12, 1)
    options = FitOptions(; epochs = 2, batch_size = 5)
    order = reduce(hcat, [Int32.(shuffle(Xoshiro(e), 1:12)) for e = 1:2])
    given = fit(circuit, x, options; order).circuit
    step_options = FitOptions(; epochs = 1, batch_size = 5, step_size = steady(0.1))
    by_hand, step = circuit, 0
    for e = 1:2, part in Iterators.partition(1:12, 5)
        η = JuiceBridge.step_size(options.step_size, step, 6)
        one = FitOptions(; epochs = 1, batch_size = 5, step_size = steady(η))
        by_hand = fit(by_hand, x[:, order[part, e]], one).circuit
        step += 1
    end
    @test close_params(given, map(layer_params, by_hand.layers); atol = 1e-6)
    @test_throws "permutation" fit(circuit, x, options; order = ones(Int, 12, 2))
    @test_throws "expected (12, 2)" fit(circuit, x, options; order = order[:, 1:1])
end

@testset "validation keeps the best circuit and stops" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    x = rows_of(circuit, 6, 1; missing_share = 0)
    valid = rows_of(circuit, 40, 2; missing_share = 0)
    options =
        FitOptions(; optimizer = :full_em, epochs = 30, pseudocount = 0.0, patience = 2)
    fitted = fit(circuit, x, options; valid)
    scores = [epoch.valid for epoch in fitted.history]
    @test length(scores) < 30
    @test length(scores) == argmax(scores) + 2
    found = sum(log_likelihood(fitted.circuit, valid)) / 40
    @test found ≈ maximum(scores) rtol = 1e-5
end

@testset "a training is resumed where it stopped" begin
    for optimizer in (:mini_em, :anemone), circuit in values(ENGINE_CIRCUITS)
        x, valid = rows_of(circuit, 20, 1), rows_of(circuit, 10, 2)
        options = FitOptions(; optimizer, epochs = 5, batch_size = 7, seed = 3)
        expected = fit(circuit, x, options; valid)
        mktempdir() do folder
            checkpoint, seen = joinpath(folder, "training.h5"), Int[]
            stop(epoch) = epoch.epoch == 2 && throw(InterruptException())
            try
                fit(circuit, x, options; valid, checkpoint, key = "a", on_epoch = stop)
            catch error
                error isa InterruptException || rethrow()
            end
            @test isfile(checkpoint)
            on_epoch(epoch) = push!(seen, epoch.epoch)
            found = fit(circuit, x, options; valid, checkpoint, key = "a", on_epoch)
            @test seen == 1:5
            @test same_params(found.circuit, expected.circuit)
            curve(result) = [(e.train, e.valid, e.step_size) for e in result.history]
            @test curve(found) == curve(expected)
            @test_throws "another training" fit(circuit, x, options; checkpoint, key = "b")
            write(checkpoint, "no HDF5")
            @test_throws BridgeError fit(circuit, x, options; checkpoint, key = "a")
        end
    end
end

@testset "what cannot be trained" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    x = rows_of(circuit, 4, 1)
    @test_throws "optimizer is :sgd" fit(circuit, x, FitOptions(; optimizer = :sgd))
    @test_throws "batch_size" fit(circuit, x, FitOptions(; batch_size = 0))
    @test_throws "pseudocount" fit(circuit, x, FitOptions(; pseudocount = -1))
    @test_throws "frozen" fit(circuit, x, FitOptions(; frozen = [99]))
    @test_throws "valid" fit(circuit, x; valid = x[2:end, :])
end
