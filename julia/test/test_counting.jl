"log p(x, z), the choice of an edge summed out, from the parameters and the graph."
function joint_log_likelihood(circuit, x, z)
    nodes = JuiceBridge.hidden_nodes(circuit)
    sizes = [circuit.widths[layer_of(circuit, b)] for b in circuit.latents["z"]]
    number(rows) = foldl((n, row) -> n * sizes[row] + z[row], rows; init = 0)
    value = 0.0
    for (i, layer) in enumerate(circuit.layers)
        layer isa ProductLayer && continue
        for (b, block) in enumerate(layer_blocks(circuit, i))
            given = number(nodes[block]) + 1
            if layer isa InputLayer
                entry = x[layer.variables[b]]
                entry == MISSING && continue
                value += log(layer.params[entry+1, given, layer.groups[b]])
            else
                value += log(sum(child_range(layer, b)) do e
                    entry = number(nodes[layer.children[e]])
                    return layer.weights[entry+1, given, layer.groups[e]]
                end)
            end
        end
    end
    return value
end

@testset "counts by hand" begin
    circuit = hclt([0, 1], 2, [3, 2]; seed = 1)
    x = Int32[0 2 2 -1; 1 1 0 0]
    z = Int32[0 1 1 1; 1 1 0 1]
    found = count_parameters(circuit, x, z; pseudocount = 0.6)
    leaf1, leaf2 = (layer for layer in found.layers if layer isa InputLayer)
    @test leaf1.variables == [2] && leaf2.variables == [1]
    @test leaf2.params[:, 1, 1] ≈ [1.2, 0.2, 0.2] / 1.6
    @test leaf2.params[:, 2, 1] ≈ [0.2, 0.2, 2.2] / 2.6
    @test leaf1.params[:, 1, 1] ≈ [1.3, 0.3] / 1.6
    @test leaf1.params[:, 2, 1] ≈ [1.3, 2.3] / 3.6
    below, top = (layer.weights for layer in found.layers if layer isa SumLayer)
    @test below[:, 1, 1] ≈ [0.3, 1.3] / 1.6
    @test below[:, 2, 1] ≈ [1.3, 2.3] / 3.6
    @test top[:, 1, 1] ≈ [1.3, 3.3] / 4.6
    check(found)
end

@testset "counts maximise the joint likelihood" begin
    halves = quad_tree((2, 2, 1); splits = 2)
    for circuit in (
        hclt(random_tree(5, 1), 3, 4; seed = 1),
        random_hmm(3, 4, 6; seed = 1),
        region_circuit(quad_tree((2, 3, 1)), 3, 4; seed = 1),
        tucker_circuit(halves, 3, 4; seed = 1),
    )
        x = random_rows(num_categories(circuit), 80, 1)
        z = random_rows(fill(3, length(circuit.latents["z"])), 80, 2; missing_share = 0)
        best = count_parameters(circuit, x, z; pseudocount = 0)
        check(best)
        score(c) = sum(joint_log_likelihood(c, x[:, r], z[:, r]) for r = 1:80)
        for seed = 1:5, share in (0.01f0, 0.3f0)
            rng = Xoshiro(seed)
            params = map(best.layers) do layer
                JuiceBridge.owns_params(layer) || return nothing
                old = layer_params(layer)
                return (1 - share) .* old .+ share .* columns(rng, size(old)...)
            end
            @test score(with_params(best, params)) < score(best)
        end
    end
end

@testset "edges of a sum share evenly" begin
    graph = quad_graph((2, 2, 1))
    circuit = region_circuit(graph, 2, 3; seed = 1)
    x = random_rows(fill(3, 4), 50, 1)
    z = random_rows(fill(2, length(circuit.latents["z"])), 50, 2; missing_share = 0)
    found = count_parameters(circuit, x, z; pseudocount = 0.5)
    check(found)
    top = found.layers[end]
    @test length(top.children) == 2
    first_choice, second_choice = eachslice(top.weights; dims = 3)
    region = findall(==(1), latent_regions(graph))
    for (weights, row) in zip((first_choice, second_choice), region)
        counts = [count(==(v), z[row, :]) for v = 0:1]
        @test weights[:, 1] ≈ (counts .+ 0.25) ./ (2 * (50 + 0.5))
    end
end

@testset "states that are not there" begin
    circuit = random_hmm(3, 4, 4; seed = 1)
    x = random_rows(fill(4, 4), 30, 3; missing_share = 0)
    z = random_rows(fill(3, 4), 30, 4; missing_share = 0)
    short = count_parameters(
        random_hmm(3, 4, 3; seed = 1),
        x[1:3, :],
        z[1:3, :];
        pseudocount = 1,
    )
    z[4, :] .= MISSING
    found = count_parameters(circuit, x, z; pseudocount = 1)
    @test layer_params(found.layers[1]) == layer_params(short.layers[1])
    @test layer_params(found.layers[3]) == layer_params(short.layers[3])
    @test layer_params(found.layers[end]) == layer_params(short.layers[end])
