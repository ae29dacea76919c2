import HDF5

"A folder with a request; what is written under `do` and so on is what Python would write."
function request(question; facts = (;), circuits = (;), arrays = (;), latents = nothing)
    folder = mktempdir()
    for (name, circuit) in pairs(circuits)
        save_circuit(circuit, joinpath(folder, "$name.h5"))
    end
    HDF5.h5open(joinpath(folder, "request.h5"), "w") do file
        JuiceBridge.write_attribute(file, "do", question)
        for (name, fact) in pairs(facts)
            JuiceBridge.write_attribute(file, string(name), fact)
        end
        for (name, array) in pairs(arrays)
            file[string(name)] = array
        end
        if latents !== nothing
            group = HDF5.create_group(file, "latents")
            foreach(((name, array),) -> group[name] = array, pairs(latents))
        end
    end
    return folder
end

"Have `folder` answered; what was said meanwhile comes back with how it ended."
function ask(folder; most = typemax(Int))
    epochs, batches = [], []
    ended = JuiceBridge.respond(
        folder,
        (epoch...) -> push!(epochs, epoch),
        (batch...) -> length(push!(batches, batch)) < most,
    )
    return (; ended, epochs, batches)
end

answer_of(folder) = HDF5.h5open(read, joinpath(folder, "answer.h5"))
made_in(folder) = load_circuit(joinpath(folder, "made.h5"))

const ON_CPU = (device = "cpu", precision = "float32")

same_params(a, b) = all(
    layer_params(x) == layer_params(y) for
    (x, y) in zip(a.layers, b.layers) if layer_params(x) !== nothing
)

@testset "building" begin
    folder = request(
        "hclt";
        facts = (latents = 3, seed = 4),
        arrays = (parents = Int32[1, -1, 1], categories = Int32[2, 3, 2]),
    )
    @test ask(folder).ended == ("done", "", "")
    @test same_params(made_in(folder), hclt([2, 0, 2], 3, [2, 3, 2]; seed = 4))
    x = UInt8.(rand(Xoshiro(1), 0:3, 5, 200))
    arrays = (x = x, categories = fill(Int32(4), 5))
    folder = request("chow_liu_tree"; facts = (bins = 16, pseudocount = 1.0), arrays)
    @test ask(folder).ended[1] == "done"
    @test answer_of(folder)["parents"] == chow_liu_tree(x, 4) .- 1
end

@testset "running" begin
    circuit = hclt([2, 0, 2], 3, [2, 3, 2]; seed = 4)
    x = random_rows([2, 3, 2], 6, 1)
    z = random_rows([3, 3, 3], 6, 2; missing_share = 0.5)
    circuits = (; circuit)
    latents = Dict("z" => z)
    folder = request("log_likelihood"; facts = ON_CPU, circuits, arrays = (; x), latents)
    @test ask(folder).ended[1] == "done"
    @test answer_of(folder)["log_likelihood"] == log_likelihood(circuit, x; latents)
    weights = rand(Xoshiro(3), 1, 6)
    folder = request("expected_counts"; facts = ON_CPU, circuits, arrays = (; x, weights))
    @test ask(folder).ended[1] == "done"
    found, expected = answer_of(folder), expected_counts(circuit, x; weights)
    for (i, counts) in enumerate(expected.layers)
        @test get(found["counts"], string(i - 1), nothing) == counts
    end
    for (name, key) in (("mpe", :evidence), ("posteriors", :x))
        facts = (; ON_CPU..., root = 0, name = "z")
        folder = request(name; facts, circuits, arrays = NamedTuple{(key,)}((x,)))
        @test ask(folder).ended[1] == "done"
    end
    facts = (; ON_CPU..., root = 0, n = 7, seed = 5)
    folder = request("sample"; facts, circuits)
    @test ask(folder).ended[1] == "done"
    @test answer_of(folder)["samples"] == sample(circuit, 7; seed = 5)
end

@testset "training" begin
    circuit = hclt([2, 0, 2], 3, [2, 3, 2]; seed = 4)
    x = random_rows([2, 3, 2], 40, 6)
    order = stack(sortperm(rand(Xoshiro(e), 40)) for e = 1:3)
    facts = (;
        ON_CPU...,
        optimizer = "mini_em",
        epochs = 3,
        batch_size = 20,
        schedule = "linear",
        step_size_start = 0.4,
        step_size_end = 0.1,
        step_size_switch = 0.8,
        pseudocount = 0.1,
        momentum = 0.9,
        seed = 0,
    )
    arrays = (;
        x,
        valid = x,
        weights = ones(1, 40),
        order = Int32.(order .- 1),
        frozen = Int32[0],
    )
    folder = request("fit"; facts, circuits = (; circuit), arrays)
    found = ask(folder)
    @test found.ended[1] == "done"
    @test found.batches == [(k, 6) for k = 1:6]
    @test first.(found.epochs) == [0, 1, 2]
    options = FitOptions(;
        epochs = 3,
        batch_size = 20,
        step_size = Schedule(0.4, 0.1),
        frozen = [1],
    )
    expected = fit(circuit, x, options; valid = x, order)
    @test same_params(made_in(folder), expected.circuit)
    dropped = ask(folder; most = 3)
    @test dropped.ended == ("dropped", "", "") && length(dropped.batches) == 3
    @test length(dropped.epochs) == 1
    @test [epoch[3] for epoch in found.epochs] == [line.train for line in expected.history]
end

@testset "what goes wrong" begin
    circuit = hclt([0, 1], 2, 2; seed = 1)
    facts = (; ON_CPU..., root = 9, n = 1, seed = 1)
    outcome, sentence, trace = ask(request("sample"; facts, circuits = (; circuit))).ended
    @test outcome == "refused" && occursin("root", sentence) && trace == ""
    outcome, sentence, trace = ask(request("nonsense")).ended
    @test outcome == "failed" && !occursin('\n', sentence)
    @test occursin("MethodError", sentence) && occursin("serve.jl", trace)
    inner = Threads.@spawn throw(BridgeError("a sentence"))
    cause = try
        wait(inner)
    catch error
        JuiceBridge.root_cause(CompositeException([error]))
    end
    @test cause == BridgeError("a sentence")
end
