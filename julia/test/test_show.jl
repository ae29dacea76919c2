@testset "show" begin
    tree = hclt([0, 1, 1], 2, 2; seed = 1)
    @test repr(tree) == "Circuit(3 variables, 5 layers, 9 blocks, 22 parameters, 1 root)"
    text = repr("text/plain", tree)
    @test occursin("latent z: 3 positions", text) && occursin("structure: hclt", text)
    @test repr(tree.layers[2]) == "ProductLayer(:hadamard, 2 blocks, 2 factors)"
    @test occursin("2 × 2, mixing 2 nodes", replace(repr(tree.layers[3]), " blocks" => ""))
    chain = random_hmm(3, 400, 40; seed = 1)
    lines = split(repr("text/plain", chain), '\n')
    @test length(lines) < 35 && "  ⋮" in lines
    @test any(endswith("parameters of layer 3"), lines)
    @test occursin("1,200 parameters (Float32, 1 group)", repr(chain.layers[1]))
    @test JuiceBridge.commas(1234567) == "1,234,567" && JuiceBridge.commas(-123) == "-123"
    z = Dict("train" => zeros(Int32, 4, 6), "test" => zeros(Int32, 4, 1))
    @test repr(Assignments(z, 3)) ==
          "Assignments(3 clusters, 4 positions, test 1 row, train 6 rows)"
    graph = RegionGraph(2, [[1, 2], [1], [2]], [(1, 2, 3)])
    @test repr(graph) == "RegionGraph(2 variables, 3 regions, 1 partition)"
end
