# Every path that is to run on a GPU, on arrays that refuse what a GPU cannot do (JLArrays),
# against the CPU's own paths.

if isnothing(Base.find_package("JLArrays"))
    @info "JLArrays is not installed: the paths for GPUs are not tested."
else
    @eval using JLArrays: JLArray, JLArrays
    Base.invokelatest(JLArrays.allowscalar, false)

    jl_circuits() = merge(
        ENGINE_CIRCUITS,
        Dict("random $s" => random_circuit(s, 2 + s % 5) for s = 1:10),
        Dict("sharp $s" => sharpened(random_circuit(s, 3 + s % 6), 60, s) for s = 1:10),
    )

    @testset "arrays of a GPU: $name" for (name, circuit) in jl_circuits()
        x, there = rows_of(circuit, 12, 1), (; device = JLArray)
        found, expected = log_likelihood(circuit, x; there...), log_likelihood(circuit, x)
        @test same_logs(found, expected)
        x = x[:, vec(all(isfinite, expected; dims = 1))]
        isempty(x) && continue
        weights = rand(Xoshiro(1), length(circuit.roots), size(x, 2))
        counts = expected_counts(circuit, x; weights, there...)
        @test close_counts(
            counts.layers,
            expected_counts(circuit, x; weights).layers;
            atol = 1e-4,
        )
        for optimizer in (:mini_em, :full_em, :anemone)
            options = FitOptions(; optimizer, epochs = 2, batch_size = 5, seed = 1)
            there_too = fit(circuit, x, options; valid = x, there...)
            here = fit(circuit, x, options; valid = x)
            for (a, b) in zip(there_too.circuit.layers, here.circuit.layers)
                a isa ProductLayer || @test layer_params(a) ≈ layer_params(b) atol = 1e-4
            end
        end
    end

    @testset "latent evidence on arrays of a GPU: $name" for name in WITH_LATENT
        circuit, there = ENGINE_CIRCUITS[name], (; device = JLArray)
        x, soft = rows_of(circuit, 6, 4), soft_latents(circuit, "z", 6, 5)
        hard = Int32.(rand(Xoshiro(6), -1:1, size(soft)[2:3]...))
        for latents in (Dict("z" => hard), Dict("z" => soft))
            @test log_likelihood(circuit, x; latents, there...) ≈
                  log_likelihood(circuit, x; latents) rtol = 1e-5
            counts = expected_counts(circuit, x; latents, there...)
            @test close_counts(counts.layers, expected_counts(circuit, x; latents).layers)
        end
        @test posteriors(circuit, x, "z"; there...) ≈ posteriors(circuit, x, "z") atol =
            1e-5
        drawn = sample(circuit, 50; evidence = x, seed = 1, there...)
        @test mean_difference(drawn, sample(circuit, 50; evidence = x, seed = 1)) < 0.01
    end

    @testset "evidence on blocks of every kind, on arrays of a GPU" begin
        for seed = 1:10
            plain = random_circuit(seed, 4)
            names = Dict("b$b" => Int32[b] for b = 1:num_blocks(plain))
            circuit = Circuit(4, plain.layers, plain.roots; latents = names)
            x = rows_of(circuit, 5, seed)
            for b in rand(Xoshiro(seed), 1:num_blocks(plain), 3)
                latents = Dict("b$b" => soft_latents(circuit, "b$b", 5, seed))
                found = expected_counts(circuit, x; latents, device = JLArray)
                expected = expected_counts(circuit, x; latents)
                @test found.log_likelihood ≈ expected.log_likelihood rtol = 1e-5
                @test close_counts(found.layers, expected.layers)
                @test posteriors(circuit, x, "b$b"; device = JLArray) ≈
                      posteriors(circuit, x, "b$b") atol = 1e-5
            end
        end
    end

    @testset "roots that are leaves, on arrays of a GPU" begin
        test_leaf_roots(JLArray)
    end

    @testset "a training on arrays of a GPU is resumed" begin
        circuit = ENGINE_CIRCUITS["hclt"]
        x, options = rows_of(circuit, 20, 1), FitOptions(; optimizer = :anemone, epochs = 3)
        mktempdir() do folder
            checkpoint = joinpath(folder, "training.h5")
            first_epoch = FitOptions(; optimizer = :anemone, epochs = 1)
            fit(circuit, x, options; checkpoint, device = JLArray)
            again = fit(circuit, x, options; checkpoint, device = JLArray)
            @test length(again.history) == 3
            here = fit(circuit, x, options)
            @test close_params(
                again.circuit,
                map(layer_params, here.circuit.layers);
                atol = 1e-4,
            )
        end
    end
end
