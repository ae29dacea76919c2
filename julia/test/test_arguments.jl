# What the functions accept, what they refuse in a sentence, and how results look.

"What the engine can be asked about a circuit, with few rows."
const QUESTIONS = [
    "log_likelihood" => (c, x) -> log_likelihood(c, x),
    "expected_counts" => (c, x) -> expected_counts(c, x),
    "fit" => (c, x) -> fit(c, x; epochs = 1),
    "sample" => (c, x) -> sample(c, 2; evidence = x, seed = 1),
    "mpe" => (c, x) -> mpe(c, x),
    "posteriors" => (c, x) -> posteriors(c, x, "z"),
]

"Ways to break a circuit whose arrays nobody has looked at since it was made."
const BREAKAGES = [
    "group" => c -> c.layers[1].groups[end] = 99,
    "group 0" => c -> c.layers[3].groups[1] = 0,
    "variable" => c -> c.layers[1].variables[1] = 99,
    "child" => c -> c.layers[2].children[1] = 99,
    "edge" => c -> c.layers[3].children[1] = -3,
    "offset" => c -> c.layers[2].offsets[2] = 99,
    "latent" => c -> c.latents["z"][1] = 99,
    "root" => c -> c.roots[1] = 99,
    "negative" => c -> c.layers[1].params[1] = -1,
    "not a number" => c -> c.layers[3].weights[1] = NaN,
]

@testset "$question of a circuit with a broken $what" for (question, ask) in QUESTIONS,
    (what, break!) in BREAKAGES

    circuit = hclt([2, 0, 2], 3, 3; seed = 4)
    x = random_rows([3, 3, 3], 6, 1)
    ask(circuit, x)
    break!(circuit)
    @test_throws BridgeError ask(circuit, x)
end

@testset "settings of every thread come back" begin
    circuit = ENGINE_CIRCUITS["glued"]
    x = rows_of(circuit, 3000, 1)
    flushed() = fetch.([Threads.@spawn(get_zero_subnormals()) for _ = 1:100])
    threads = JuiceBridge.BLAS.get_num_threads()
    JuiceBridge.BLAS.set_num_threads(2)
    foreach(fetch, [Threads.@spawn(log_likelihood(circuit, x)) for _ = 1:8])
    @test JuiceBridge.BLAS.get_num_threads() == 2
    @test !any(flushed())
    JuiceBridge.BLAS.set_num_threads(threads)
    task = current_task()
    before = task.sticky
    @test_throws ErrorException JuiceBridge.with_engine(() -> error("a fault"))
    @test task.sticky == before && !get_zero_subnormals()
    @test JuiceBridge.BLAS_USERS.calls == 0
end

@testset "options" begin
    wrong = [
        (; optimizer = "mini_em"),
        (; optimizer = :adam),
        (; epochs = -1),
        (; epochs = 100_001),
        (; epochs = 1.5),
        (; batch_size = 0),
        (; patience = 0),
        (; pseudocount = -0.1),
        (; pseudocount = NaN),
        (; pseudocount = Inf),
        (; pseudocount = 1e10),
        (; momentum = 1),
        (; momentum = -0.5),
        (; momentum = NaN),
        (; seed = -1),
        (; seed = big(2)^70),
        (; seed = 1.5),
    ]
    for options in wrong
        @test_throws "$(only(keys(options))) is" FitOptions(; options...)
        @test_throws ArgumentError FitOptions(; options...)
    end
    for (start, stop) in ((1.5, 1.5), (0, 0.1), (0.1, 0), (-1, 0.5), (NaN, 0.1), (0.1, 5))
        @test_throws ArgumentError Schedule(start, stop)
    end
    @test_throws "kind is :square" Schedule(0.1, 0.1, :square)
    @test_throws "switch is 2" Schedule(0.1, 0.1, :step, 2)
    circuit = ENGINE_CIRCUITS["hclt"]
    x = rows_of(circuit, 4, 1)
    @test_throws "valid has no rows" fit(circuit, x; valid = x[:, 1:0])
    for frozen in ([0], [99])
        @test_throws "frozen names" fit(circuit, x; frozen)
    end
    chain = random_hmm(3, 4, 4; seed = 1)
    tied = findfirst(layer -> layer isa SumLayer && layer.tied_to > 0, chain.layers)
    @test_throws "frozen names layer $tied" fit(chain, zeros(Int, 4, 2); frozen = [tied])
    @test fit(circuit, x; epochs = 0).circuit == circuit
    @test fit(circuit, x; epochs = 2, batch_size = 2, seed = 3).circuit ==
          fit(circuit, x, FitOptions(; epochs = 2, batch_size = 2, seed = 3)).circuit
    # A pseudocount within its range stays so, however small the weights.
    small = fit(circuit, x; epochs = 1, weights = fill(1e-9, 4), pseudocount = 10)
    @test length(small.history) == 1
