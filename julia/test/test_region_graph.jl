const GRAPH_TEXT = """{"num_vars": 4, "regions": [{"scope": [0, 1, 2, 3]}, {"scope": [0, 1]},
{"scope": [2, 3]}, {"scope": [0, 2]}, {"scope": [1, 3]}, {"scope": [0]}, {"scope": [1]}],
"partitions": [{"region": 0, "children": [1, 2]}, {"region": 0, "children": [3, 4]},
{"region": 1, "children": [5, 6]}]}"""

with_file(f, text) =
    mktempdir() do folder
        path = joinpath(folder, "graph.json")
        write(path, text)
        return f(path)
    end

@testset "region-graph files" begin
    graph = with_file(load_region_graph, GRAPH_TEXT)
    @test graph.num_vars == 4 && graph.root == 1
    @test graph.scopes[5] == [2, 4]
    @test graph.splits[1] == [[2, 3], [4, 5]] && graph.splits[2] == [[6, 7]]
    region(scope) = "{\"scope\": $scope}"
    text(scopes, partitions, n = 2) =
        "{\"num_vars\": $n, \"regions\": [$(join(region.(scopes), ','))], " *
        "\"partitions\": [$(join(partitions, ','))]}"
    split = "{\"region\": 0, \"children\": [1, 2]}"
    single = "{\"region\": 0, \"children\": [1]}"
    cases = [
        "[1, 2" => "is not JSON text",
        "[]" => "the file must be an object with the entries num_vars, regions, partitions",
        text([], [], 0) => "num_vars is 0, must be from 1 to",
        text([], [], 2.5) => "num_vars must be an integer",
        text([], [], true) => "num_vars must be an integer",
        "{\"num_vars\": 1, \"regions\": 1, \"partitions\": []}" => "regions must be a list",
        text(["[0, 1]", "[]"], []) => "regions[1].scope must list at least one variable",
        text(["[0, 0]"], []) => "regions[0].scope must list",
        text(["[0, 2]"], []) => "regions[0].scope must hold variables from 0 to 1",
        text(["[0, 1]", "[0]", "[1]"], []) => "these are: [0, 1, 2]",
        text(["[0]"], []) => "region 0 is at the top and must hold all 2 variables",
        text(["[0, 1]", "[0]"], [split]) => "partitions[0] must name regions from 0 to 1",
        text(
            ["[0, 1]", "[0]", "[0]"],
            [split],
        ) => "must split the scope of region 0 into two or more",
        text(
            ["[0, 1]", "[0, 1]"],
            ["{\"region\": 0, \"children\": [1]}"],
        ) => "must split the scope of region 0 into two or more",
        text(
            ["[0, 1], \"own\": [0]", "[0]", "[1]"],
            [split],
        ) => "into two or more (with its own variables)",
        text(
            ["[0, 1], \"own\": [0]", "[1], \"own\": [1]"],
            [single],
        ) => "regions[1] has own variables, so it must have exactly one partition",
        text(["[0, 1], \"own\": 0", "[1]"], [single]) => "regions[0].own must be a list",
    ]
    for (content, message) in cases
        error = with_file(content) do path
            try
                load_region_graph(path)
            catch error
                startswith(error.message, path) ? error : nothing
            end
        end
        @test error isa BridgeError && occursin(message, error.message)
    end
    @test_throws "cannot be read" load_region_graph("/nowhere/graph.json")
end

@testset "graphs are written as they are read" begin
    for graph in (
        with_file(load_region_graph, GRAPH_TEXT),
        tree_regions([0, 1, 1, 2]),
        quad_graph((3, 2, 2)),
        random_region_graph(7, 3, 2; seed = 1),
    )
        found = with_file("") do path
            save_region_graph(graph, path)
            return load_region_graph(path)
        end
        @test found == graph && hash(found) == hash(graph)
    end
    @test tree_regions([0, 1]) != tree_regions([2, 0])
    @test_throws "does not exist" save_region_graph(
        tree_regions([0]),
        "/nowhere/graph.json",
    )
end

@testset "graphs of images" begin
    # Published: a quad tree over 28 × 28 pixels and Poon-Domingos graphs of n × n pieces.
    @test [length(quad_tree((28, 28, 1); splits).scopes) for splits in (4, 2)] == [1109, 1567]
    @test length(quad_graph((28, 28, 1)).scopes) == 2025
    for pieces in (2, 3, 7)
        graph = poon_domingos((28, 28, 1), [28 / pieces])
        @test length(graph.scopes) == (pieces * (pieces + 1) ÷ 2)^2
    end
    @test length(poon_domingos((28, 28, 1), [4]).partitions) == 3136
    small = quad_tree((2, 2, 2))
    @test small.scopes == [1:8, 1:2, 3:4, 5:6, 7:8] && small.partitions == [[1, 2, 3, 4, 5]]
    twice = quad_graph((2, 2, 1))
    @test twice.splits[1] == [[2, 3], [4, 5]]
    @test twice.scopes[2:5] == [[1, 2], [3, 4], [1, 3], [2, 4]]
    @test JuiceBridge.congruent(small, (2, 2, 2)) == [2, 1, 1, 1, 1]
    @test_throws "splits is 3" quad_tree((2, 2, 1); splits = 3)
    @test_throws "at least 1" quad_tree((0, 2, 1))
    @test_throws "from 1 on" poon_domingos((4, 4, 1), [0.5])
    @test_throws "from 1 on" poon_domingos((4, 4, 1), Float64[])
    @test_throws "8 variables" JuiceBridge.congruent(small, (3, 3, 1))
    @test_throws "1,000,000 partitions" poon_domingos((60, 60, 1), [1])
