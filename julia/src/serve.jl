# Requests of another process, answered in files.
#
# A request is a folder. Its `request.h5` has the attribute `do`, settings as further attributes and
# arrays as datasets; each circuit lies beside it as `<name>.h5`. What can be asked for are the methods
# of `answer`. They leave arrays and numbers in `answer.h5` and a circuit in `made.h5`. Ids count
# from zero in these files, as in all files.

"A request that was read: settings, arrays (groups of them as a `Dict`), and the folder."
struct Request
    folder::String
    facts::Dict{String,Any}
    arrays::Dict{String,Any}
end

"Thrown out of a training whose listener wants no more of it."
struct Dropped <: Exception end

"Thrown where a circuit is neither here from the last question nor in the folder."
struct Lacking <: Exception end

"The circuit of the last question, since the next one may be about the same."
mutable struct CircuitCache
    key::String
    circuit::Union{Nothing,Circuit}
    ready::Dict{Tuple{String,DataType},CompiledCircuit}
end

const CIRCUIT_CACHE = CircuitCache("", nothing, Dict())

"Who follows a training: functions of an epoch's figures, and of (batches done, batches in all)."
struct Listener
    on_epoch::Any
    on_batch::Any
end

"""
    respond(folder, on_epoch, on_batch)

Answer the request in `folder` and return how that ended: `(outcome, sentence, trace)`. The outcome
is `"done"`; or `"refused"`, where the sentence says what is wrong with the request; or `"failed"`,
where something unexpected happened and `trace` tells where; or `"dropped"`; or `"lacking"`, where
the circuit that the request names by its key is not that of the last one and must be sent.

While it trains it calls `on_epoch(epoch, step_size, train, valid, seconds)` and
`on_batch(done, total)`, which says whether to go on.
"""
function respond(folder, @nospecialize(on_epoch), @nospecialize(on_batch))
    try
        request = read_request(string(folder))
        get(request.facts, "device", "cpu") == "cuda" && load_cuda()
        # CUDA may have come with methods that are newer than this call.
        Base.invokelatest(serve, request, Listener(on_epoch, on_batch))
        return ("done", "", "")
    catch err
        empty!(CIRCUIT_CACHE.ready)  # what is left in its buffers is anyone's guess
        cause = root_cause(err)
        cause isa Refusal && return ("refused", sentence_of(cause), "")
        cause isa Dropped && return ("dropped", "", "")
        cause isa Lacking && return ("lacking", "", "")
        trace = sprint(showerror, err, catch_backtrace())
        is_out_of_memory(cause) && return ("refused", OUT_OF_MEMORY, trace)
        return ("failed", "Julia stopped with " * one_line(cause), trace)
    end
end

"What a question is refused with, whoever is to blame; anything else is a failure."
const Refusal = Union{BridgeError,ArgumentError,DimensionMismatch}

sentence_of(err::BridgeError) = err.message
sentence_of(err::Union{ArgumentError,DimensionMismatch}) = err.msg

const OUT_OF_MEMORY = "Julia ran out of memory; take smaller batches or a smaller circuit."

is_out_of_memory(err) =
    err isa OutOfMemoryError || nameof(typeof(err)) === :OutOfGPUMemoryError

"What went wrong in the first of the tasks that failed."
root_cause(err) = err
root_cause(err::TaskFailedException) = root_cause(err.task.exception)
root_cause(err::CompositeException) = root_cause(first(err.exceptions))

one_line(err) = first(join(split(sprint(showerror, err)), ' '), 300)

"Load CUDA.jl, if this environment has it and the machine can use it."
function load_cuda()
    id = Base.PkgId(Base.UUID("052768ef-5323-5732-b1bb-66c8b64840ba"), "CUDA")
    Base.locate_package(id) === nothing &&
        throw(BridgeError("The package CUDA is not in Julia's environment."))
    cuda = Base.require(id)
    Base.invokelatest(cuda.functional) || throw(
        BridgeError(
            "Julia cannot use the GPU here; set the device to \"cpu\", or run " *
            "'python -m pyjuice_bridge julia setup' on this machine.",
        ),
    )
    return nothing
end

function read_request(folder)
    return HDF5.h5open(joinpath(folder, "request.h5"), "r") do file
        attributes = keys(HDF5.attributes(file))
        facts =
            Dict{String,Any}(name => scalar_attribute(file, name) for name in attributes)
        keep_circuit!(
            CIRCUIT_CACHE,
            get(facts, "circuit_key", ""),
            joinpath(folder, "circuit.h5"),
        )
        return Request(folder, facts, read(file))
    end
end

function serve(request, listener)
    results = answer(Val(Symbol(request.facts["do"])), request, listener)
    if haskey(results, :made)
        save_circuit(results.made, joinpath(request.folder, "made.h5"))
        return nothing
    end
    return atomic_h5(
        joinpath(request.folder, "answer.h5"),
        Base.summarysize(results),
    ) do file
        foreach(name -> write_result(file, string(name), results[name]), keys(results))
    end
