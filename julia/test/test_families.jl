using JuiceBridge: Binomial, Gaussian, Logistic, Smooth, is_constrained, pool, project!

"A random column of probabilities, and the uniform one."
random_pair(rng, categories) =
    (normalised(rand(rng, categories) .^ 3), fill(1 / categories, categories))

normalised(column) = column ./ sum(column)

likely(target, column) = sum(target .* log.(max.(column, 1e-300)))

@testset "projections raise the likelihood and stay in the family" begin
    rng = StableRNG(1)
    for categories in (1, 2, 5, 30),
        family in
        (Binomial(), Binomial(0.0), Gaussian(), Gaussian(0.0), Logistic(), Logistic(0.0))

        target, start = random_pair(rng, categories)
        column = project!(family, copy(target), start)
        for _ = 1:5
            @test sum(column) ≈ 1
            @test project!(family, copy(column), column) ≈ column atol = 1e-9
            better = project!(family, copy(target), column)
            @test likely(target, better) >= likely(target, column) - 1e-9
            column = better
        end
    end
end

@testset "binomial columns have the mean of their target" begin
    target, start = random_pair(StableRNG(2), 9)
    found = project!(Binomial(0.0), copy(target), start)
    @test sum(found .* (0:8)) ≈ sum(target .* (0:8))
    p = sum(target .* (0:8)) / 8
    @test found ≈ [binomial(8, v) * p^v * (1 - p)^(8 - v) for v = 0:8]
end

@testset "Gaussian columns have the mean and variance of their target" begin
    target, column = random_pair(StableRNG(5), 30)
    for _ = 1:20
        column = project!(Gaussian(0.0), copy(target), column)
    end
    for power in (1, 2)
        @test sum(column .* (0:29) .^ power) ≈ sum(target .* (0:29) .^ power)
    end
end

@testset "smoothing keeps totals and goes by the width of a column" begin
    counts = [rand(StableRNG(3), 12) zeros(12) [v == 4 for v = 1:12]]
    found = pool(Smooth(0.4), counts)
    @test sum(found; dims = 1) ≈ sum(counts; dims = 1)
    @test all(found .>= 0) && found[4, 3] > 0.9
    @test found[:, 2] == zeros(12) && !is_constrained(Smooth())
end

@testset "families are trained and stored" begin
    rng = StableRNG(4)
    plain = hclt([0, 1], 2, [6, 6]; seed = 1)
    x = rand(rng, Int32(0):Int32(5), 2, 40)
    for family in (Smooth(), Binomial(), Gaussian(0.01), Logistic(0.01))
        layers = map(plain.layers) do layer
            layer isa InputLayer || return layer
            params = project!(family, copy(layer.params), layer.params)
            return InputLayer(layer.variables, layer.groups, params, family)
        end
        circuit = Circuit(2, layers, plain.roots; plain.latents, plain.meta)
        options = FitOptions(; optimizer = :full_em, epochs = 4, pseudocount = 0.0)
        fitted = fit(circuit, x, options).circuit
        @test all(a.family == family for a in fitted.layers if a isa InputLayer)
        if is_constrained(family)
            scores = [sum(log_likelihood(c, x)) for c in (circuit, fitted)]
            @test scores[2] >= scores[1] - 1e-4
        end
        path = joinpath(mktempdir(), "circuit.h5")
        save_circuit(fitted, path)
        @test load_circuit(path) == fitted
        @test num_parameters(circuit) == num_parameters(fitted) <= num_parameters(plain)
    end
end
