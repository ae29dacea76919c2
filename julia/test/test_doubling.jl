using JuiceBridge: double, narrow

grown_examples() = [
    hclt([2, 0, 2], 3, 3; seed = 1),
    region_circuit(quad_graph((2, 2, 1)), 2, 2; seed = 4),
    glue(
        hclt([0, 1], 3, 3; seed = 2),
        patch_bundle([0, 1], 3, 2, [2, 3]; seed = 3),
        [1 3; 2 4],
    ),
]

@testset "doubling and narrowing" begin
    for circuit in grown_examples()
        sizes = num_categories(circuit)
        x = random_rows(sizes, 12, 1)
        same = double(circuit; noise = 0)
        check(same)
        @test num_parameters(same) > num_parameters(circuit)
        @test log_likelihood(same, x) ≈ log_likelihood(circuit, x) rtol = 1e-5
        noisy = double(circuit; seed = 1)
        check(noisy)
        @test noisy == double(circuit; seed = 1)
        counts = expected_counts(noisy, x; precision = Float64).layers
        less = narrow(noisy, counts, 0.5)
        check(less)
        @test less.widths == circuit.widths
        everything = narrow(noisy, counts, 0)
        @test log_likelihood(everything, x) ≈ log_likelihood(noisy, x) rtol = 1e-5
        @test_throws "below 1" narrow(noisy, counts, 1)
        @test_throws "an entry for each" narrow(noisy, counts[1:1], 0.5)
    end
    @test_throws "at least 0" double(hclt([0, 1], 2, 2; seed = 1); noise = -1)
    @test_throws "no blocks that can grow" double(hclt([0, 1], 1, 2; seed = 1))
end

@testset "low-rank leaves" begin
    for circuit in grown_examples()
        x = random_rows(num_categories(circuit), 12, 2)
        exact = with_dictionary(circuit, 12)
        check(exact)
        @test log_likelihood(exact, x) ≈ log_likelihood(circuit, x) rtol = 1e-5
        for low in (with_dictionary(circuit, 2), with_dictionary(circuit, 2; seed = 1))
            check(low)
            @test all(a -> !(a isa InputLayer) || size(a.params, 2) == 2, low.layers)
        end
        @test_throws "at least 1" with_dictionary(circuit, 0)
    end
end