end

write_result(file, name, array::AbstractArray) = write_array(file, name, array)
write_result(file, name, number::Real) = write_attribute(file, name, number)

function write_result(file, name, arrays::AbstractDict)
    group = HDF5.create_group(file, name)
    foreach(((key, array),) -> write_array(group, key, array), pairs(arrays))
end

"Have the circuit called `key` in place of the last one; `\"\"` calls none."
function keep_circuit!(cache::CircuitCache, key, path)
    (isempty(key) || key == cache.key) && return cache
    isfile(path) || throw(Lacking())
    cache.key, cache.circuit = "", nothing
    empty!(cache.ready)
    cache.circuit, cache.key = load_circuit(path), key
    return cache
end

circuit_of(request, name) = load_circuit(joinpath(request.folder, "$name.h5"))

function circuit_of(request)
    key = get(request.facts, "circuit_key", "")
    return isempty(key) ? circuit_of(request, "circuit") : CIRCUIT_CACHE.circuit::Circuit
end

"The request's circuit on its device."
function ready_of(request)
    device, precision = device_of(request), precision_of(request)
    haskey(request.facts, "circuit_key") ||
        return compiled(circuit_of(request); device, precision)
    return get!(CIRCUIT_CACHE.ready, (device, precision)) do
        return compiled(circuit_of(request); device, precision)
    end
end

array_of(request, name) = get(request.arrays, name, nothing)

setting(request, name) = request.facts[name]

"A block, variable or layer, which counts from one here."
id_of(request, name) = Int(request.facts[name]) + 1

latents_of(request) = Dict{String,Any}(get(request.arrays, "latents", ()))

"The counts of a request, by layer of the circuit."
function counts_of(request, circuit)
    given = get(request.arrays, "counts", Dict())
    return [get(given, string(i - 1), nothing) for i in eachindex(circuit.layers)]
end

device_of(request) = request.facts["device"]

precision_of(request::Request) = request.facts["precision"] == "float64" ? Float64 : Float32

"The region graph of a request, the text of a file of one."
graph_of(request) = region_graph(JSON3.read(String(copy(request.arrays["graph"]))))

parents_of(request) = request.arrays["parents"] .+ Int32(1)

# Building ------------------------------------------------------------------------------------

function answer(::Val{:chow_liu_tree}, request, _)
    parents = chow_liu_tree(
        request.arrays["x"],
        request.arrays["categories"];
        bins = setting(request, "bins"),
        pseudocount = setting(request, "pseudocount"),
    )
    return (; parents = Vector{Int32}(parents .- 1))
end

function answer(::Val{:hclt}, request, _)
    categories, seed = request.arrays["categories"], setting(request, "seed")
    return (;
        made = hclt(parents_of(request), setting(request, "latents"), categories; seed)
    )
end

function answer(::Val{:patch_bundle}, request, _)
    made = patch_bundle(
        parents_of(request),
        setting(request, "clusters"),
        setting(request, "latents"),
        request.arrays["categories"];
        seed = setting(request, "seed"),
    )
    return (; made)
end

function answer(::Val{:glue}, request, _)
    latent, bundle = circuit_of(request, "latent"), circuit_of(request, "bundle")
    return (; made = glue(latent, bundle, request.arrays["patch_variables"] .+ Int32(1)))
end

function answer(::Val{:count_parameters}, request, _)
    pseudocount = setting(request, "pseudocount")
    x, z = request.arrays["x"], request.arrays["z"]
    return (; made = count_parameters(circuit_of(request), x, z; pseudocount))
end

function answer(::Val{:latent_circuit}, request, _)
    made = latent_circuit(
        request.arrays["z"],
        setting(request, "clusters");
        pseudocount = setting(request, "pseudocount"),
        epsilon = setting(request, "epsilon"),
        parents = haskey(request.arrays, "parents") ? parents_of(request) : nothing,
    )
    return (; made)
end

function answer(::Val{:random_hmm}, request, _)
    made = random_hmm(
        setting(request, "states"),
        setting(request, "vocabulary"),
        setting(request, "length");
        seed = setting(request, "seed"),
    )
    return (; made)
end

function answer(::Val{:count_hmm}, request, _)
    states, tokens = setting(request, "states"), setting(request, "vocabulary")
    x, z = request.arrays["x"], request.arrays["z"]
    uniform(dims...) = fill(1.0f0 / first(dims), dims)
    start =
        hmm(uniform(states), uniform(states, states), uniform(tokens, states), size(x, 1))
    pseudocount = setting(request, "pseudocount")
    return (; made = count_parameters(start, x, z; pseudocount))
end

