grown_heads(seed) = choose_roots(patch_bundle([2, 0, 2], 3, 2, 3; seed), [1, 1, 3])

@testset "chosen roots are copies" begin
    bundle = patch_bundle([2, 0, 2], 3, 2, 3; seed = 1)
    circuit = choose_roots(bundle, [3, 1, 3])
    check(circuit)
    x = random_rows(fill(3, 9), 8, 1)
    @test log_likelihood(circuit, x) == log_likelihood(bundle, x)[[3, 1, 3], :]
    @test_throws "from 1 to 3" choose_roots(bundle, [4])
    @test_throws "from 1 to 3" choose_roots(bundle, Int[])
    @test_throws "must be a root" choose_roots(mixture(2, 3, 1), [1])
end

@testset "growing without noise changes no root" begin
    x = random_rows(fill(3, 9), 8, 1)
    circuit = grown_heads(2)
    for cross in (0, 0.2, 1)
        grown = JuiceBridge.grow(circuit, [false, true, false]; cross, noise = 0)
        check(grown)
        @test grown.widths[1:(end-1)] == 2 .* circuit.widths[1:(end-1)]
        @test log_likelihood(grown, x) ≈ log_likelihood(circuit, x) rtol = 1e-5
    end
    noisy = JuiceBridge.grow(circuit, [false, true, false]; seed = 1)
    check(noisy)
    @test noisy == JuiceBridge.grow(circuit, [false, true, false]; seed = 1)
    @test log_likelihood(noisy, x) != log_likelihood(circuit, x)
    @test_throws "each of the 3 roots" JuiceBridge.grow(circuit, [true])
    @test_throws "at least 0" JuiceBridge.grow(circuit, trues(3); noise = -1)
    @test_throws "must be a root" JuiceBridge.grow(mixture(2, 3, 1), trues(2))
end

@testset "pruning" begin
    circuit = JuiceBridge.grow(grown_heads(3), [false, true, false]; seed = 2)
    x = random_rows(fill(3, 9), 30, 1; missing_share = 0)
    counts = expected_counts(circuit, x; precision = Float64).layers
    whole = JuiceBridge.prune(circuit, counts, 0)
    for (a, b) in zip(whole.layers, circuit.layers)
        a isa SumLayer && @test a.weights ≈ b.weights
    end
    share = 0.1
    pruned = JuiceBridge.prune(circuit, counts, share)
    check(pruned)
    layer = circuit.layers[5]
    for group in axes(layer.weights, 3), column in axes(layer.weights, 2)
        flow = counts[5][:, column, group]
        keep = (flow .> share * sum(counts[5][:, :, group])) .| (flow .== maximum(flow))
        kept = layer.weights[:, column, group] .* keep
        @test pruned.layers[5].weights[:, column, group] ≈ kept ./ sum(kept)
    end
    @test any(a -> a isa SumLayer && any(iszero, a.weights), pruned.layers)
    @test_throws "an entry for each" JuiceBridge.prune(circuit, counts[1:2], 0.1)
    without = [counts[1:4]; nothing; counts[6:end]]
    @test_throws "counts of layer 5" JuiceBridge.prune(circuit, without, 0.1)
end