end

@testset "random graphs" begin
    graph = random_region_graph(9, 2, 3; seed = 4)
    @test graph == random_region_graph(9, 2, 3; seed = 4)
    @test graph != random_region_graph(9, 2, 3; seed = 5)
    @test length(graph.splits[1]) == 3 && length(graph.partitions) == 9
    @test all(sort(length.(graph.scopes[part])) == [4, 5] for part in graph.splits[1])
    @test_throws "at least 1" random_region_graph(0, 1, 1)
end

@testset "circuits over region graphs" begin
    total(circuit) =
        sum(all_rows(num_categories(circuit))) do row
            return only(root_values(circuit, row))
        end
    pixels = (2, 2, 1)
    for graph in (quad_tree(pixels), quad_graph(pixels), tree_regions([0, 1, 1, 2])),
        shapes in (nothing, JuiceBridge.congruent(graph, pixels))

        circuit = region_circuit(graph, 2, [2, 3, 2, 2]; seed = 1)
        shapes === nothing || (circuit = region_circuit(graph, 2, 2; shapes, seed = 1))
        check(circuit)
        @test total(circuit) ≈ 1 atol = 1e-6
        @test length(circuit.latents["z"]) == length(latent_regions(graph))
    end
    shared(graph) = region_circuit(
        graph,
        3,
        4;
        shapes = JuiceBridge.congruent(graph, (4, 4, 1)),
        seed = 1,
    )
    # Three shapes: two that split have four matrices each; and the root's column.
    @test num_parameters(shared(quad_tree((4, 4, 1)))) == 4 * 3 + 2 * 4 * 9 + 3
    # Of a tree these are the regions of an HCLT.
    parents = [2, 0, 2, 1]
    ours, theirs =
        region_circuit(tree_regions(parents), 3, 4; seed = 1), hclt(parents, 3, 4)
    @test num_parameters(ours) == num_parameters(theirs)
    @test sum(num_blocks(layer) for layer in ours.layers if layer isa SumLayer) ==
          sum(num_blocks(layer) for layer in theirs.layers if layer isa SumLayer)
    uniform = region_circuit(quad_graph(pixels), 2, 2; seed = nothing)
    @test all(row -> only(root_values(uniform, row)) ≈ 1 / 16, all_rows(fill(2, 4)))
    mixed = region_circuit(quad_tree(pixels), [4, 1, 2, 3, 2], 2; seed = 1)
    check(mixed)
    @test total(mixed) ≈ 1 atol = 1e-6
    @test_throws "latents must be at least 1" region_circuit(quad_tree(pixels), 0, 2)
    @test_throws "latents must be an integer" region_circuit(quad_tree(pixels), [1, 2], 2)
    @test_throws "shapes must be" region_circuit(quad_tree(pixels), 1, 2; shapes = [1])
end

@testset "tucker circuits" begin
    circuit = tucker_circuit(quad_tree((2, 2, 1); splits = 2), 2, 2; seed = 1)
    check(circuit)
    @test length(circuit.latents["z"]) == 6
    @test sum(row -> only(root_values(circuit, row)), all_rows(fill(2, 4))) ≈ 1 atol = 1e-6
    @test_throws "other than two regions" tucker_circuit(quad_tree((2, 2, 1)), 2, 2)
    @test_throws "other than two regions" tucker_circuit(tree_regions([0, 1, 1]), 2, 2)
    @test_throws "one region alone" tucker_circuit(RegionGraph(1, [[1]], []), 2, 2)
end

@testset "RAT-SPN" begin
    graph = with_file(load_region_graph, GRAPH_TEXT)
    for (sums, inputs, categories) in ((2, 2, 2), (3, 3, [2, 3, 2, 3]))
        circuit = rat_spn(graph, sums, inputs, categories; seed = 1)
        check(circuit)
        @test sum(
            row -> only(root_values(circuit, row)),
            all_rows(num_categories(circuit)),
        ) ≈ 1 atol = 1e-6
        @test circuit.widths[end] == 1
    end
    circuit = rat_spn(graph, 2, 2, 2; seed = 1)
    @test [num_blocks(layer) for layer in circuit.layers] == [8, 5, 1, 1, 2, 1]
    @test circuit.layers[1].variables == [3, 4, 1, 3, 2, 4, 1, 2]
    @test circuit.layers[2].children == 1:8 &&
          circuit.layers[2].offsets == [1, 3, 5, 7, 8, 9]
    @test circuit.layers[3].children == [12, 13] && circuit.layers[4].children == [14]
    @test circuit.layers[5].children == [15, 9, 10, 11]
    @test circuit.layers[6].children == [16, 17] && circuit.layers[6].offsets == [1, 3]
    single = rat_spn(RegionGraph(2, [[1, 2]], NTuple{3,Int}[]), 4, 3, 2; seed = 1)
    check(single)
    @test single.widths == [3, 3, 1]
    uneven = RegionGraph(
        4,
        [[1, 2, 3, 4], [1, 2], [3, 4], [1], [2, 3, 4], [2], [3, 4]],
        [(1, 2, 3), (1, 4, 5), (5, 6, 7)],
    )
    @test_throws "Region 0 has partitions of different widths" rat_spn(
        uneven,
        2,
        3,
        2;
        seed = 1,
    )
    check(rat_spn(uneven, 3, 3, 2; seed = 1))
    @test_throws "at least 1" rat_spn(graph, 0, 2, 2; seed = 1)
end
