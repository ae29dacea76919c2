const SIZES = [2, 3, 2]
const PATCH_TREE = [2, 0, 2]
const PLACES = [3 6 7; 1 2 9; 5 4 8]

total(circuit, root = 1) =
    sum(row -> root_values(circuit, row)[root], all_rows(num_categories(circuit)))

@testset "random columns" begin
    rows = JuiceBridge.dirichlet_columns(Xoshiro(1), 5, 2000)
    @test eltype(rows) == Float32 && all(rows .> 0)
    @test all(abs.(sum(rows; dims = 1) .- 1) .< 1e-6)
    @test sum(rows; dims = 2) ./ 2000 ≈ fill(0.2, 5) atol = 0.02
    @test sum(rows .^ 2) / 10_000 ≈ 2 / 30 atol = 0.005
    again = JuiceBridge.dirichlet_columns(Xoshiro(1), 5, 40, 50)
    @test vec(again) == vec(rows)
end

@testset "HCLT" begin
    circuit = hclt([2, 0, 2, 1], 2, [2, 3, 2, 2]; seed = 1)
    check(circuit)
    @test total(circuit) ≈ 1 atol = 1e-6
    @test circuit.layers[1].variables == [4, 1, 3] && circuit.layers[2].variables == [2]
    @test [num_blocks(layer) for layer in circuit.layers] == [3, 1, 1, 1, 2, 2, 1, 1]
    @test circuit.layers[5].children == [2, 6, 3] && circuit.layers[5].offsets == [1, 3, 4]
    @test circuit.layers[7].children == [4, 9, 10]
    @test circuit.latents["z"] == [7, 11, 8, 5] && circuit.roots == [12]
    @test circuit.meta == Dict("structure" => "hclt", "latent_states" => 2)
    @test hclt([0], 3, 2; seed = 1).layers[1].params ==
          hclt([0], 3, 2; seed = 1).layers[1].params
    @test hclt([0], 3, 2; seed = 1).layers[1].params !=
          hclt([0], 3, 2; seed = 2).layers[1].params
    @test_throws "latents" hclt([0], 0, 2; seed = 1)
    @test_throws "categories" hclt([0, 1], 2, [2]; seed = 1)
    @test_throws "categories" hclt([0, 1], 2, 0; seed = 1)
end

@testset "the value of an HCLT is the sum over its hidden variables" begin
    circuit = hclt([0, 1, 1], 2, 2; seed = 4)
    leaf, mixed, top = (Float64.(layer_params(circuit.layers[i])) for i in (1, 3, 5))
    x = [1, 0, 1]
    expected = 0.0
    for a = 1:2, b = 1:2, c = 1:2
        prior = top[a, 1, 1] * mixed[b, a, 1] * mixed[c, a, 2]
        expected += prior * leaf[2, a, 3] * leaf[1, b, 1] * leaf[2, c, 2]
    end
    @test root_values(circuit, x) ≈ [expected]
end

@testset "HMM" begin
    for length in (1, 2, 4)
        circuit = random_hmm(3, 2, length; seed = 1)
        check(circuit)
        @test total(circuit) ≈ 1 atol = 1e-6
        @test num_parameters(circuit) == 6 + 3 + (length > 1 ? 9 : 0)
        @test issorted(circuit.latents["z"]; rev = true)
    end
    circuit = random_hmm(3, 2, 4; seed = 1)
    prior = circuit.layers[end].weights[:, 1, 1]
    A, B = circuit.layers[3].weights[:, :, 1], circuit.layers[1].params[:, :, 1]
    x = [1, 0, 0, 1]
    alpha = prior .* B[x[1]+1, :]
    for t = 2:4
        alpha = (A * alpha) .* B[x[t]+1, :]
    end
    @test root_values(circuit, x) ≈ [sum(alpha)]
    @test [layer.tied_to for layer in circuit.layers if layer isa SumLayer] == [0, 3, 3, 0]
    @test_throws "transition" hmm([1.0], ones(2, 2), ones(1, 1), 3)
    @test_throws "emission" hmm([1.0], ones(1, 1), ones(1, 2), 3)
    @test_throws "position" hmm([1.0], ones(1, 1), ones(1, 1), 0)
    @test_throws "state" random_hmm(0, 1, 1; seed = 1)
end

@testset "patch bundles" begin
    bundle = patch_bundle(PATCH_TREE, 3, 2, 2; seed = 1)
    check(bundle)
    leaf, low, _, high, _ = bundle.layers
    @test leaf.variables == [1, 4, 7, 3, 6, 9, 2, 5, 8]
    @test low.children == 1:6
    @test high.children == [7, 16, 19, 8, 17, 20, 9, 18, 21]
    @test bundle.roots == [25, 26, 27]
    for root = 1:3
        @test total(bundle, root) ≈ 2.0^6 atol = 1e-4
    end
    one = patch_bundle(PATCH_TREE, 1, 2, 4; seed = 7)
    tree = hclt(PATCH_TREE, 2, 4; seed = 7)
    @test all(layer_params(a) == layer_params(b) for (a, b) in zip(one.layers, tree.layers))
end

@testset "gluing" begin
    latent = hclt([0, 1, 2], 2, 3; seed = 1)
    bundle = patch_bundle(PATCH_TREE, 3, 2, SIZES; seed = 2)
    circuit = glue(latent, bundle, PLACES)
    check(circuit)
    @test num_parameters(circuit) == num_parameters(latent) + num_parameters(bundle)
    @test num_categories(circuit)[vec(PLACES)] == repeat(SIZES, 3)
    @test circuit.meta["structure"] == "glued patches" && circuit.meta["positions"] == 3
    rng = Xoshiro(1)
    for _ = 1:4
        x = [rand(rng, 0:(size-1)) for size in num_categories(circuit)]
        heads = [root_values(bundle, repeat(x[place], 3)) for place in eachcol(PLACES)]
        expected = sum(all_rows([3, 3, 3])) do z
            root_values(latent, z)[1] * prod(heads[i][z[i]+1] for i = 1:3)
        end
        @test root_values(circuit, x) ≈ [expected]
        for (i, block) in enumerate(circuit.latents["z"])
            @test [node_value(circuit, block, j, x) for j = 1:3] ≈ heads[i]
        end
    end
    @test_throws "exactly once" glue(latent, bundle, [1 2 3; 4 5 6; 7 8 8])
    @test_throws "variables per patch" glue(latent, bundle, [1 3; 2 4])
    @test_throws "one input block" glue(latent, bundle, reshape(1:6, 3, 2))
    @test_throws "values per position" glue(hclt([0, 1, 2], 2, 4; seed = 1), bundle, PLACES)
end

@testset "gluing keeps ties across layers" begin
    latent = random_hmm(2, 3, 4; seed = 1)
    bundle = patch_bundle([0], 3, 2, 2; seed = 2)
    circuit = glue(latent, bundle, reshape([2, 1, 4, 3], 1, 4))
    check(circuit)
    @test num_parameters(circuit) == num_parameters(latent) + num_parameters(bundle)
    @test total(circuit) ≈ 1 atol = 1e-6
end
