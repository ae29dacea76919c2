@testset "drawings of trees" begin
    drawn(tree; keywords...) = sprint(io -> print_tree(io, tree; keywords...))
    tree = Int32[3, 1, 0, 3, 4, 4, 1]
    @test drawn(tree) == """
    3
    ├─ 1
    │  ├─ 2
    │  └─ 7
    └─ 4
       ├─ 5
       └─ 6
    """
    @test drawn(tree; label = v -> "x$(v - 1)", lines = 3) ==
          "x2\n├─ x0\n│  ├─ x1\n⋮ 4 more nodes\n"
    @test drawn([0]) == "1\n"
    @test_throws ArgumentError drawn([0, 3, 2])
    @test_throws ArgumentError drawn([1, 2])
end

@testset "hidden trees of circuits" begin
    for seed = 1:5
        parents = random_tree(8, seed)
        circuit = hclt(parents, 2, 3; seed)
        @test hidden_tree(circuit) == parents
        @test sprint(print_tree, circuit) == sprint(print_tree, parents)
    end
    mixed = Int32[2, 0, 2, 3]
    @test hidden_tree(hclt(mixed, 2, [2, 3, 2, 4]; seed = 1)) == mixed
    @test hidden_tree(random_hmm(2, 3, 4; seed = 1)) == 0:3
    bundle = patch_bundle(Int32[0, 1], 3, 2, 4; seed = 5)
    latent = hclt(Int32[2, 0, 2], 2, 3; seed = 6)
    @test hidden_tree(glue(latent, bundle, [1 4 5; 2 3 6])) == [2, 0, 2]
    @test hidden_tree(random_hmm(2, 3, 1; seed = 1)) == [0]
    @test_throws ArgumentError hidden_tree(bundle)
    @test_throws ArgumentError hidden_tree(mixture(4, 3, 1))
end