end

@testset "columns without data" begin
    circuit = hclt([0, 1], 2, 3; seed = 1)
    x, z = zeros(Int, 2, 4), zeros(Int, 2, 4)
    kept = count_parameters(circuit, x, z; pseudocount = 0)
    @test kept.layers[1].params[:, 2, :] == circuit.layers[1].params[:, 2, :]
    @test kept.layers[1].params[:, 1, :] == [1 1; 0 0; 0 0]
    even = count_parameters(circuit, x, z; pseudocount = 1)
    @test even.layers[1].params[:, 2, :] ≈ fill(1 / 3, 3, 2)
    none = count_parameters(circuit, zeros(Int, 2, 0), zeros(Int, 2, 0); pseudocount = 0)
    @test all(
        layer_params(a) == layer_params(b) for (a, b) in zip(none.layers, circuit.layers)
    )
end

@testset "what does not fit is refused" begin
    circuit = hclt([0, 1], 2, 3; seed = 1)
    x, z = zeros(Int, 2, 4), zeros(Int, 2, 4)
    count(c = circuit; x = x, z = z, pseudocount = 0) =
        count_parameters(c, x, z; pseudocount)
    @test_throws "at least 0" count(; pseudocount = -1)
    @test_throws "x must be" count(; x = zeros(Int, 3, 4))
    @test_throws "z must be" count(; z = zeros(Int, 1, 4))
    @test_throws "same rows" count(; z = zeros(Int, 2, 3))
    for (name, data) in
        ((:x, [0 3; 0 0]), (:x, [0 -2; 0 0]), (:z, [0 2; 0 0]), (:z, [0 -2; 0 0]))
        error = try
            count(; x = zeros(Int, 2, 2), z = zeros(Int, 2, 2), name => data)
        catch error
            error isa CompositeException ? error.exceptions[1].task.exception : error
        end
        @test error isa ArgumentError && startswith(error.msg, "$name must hold")
    end
    @test_throws "not an HCLT" count(mixture(2, 3, 1))
    @test_throws "no latents" count(Circuit(2, circuit.layers, circuit.roots))
end

@testset "counting allocates nothing per row" begin
    circuit = hclt(random_tree(6, 1), 3, 4; seed = 1)
    x = random_rows(fill(4, 6), 4000, 1)
    z = random_rows(fill(3, 6), 4000, 2; missing_share = 0)
    digits(data, size, name) = JuiceBridge.ColumnDigits(data, [2], [size], name)
    edge = JuiceBridge.CountedEdge(1, digits(z, 3, "z"), digits(x, 4, "x"))
    counts, work = zeros(Int, 4, 3), JuiceBridge.CountWork([edge])
    JuiceBridge.add_counts!(counts, work, edge)
    @test @allocated(JuiceBridge.add_counts!(counts, work, edge)) < 200
end

@testset "latent circuits" begin
    z = random_rows(fill(3, 4), 60, 1; missing_share = 0)
    circuit = latent_circuit(z, 3; pseudocount = 0.5, epsilon = 0.3)
    check(circuit)
    @test circuit.meta["structure"] == "latent circuit"
    leaf = circuit.layers[1].params
    @test leaf[:, :, 2] ≈ [0.8 0.1 0.1; 0.1 0.8 0.1; 0.1 0.1 0.8] && size(leaf, 3) == 4
    parents = chow_liu_tree(z, 3; bins = 3)
    counts = count_parameters(hclt(parents, 3, 3; seed = 9), z, z; pseudocount = 0.5)
    @test all(
        a.weights == b.weights for
        (a, b) in zip(circuit.layers, counts.layers) if a isa SumLayer
    )
    given = latent_circuit(z, 3; pseudocount = 0.5, epsilon = 0, parents = [0, 1, 2, 3])
    sharp = count_parameters(hclt([0, 1, 2, 3], 3, 3; seed = 9), z, z; pseudocount = 0.5)
    row = z[:, 1]
    @test log(root_values(given, row)[1]) ≈
          sum(
        log,
        (
            layer.weights[row[k+1]+1, row[k]+1, 1] for
            (k, layer) in ((3, sharp.layers[3]), (2, sharp.layers[5]), (1, sharp.layers[7]))
        ),
    ) + log(sharp.layers[9].weights[row[1]+1, 1, 1])
    @test_throws "epsilon" latent_circuit(z, 3; pseudocount = 1, epsilon = 2)
    @test_throws "non-empty" latent_circuit(
        zeros(Int, 0, 2),
        3;
        pseudocount = 1,
        epsilon = 0,
    )
end
