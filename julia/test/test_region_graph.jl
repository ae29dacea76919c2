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
    @test graph.splits[1] == [(2, 3), (4, 5)] && graph.splits[2] == [(6, 7)]
    region(scope) = "{\"scope\": $scope}"
    text(scopes, partitions, n = 2) =
        "{\"num_vars\": $n, \"regions\": [$(join(region.(scopes), ','))], " *
        "\"partitions\": [$(join(partitions, ','))]}"
    split = "{\"region\": 0, \"children\": [1, 2]}"
    cases = [
        "[1, 2" => "is not JSON text",
        "[]" => "the file must be an object with the entries num_vars, regions, partitions",
        text([], [], 0) => "num_vars must be at least 1",
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
        ) => "must split the scope of region 0 in two",
        text(["[0, 1]"], ["{\"region\": 0, \"children\": [1]}"]) => "must name two regions",
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
