# What underflow would take away in float32: circuits whose parts agree only far below their
# maxima, against plain evaluation and against float64.

@testset "sharp random circuits" begin
    for seed = 1:150
        circuit =
            sharpened(random_circuit(seed, 3 + seed % 6), (5, 30, 100)[1+seed%3], seed)
        x = rows_of(circuit, 20, seed; missing_share = 0.1)
        expected = oracle_ll(circuit, x)
        @test same_logs(log_likelihood(circuit, x), expected)
        @test same_logs(log_likelihood(circuit, x; precision = Float64), expected)
        possible = x[:, vec(all(isfinite, expected; dims = 1))]
        isempty(possible) && continue
        exact = expected_counts(circuit, possible; precision = Float64)
        @test close_counts(
            expected_counts(circuit, possible).layers,
            exact.layers;
            atol = 1e-3,
        )
    end
end

@testset "sharp trees" begin
    for seed = 1:75
        rng = Xoshiro(seed)
        parents = [v == 1 ? 0 : rand(rng, 1:(v-1)) for v = 1:(3+seed%6)]
        circuit = sharpened(hclt(parents, 3, 3; seed), (5, 30, 100)[1+seed%3], seed)
        x = rows_of(circuit, 20, seed; missing_share = 0.1)
        @test same_logs(log_likelihood(circuit, x), oracle_ll(circuit, x))
        exact = expected_counts(circuit, x; precision = Float64)
        @test close_counts(expected_counts(circuit, x).layers, exact.layers; atol = 1e-3)
    end
end

"One product of many binary leaves: p(x_v = 1 | node j) = factors[j, v]."
function chain_of_factors(factors)
    width, count = size(factors)
    params = stack([1 .- factors, factors]; dims = 1)
    layers = Layer[
        InputLayer(1:count, 1:count, params),
        ProductLayer(:hadamard, [1, count + 1], 1:count),
        SumLayer([1, 2], [count + 1], [1], fill(1 / width, width, 1, 1)),
    ]
    return Circuit(count, layers, [count + 2])
end

@testset "products of opposed scales" begin
    for factors in (
        [1.0 1e-30 1e-30; 1e-30 1.0 1.0],
        [1.0 1e-37 1e-37 1.0; 1e-37 1.0 1e-37 1e-30],
        [1e-20 1e-20 1e-35 1e-30 1e-37; 1e-35 1e-30 1e-20 1e-20 1e-36],
        [0.0 1e-30 1.0; 1e-30 1e-30 1e-30],
    )
        circuit = chain_of_factors(factors)
        x = ones(Int32, circuit.num_vars, 1)
        @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-5
        found = expected_counts(circuit, x).layers
        exact = expected_counts(circuit, x; precision = Float64).layers
        @test close_counts(found, exact)
    end
end

@testset "three thousand sharp variables" begin
    rng = Xoshiro(0)
    parents = [v == 1 ? 0 : rand(rng, max(1, v - 5):(v-1)) for v = 1:3072]
    circuit = hclt(parents, 4, 16; seed = 1)
    sharp = map(circuit.layers) do layer
        layer isa ProductLayer && return nothing
        raised = Float64.(layer_params(layer)) .^ 8
        return Float32.(raised ./ sum(raised; dims = 1))
    end
    circuit = with_params(circuit, sharp)
    x = rows_of(circuit, 8, 2; missing_share = 0)
    exact = log_likelihood(circuit, x; precision = Float64)
    @test maximum(exact) < -10_000
    @test log_likelihood(circuit, x) ≈ exact rtol = 1e-5
    @test exact ≈ oracle_ll(circuit, x) rtol = 1e-9
end

@testset "what underflows before a tile is divided by its maximum" begin
    # [1e-12, 1e-39] becomes [1, 0]; a factor of [1e-30, 1] makes the zero decide.
    factors = [1e-12 1.0 1e-30; 1e-20 1e-19 1.0]
    layers = Layer[
        InputLayer(1:3, 1:3, stack([1 .- factors, factors]; dims = 1)),
        ProductLayer(:hadamard, [1, 3], [1, 2]),
        SumLayer([1, 2], [4], [1], reshape([1.0 0; 0 1], 2, 2, 1)),
        ProductLayer(:hadamard, [1, 3], [3, 5]),
        SumLayer([1, 2], [6], [1], fill(0.5, 2, 1, 1)),
    ]
    circuit = Circuit(3, layers, [7]; latents = Dict("z" => Int32[4]))
    x = ones(Int32, 3, 1)
    @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-6
    share = 1e-42 / (1e-42 + 1e-39)
    @test posteriors(circuit, x, "z")[:, 1, 1] ≈ [share, 1 - share] rtol = 1e-4
