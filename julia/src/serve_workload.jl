# Requests that are answered while the package is precompiled, so that a worker's first answers
# need not wait for the compiler.

const TINY_TREE = (parents = Int32[1, -1], categories = Int32[2, 2])

const TINY_TRAINING = (
    optimizer = "mini_em",
    epochs = 1,
    batch_size = 2,
    schedule = "linear",
    step_size_start = 0.1,
    step_size_end = 0.1,
    step_size_switch = 0.8,
    pseudocount = 0.1,
    momentum = 0.9,
    seed = 0,
)

function answer_workload(folder, precision)
    rows, z = UInt8[0 1 1; 1 0 1], Int32[0 1 1; 1 0 1]
    running = (device = "cpu", precision, root = 0, n = 1, name = "z", seed = 0)
    counting, weights = (; pseudocount = 1.0), ones(1, 3)
    building = (; counting..., bins = 2, latents = 2, clusters = 2, epsilon = 0.1, seed = 0)
    answer_tiny(folder, "hclt", building, TINY_TREE)
    mv(joinpath(folder, "made.h5"), joinpath(folder, "circuit.h5"))
    answer_tiny(folder, "chow_liu_tree", building, (; x = rows, TINY_TREE.categories))
    answer_tiny(folder, "chow_liu_tree", building, (; x = z, TINY_TREE.categories))
    answer_tiny(folder, "count_parameters", building, (; x = rows, z))
    answer_tiny(folder, "latent_circuit", building, (; z, TINY_TREE.parents))
    answer_tiny(folder, "log_likelihood", running, (; x = rows))
    answer_tiny(folder, "expected_counts", running, (; x = rows, weights))
    answer_tiny(folder, "sample", running, (;))
    answer_tiny(folder, "sample", running, (; evidence = Int16[-1 0; 1 -1]))
    answer_tiny(folder, "mpe", running, (; evidence = z))
    answer_tiny(folder, "posteriors", running, (; x = rows))
    training =
        (; running..., TINY_TRAINING..., checkpoint = joinpath(folder, "c.h5"), key = "")
    arrays = (; weights, frozen = Int32[], order = Int32[0; 1; 2;;])
    answer_tiny(folder, "fit", training, (; arrays..., x = rows, valid = rows))
    return nothing
end

function answer_tiny(folder, question, facts, arrays)
    rm(joinpath(folder, "made.h5"); force = true)
    HDF5.h5open(joinpath(folder, "request.h5"), "w") do file
        write_attribute(file, "do", question)
        foreach(((name, fact),) -> write_attribute(file, string(name), fact), pairs(facts))
        foreach(((name, array),) -> write_array(file, string(name), array), pairs(arrays))
    end
    outcome, sentence, trace = respond(folder, (_...) -> nothing, (_...) -> true)
    outcome == "done" || error(sentence, trace)
end

@compile_workload for precision in ("float32", "float64")
    mktempdir(folder -> answer_workload(folder, precision))
end