end

@testset "arguments that Julia users try" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    x = Matrix{Int}(rows_of(circuit, 5, 1; missing_share = 0.3))
    gaps = [value < 0 ? missing : value for value in x]
    @test log_likelihood(circuit, gaps) == log_likelihood(circuit, x)
    @test mpe(circuit, gaps) == mpe(circuit, x)
    @test fit(circuit, gaps; epochs = 1).circuit == fit(circuit, x; epochs = 1).circuit
    for precision in (Float16, "float32", BigFloat)
        @test_throws "must be Float32 or Float64" log_likelihood(circuit, x; precision)
    end
    @test_throws "device is :cpu" log_likelihood(circuit, x; device = :cpu)
    @test_throws "but this is :z" posteriors(circuit, x, :z)
    @test_throws "n is -1" sample(circuit, -1; seed = 1)
    @test size(sample(circuit, 0; seed = 1)) == (circuit.num_vars, 0)
    @test_throws "root is 2" sample(circuit, 1; root = 2)
    for seed in (-1, big(2)^70, 0.5, nothing)
        @test_throws "seed is" sample(circuit, 1; seed)
        @test_throws "seed is" hclt([0, 1], 2, 2; seed)
    end
    for make in
        (rng -> sample(circuit, 20; seed = rng), rng -> hclt([0, 1], 3, 4; seed = rng))
        @test make(StableRNG(1)) == make(StableRNG(1)) != make(StableRNG(2))
    end
    @test size(sample(circuit, 3)) == (circuit.num_vars, 3)
    @test hclt([0, 1], 3, 4) != hclt([0, 1], 3, 4)
end

@testset "equality" begin
    make(seed) = hclt([2, 0, 2], 3, [2, 3, 2]; seed)
    @test make(1) == make(1) && hash(make(1)) == hash(make(1))
    @test make(1) != make(2)
    other = make(1)
    other.meta["note"] = "another"
    @test other != make(1)
    @test length(unique([make(1), make(2), make(1)])) == 2
end

@testset "a circuit is made ready once" begin
    for (name, circuit) in ENGINE_CIRCUITS
        x = rows_of(circuit, 20, 1; missing_share = 0.2)
        ready = JuiceBridge.compiled(circuit)
        for _ = 1:2
            @test log_likelihood(ready, x) == log_likelihood(circuit, x)
            counts = expected_counts(ready, x)
            @test counts.layers == expected_counts(circuit, x).layers
            @test sample(ready, 3; seed = 1) == sample(circuit, 3; seed = 1)
            for latent in keys(circuit.latents)
                @test posteriors(ready, x, latent) == posteriors(circuit, x, latent)
            end
        end
    end
end

@testset "results look short" begin
    circuit = hclt([2, 0, 2], 3, [2, 3, 2]; seed = 4)
    x = random_rows([2, 3, 2], 6, 1; missing_share = 0)
    result = fit(circuit, x; epochs = 2, valid = x)
    for shown in
        (expected_counts(circuit, x), result, result.history[1], FitOptions(), Schedule())
        @test length(repr(shown)) < 200 && !occursin('\n', repr("text/plain", shown))
    end
    @test repr(FitOptions(; epochs = 3)) == "FitOptions(; optimizer = :mini_em, epochs = 3)"
    @test repr(Schedule(0.3, 0.1)) == "Schedule(0.3 → 0.1, :linear)"
    @test startswith(repr(expected_counts(circuit, x)), "Counts(4 layers, ")
    @test occursin("2 epochs, last Epoch 2: train -", repr(result))
end

@testset "rows for Juice.jl and back" begin
    x = random_rows([3, 2, 4], 7, 2; missing_share = 0.3)
    there = juice_rows(x)
    @test size(there) == (7, 3) && any(ismissing, there)
    @test from_juice_rows(there) == x
    whole = random_rows([3, 2, 4], 7, 2; missing_share = 0)
    @test from_juice_rows(juice_rows(whole)) == whole
    @test from_juice_rows(juice_rows(UInt8.(whole))) == whole
    @test from_juice_rows([true missing; false true]) == [1 0; -1 1]
end