end

"Two states that never change: what looks lost half-way decides at the end."
function sticky_hmm(length)
    emission = [1-1e-4 1e-4; 1e-4 1-1e-4]
    return hmm([0.5, 0.5], [1.0 0; 0 1], emission, length)
end

@testset "a state that underflowed can come back" begin
    circuit = sticky_hmm(24)
    half(k) = Int32[fill(0, k); fill(1, 24 - k)]
    x = [half(12) half(11) half(24) fill(Int32(-1), 24)]
    @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-5 atol = 1e-6
    exact = expected_counts(circuit, x; precision = Float64)
    @test close_counts(expected_counts(circuit, x).layers, exact.layers; atol = 1e-4)
    @test posteriors(circuit, x[:, 1:1], "z")[:, 1, 1] ≈ [0.5, 0.5] atol = 1e-5
end

@testset "mixtures of opposed parts" begin
    for seed = 1:8
        circuit = mixture(4, 3, seed)
        rng = Xoshiro(seed)
        sharp = map(enumerate(circuit.layers)) do (i, layer)
            layer isa ProductLayer && return nothing
            i == 4 && return layer.weights
            raised = Float64.(layer_params(layer)) .^ rand(rng, 10:60)
            raised ./= sum(raised; dims = 1)
            return Float32.(ifelse.(raised .< 1e-37, 0.0, raised))
        end
        circuit = with_params(circuit, sharp)
        x = rows_of(circuit, 40, seed; missing_share = 0)
        @test same_logs(log_likelihood(circuit, x), oracle_ll(circuit, x))
    end
end

@testset "hard evidence on a concat of very unequal parts" begin
    # The value that is observed is 300 nats less likely than the others.
    n = 12
    factors = [fill(0.9, n) fill(1e-11, n)]
    params = reshape(stack([1 .- factors, factors]; dims = 1), 2, 1, 2 * n)
    offsets = [1, n + 1, 2 * n + 1]
    layers = Layer[
        InputLayer(repeat(1:n, 2), 1:(2*n), params),
        ProductLayer(:hadamard, offsets, 1:(2*n)),
        ProductLayer(:concat, [1, 3], [2 * n + 1, 2 * n + 2]),
        SumLayer([1, 2], [2 * n + 3], [1], reshape([0.75, 0.25], 2, 1, 1)),
    ]
    circuit = Circuit(n, layers, [2 * n + 4]; latents = Dict("z" => Int32[2*n+3]))
    x = ones(Int32, n, 3)
    latents = Dict("z" => Int32[1 0 -1])
    expected =
        [oracle_ll(circuit, x[:, k]; latents = latents_at(latents, k))[1] for k = 1:3]
    @test vec(log_likelihood(circuit, x; latents)) ≈ expected rtol = 1e-6
    exact = expected_counts(circuit, x; latents, precision = Float64)
    @test close_counts(expected_counts(circuit, x; latents).layers, exact.layers)
end

@testset "impossible rows count nothing" begin
    emission = [0.5 0.25; 0.5 0.75; 0.0 0.0]
    circuit = hmm([0.5, 0.5], [0.9 0.1; 0.1 0.9], emission, 3)
    x = Int32[0 1 2; 1 0 0; 0 1 1]
    @test log_likelihood(circuit, x)[3] == -Inf
    some, all_of_them = expected_counts(circuit, x[:, 1:2]), expected_counts(circuit, x)
    @test all_of_them.log_likelihood == -Inf
    @test close_counts(all_of_them.layers, some.layers)
end

"The passes in single and double precision after `x` went upward."
function both_passes(circuit, x; latents = nothing)
    return JuiceBridge.with_engine() do
        single = JuiceBridge.prepare(circuit, "cpu", Float32)
        double = JuiceBridge.double_pass!(single)
        for pass in (single, double)
            JuiceBridge.load!(pass, x, axes(x, 2))
            T = eltype(pass.scratch.array)
            evidence = JuiceBridge.evidence_on_device(Array, latents, T)
            JuiceBridge.observe!(pass, evidence, axes(x, 2))
            JuiceBridge.upward!(pass)
        end
        return single, double
    end
end

