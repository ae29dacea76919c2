# Likelihoods, counts and EM steps against plain evaluation.

@testset "likelihoods and counts of a $name" for (name, circuit) in ENGINE_CIRCUITS
    x = [rows_of(circuit, 12, 1; missing_share = 0) rows_of(
        circuit,
        12,
        2;
        missing_share = 0.4,
    )]
    found = log_likelihood(circuit, x)
    @test found isa Matrix{Float64}
    @test found ≈ oracle_ll(circuit, x) rtol = 1e-6
    @test log_likelihood(circuit, x; precision = Float64) ≈ oracle_ll(circuit, x) rtol =
        1e-12
    for root in eachindex(circuit.roots)
        every = reduce(hcat, completions(circuit, fill(-1, circuit.num_vars); root))
        @test sum(exp, log_likelihood(circuit, every)[root, :]) ≈ 1 atol = 1e-5
    end
    few, weights = x[:, 10:15], rand(Xoshiro(3), length(circuit.roots), 6)
    weights[:, 1] .= 0
    counts = expected_counts(circuit, few; weights)
    @test close_counts(counts.layers, oracle_counts(circuit, few, weights))
    @test counts.log_likelihood ≈ sum(weights .* oracle_ll(circuit, few)) rtol = 1e-5
    for T in (Int8, UInt8, Int64)
        seen = T.(max.(few, 0))
        @test log_likelihood(circuit, seen) == log_likelihood(circuit, Int32.(seen))
    end
    none = fill(-1, circuit.num_vars, 1)
    @test maximum(abs, log_likelihood(circuit, none)) < 1e-5
    @test size(log_likelihood(circuit, none[:, 1:0])) == (length(circuit.roots), 0)
end

@testset "observed latents of a $name" for name in keys(ENGINE_CIRCUITS)
    circuit = ENGINE_CIRCUITS[name]
    for latent in keys(circuit.latents)
        x, soft = rows_of(circuit, 6, 4), soft_latents(circuit, latent, 6, 5)
        hard = Int32.(rand(Xoshiro(6), -1:(size(soft, 1)-1), size(soft)[2:3]...))
        for given in (hard, soft)
            latents = Dict(latent => given)
            expected = reduce(
                hcat,
                [oracle_ll(circuit, x[:, n]; latents = latents_at(latents, n)) for n = 1:6],
            )
            @test log_likelihood(circuit, x; latents) ≈ expected rtol = 1e-5
            possible = findall(n -> all(isfinite, expected[:, n]), 1:6)
            isempty(possible) && continue
            some = latents_at_columns(latents, possible)
            counts = expected_counts(circuit, x[:, possible]; latents = some)
            reference = oracle_counts(circuit, x[:, possible]; latents = some)
            @test close_counts(counts.layers, reference)
        end
    end
end

@testset "random circuits" begin
    for seed = 1:60
        circuit = random_circuit(seed, 2 + seed % 5)
        x = rows_of(circuit, 8, seed)
        @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-5 atol = 1e-6
        seed <= 20 || continue
        weights = rand(Xoshiro(seed), 1, 8)
        counts = expected_counts(circuit, x; weights)
        @test close_counts(counts.layers, oracle_counts(circuit, x, weights))
    end
end

@testset "evidence on every block" begin
    for seed = 1:20
        plain = random_circuit(seed, 4)
        blocks = [b for b = 1:num_blocks(plain)]
        names = Dict("b$b" => Int32[b] for b in blocks)
        circuit = Circuit(4, plain.layers, plain.roots; latents = names)
        x, rng = rows_of(circuit, 5, seed), Xoshiro(seed)
        for b in rand(rng, blocks[1:(end-1)], 3)
            latents = Dict("b$b" => soft_latents(circuit, "b$b", 5, seed))
            expected = [
                oracle_ll(circuit, x[:, n]; latents = latents_at(latents, n))[1] for n = 1:5
            ]
            @test vec(log_likelihood(circuit, x; latents)) ≈ expected rtol = 1e-5 atol =
                1e-6
            counts = expected_counts(circuit, x; latents)
            @test close_counts(counts.layers, oracle_counts(circuit, x; latents))
        end
    end
end

@testset "what does not fit is refused" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    x = rows_of(circuit, 3, 0)
    beyond = copy(x)
    beyond[3, 2] = 2
    @test_throws DimensionMismatch log_likelihood(circuit, x[2:end, :])
    @test_throws ArgumentError log_likelihood(circuit, Float64.(x))
    @test_throws "in column 2 the variable 3 is 2" log_likelihood(circuit, beyond)
    @test_throws ArgumentError log_likelihood(circuit, x .- Int32(2))
    @test_throws "nonsense" log_likelihood(circuit, x; latents = Dict("nonsense" => x))
    @test_throws "size (4, 2)" log_likelihood(circuit, x; latents = Dict("z" => x[:, 1:2]))
    @test_throws "states from 0 to 2" log_likelihood(
        circuit,
        x;
        latents = Dict("z" => x .+ 3),
    )
    @test_throws "weights from 0 to 1" log_likelihood(
        circuit,
        x;
        latents = Dict("z" => fill(2.0, 3, 4, 3)),
    )
    @test_throws "no rows" expected_counts(circuit, x[:, 1:0])
    @test_throws "not negative" expected_counts(circuit, x; weights = [-1, 1, 1])
    @test_throws "weights have size" expected_counts(circuit, x; weights = [1, 1])
    @test_throws "not available" log_likelihood(circuit, x; device = "tpu")
    without_cuda = !haskey(JuiceBridge.DEVICES, "cuda")
    expected = without_cuda ? "load CUDA.jl" : BridgeError
    @test_throws expected log_likelihood(circuit, x; device = "cuda:999")
end

@testset "threads count together what small batches count: $name" for (name, circuit) in (
    "hmm" => random_hmm(64, 20, 5; seed = 1),
    "rat_spn" => ENGINE_CIRCUITS["rat_spn"],
    "glued" => ENGINE_CIRCUITS["glued"],
)
    x = rows_of(circuit, 640, 1)
    whole = expected_counts(circuit, x)
    parts = [expected_counts(circuit, x[:, k:(k+19)]) for k = 1:20:640]
    @test whole.log_likelihood ≈ sum(part.log_likelihood for part in parts)
    for (i, counted) in enumerate(whole.layers)
        isnothing(counted) && continue
        @test counted ≈ sum(part.layers[i] for part in parts) rtol = 1e-4
    end
end

@testset "loops over any number of values" begin
    for count in (0, 1, 15, 16, 17, 48, 63, 64, 100)
        values = [zeros(Float32, 3); rand(Xoshiro(count), Float32, count); 0.0f0]
        some = values[4:(end-1)]
        doubled = zeros(Float32, count)
        JuiceBridge.each_lane(k -> doubled[k] = 2 * values[3+k], count)
        @test doubled == 2 .* some
        @test JuiceBridge.sum_column(values, 3, count) ≈ sum(some)
        count == 0 || @test JuiceBridge.extremes(values, 3, count) == extrema(some)
    end
end

@testset "roots that are leaves" begin
    test_leaf_roots(Array)
end