function answer(::Val{:rat_spn}, request, _)
    made = rat_spn(
        graph_of(request),
        setting(request, "sums"),
        setting(request, "inputs"),
        request.arrays["categories"];
        seed = setting(request, "seed"),
    )
    return (; made)
end

function answer(::Val{:tucker_circuit}, request, _)
    graph, latents = graph_of(request), setting(request, "latents")
    seed = get(request.facts, "seed", nothing)
    return (; made = tucker_circuit(graph, latents, request.arrays["categories"]; seed))
end

function answer(::Val{:region_circuit}, request, _)
    made = region_circuit(
        graph_of(request),
        request.arrays["latents"],
        request.arrays["categories"];
        shapes = request.arrays["shapes"] .+ 1,
        seed = get(request.facts, "seed", nothing),
    )
    return (; made)
end

# Growing -------------------------------------------------------------------------------------

function answer(::Val{:choose_roots}, request, _)
    return (; made = choose_roots(circuit_of(request), request.arrays["roots"] .+ Int32(1)))
end

function answer(::Val{:prune}, request, _)
    circuit = circuit_of(request)
    counts = counts_of(request, circuit)
    return (; made = prune(circuit, counts, setting(request, "share")))
end

function answer(::Val{:widen}, request, _)
    made = grow(
        circuit_of(request),
        request.arrays["second"] .== 1;
        cross = setting(request, "cross"),
        noise = setting(request, "noise"),
        seed = setting(request, "seed"),
    )
    return (; made)
end

function answer(::Val{:narrow}, request, _)
    circuit = circuit_of(request)
    counts = counts_of(request, circuit)
    return (; made = narrow(circuit, counts, setting(request, "share")))
end

function answer(::Val{:double}, request, _)
    noise, seed = setting(request, "noise"), setting(request, "seed")
    return (; made = double(circuit_of(request); noise, seed))
end

# Running -------------------------------------------------------------------------------------

function answer(::Val{:log_likelihood}, request, _)
    latents = latents_of(request)
    vals = log_likelihood(ready_of(request), request.arrays["x"]; latents)
    return (; log_likelihood = vals)
end

function answer(::Val{:expected_counts}, request, _)
    counts = expected_counts(
        ready_of(request),
        request.arrays["x"];
        weights = request.arrays["weights"],
        latents = latents_of(request),
    )
    layers = enumerate(counts.layers)
    named = Dict(string(i - 1) => counted for (i, counted) in layers if counted !== nothing)
    return (; counts = named, counts.log_likelihood)
end

function answer(::Val{:fit}, request, listener)
    empty!(CIRCUIT_CACHE.ready)  # training needs the memory
    fitted = fit(
        circuit_of(request),
        request.arrays["x"],
        fit_options(request);
        weights = request.arrays["weights"],
        latents = latents_of(request),
        valid = array_of(request, "valid"),
        order = haskey(request.arrays, "order") ? request.arrays["order"] .+ Int32(1) :
                nothing,
        checkpoint = get(request.facts, "checkpoint", nothing),
        key = get(request.facts, "key", ""),
        on_epoch = epoch -> listener.on_epoch(
            epoch.epoch - 1,
            epoch.step_size,
            epoch.train,
            epoch.valid,
            epoch.seconds,
        ),
        on_batch = (done, total) -> listener.on_batch(done, total) || throw(Dropped()),
        device = device_of(request),
        precision = precision_of(request),
    )
    return (; made = fitted.circuit)
end

function fit_options(request)
    facts = request.facts
    return FitOptions(;
        optimizer = Symbol(facts["optimizer"]),
        epochs = facts["epochs"],
        batch_size = facts["batch_size"],
        step_size = Schedule(
            facts["step_size_start"],
            facts["step_size_end"],
            Symbol(facts["schedule"]),
            facts["step_size_switch"],
        ),
        pseudocount = facts["pseudocount"],
        momentum = facts["momentum"],
        patience = get(facts, "patience", nothing),
        frozen = request.arrays["frozen"] .+ 1,
        seed = facts["seed"],
    )
end

function answer(::Val{:sample}, request, _)
    samples = sample(
        ready_of(request),
        setting(request, "n");
        evidence = array_of(request, "evidence"),
        latents = latents_of(request),
        seed = setting(request, "seed"),
        root = id_of(request, "root"),
    )
    return (; samples)
end

function answer(::Val{:mpe}, request, _)
    x, value = mpe(
        circuit_of(request),
        request.arrays["evidence"];
        root = id_of(request, "root"),
        device = device_of(request),
    )
    return (; x, value)
end

function answer(::Val{:posteriors}, request, _)
    vals = posteriors(
        ready_of(request),
        request.arrays["x"],
        setting(request, "name");
        root = id_of(request, "root"),
    )
    return (; posteriors = vals)
end