"Whether a layer's values in single precision are within their bounds of those in double."
function within_bounds(single, double, i)
    values, exact = single.tiles[i].array, double.tiles[i].array
    for b in axes(values, 3), n in axes(values, 2)
        bound = single.lossy[i] ? single.errors[i].array[n, b] : 0.0
        scale, reference = single.scales[i].array[n, b], double.scales[i].array[n, b]
        if scale == -Inf || reference == -Inf
            all(iszero, view(values, :, n, b)) || return false
            scale > -Inf || all(iszero, view(exact, :, n, b)) || return false
            continue
        end
        shift = exp2(min(scale - reference, 1000))
        for w in axes(values, 1)
            error = abs(shift * values[w, n, b] - exact[w, n, b])
            error <= 1.001 * shift * bound + 1e-4 * exact[w, n, b] || return false
        end
    end
    return true
end

@testset "columns are raised: 1e-4 to the power of $states" for (states, doubts) in
                                                                ((12, []), (20, [1]))
    circuit, x = sticky_hmm(2 * states), Int32[fill(0, states); fill(1, states);;]
    single, _ = both_passes(circuit, x)
    @test JuiceBridge.doubtful(single) == doubts
    @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-5
end

"Every row of the parameters with a one where it was largest."
function one_hot(circuit)
    hard = map(circuit.layers) do layer
        JuiceBridge.owns_params(layer) || return nothing
        params = zero(layer_params(layer))
        for family in families_of(layer), o in axes(params, 2)
            rows = view(params, :, o, family)
            rows[argmax(layer_params(layer)[:, o, family])] = 1
        end
        return params
    end
    return with_params(circuit, hard)
end

@testset "values are within their bounds" begin
    for seed = 1:150
        circuit =
            sharpened(random_circuit(seed, 3 + seed % 6), (5, 30, 100)[1+seed%3], seed)
        x = rows_of(circuit, 20, seed; missing_share = 0.1)
        latents = Dict("z" => soft_latents(circuit, "z", 20, seed))
        for given in (nothing, latents)
            single, double = both_passes(circuit, x; latents = given)
            for (i, plan) in enumerate(single.program.plans)
                plan isa JuiceBridge.InputPlan || @test within_bounds(single, double, i)
            end
        end
    end
end

@testset "zeros that follow from zeros are exact: $name" for (name, circuit) in
                                                             ENGINE_CIRCUITS
    hard = one_hot(circuit)
    x = sample(hard, 40; seed = 1)
    x[:, 21:end] = rows_of(circuit, 20, 1)
    single, double = both_passes(hard, x)
    found, exact = JuiceBridge.scores!(single), JuiceBridge.scores!(double)
    possible = findall(all(isfinite, exact; dims = 2)[:])
    @test isdisjoint(JuiceBridge.doubtful(single), possible)
    @test same_logs(permutedims(found), permutedims(exact))
    @test any(isfinite, exact)
end

"""
Two parts over the same variables, mixed evenly. In the first, one node is 1e-45 and the
other meets a zero; in the second, all leaves are `other`.
"""
function lost_beside(other)
    factors = [[1.0 1.0 0.0; 1e-20 1e-25 1.0] fill(other, 2, 3)]
    layers = Layer[
        InputLayer([1, 2, 3, 1, 2, 3], 1:6, stack([1 .- factors, factors]; dims = 1)),
        ProductLayer(:hadamard, [1, 3, 5], [1, 2, 4, 5]),
        SumLayer([1, 2, 3], [7, 8], [1, 1], reshape([1.0 0; 0 1], 2, 2, 1)),
        ProductLayer(:hadamard, [1, 3, 5], [9, 3, 10, 6]),
        SumLayer([1, 3], [11, 12], [1, 2], fill(0.25, 2, 1, 2)),
    ]
    return Circuit(3, layers, [13])
end

@testset "a column of zeros carries its bound: beside $other" for (other, doubts) in (
    (0.5, 0),
    (1e-9, 0),
    (1e-15, 2),
    (0.0, 2),
)
    circuit, x = lost_beside(other), ones(Int32, 3, 2)
    single, _ = both_passes(circuit, x)
    @test length(JuiceBridge.doubtful(single)) == doubts
    @test single.lossy[4] && all(iszero, single.tiles[4].array[:, :, 1])
    @test single.errors[4].array[1, 1] == 1
    @test -150 < single.scales[4].array[1, 1] < -120
    @test log_likelihood(circuit, x) ≈ oracle_ll(circuit, x) rtol = 1e-6
end
