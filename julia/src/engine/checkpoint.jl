# The state of a training between two epochs, as an HDF5 file written atomically.

const CHECKPOINT_FORMAT = "juice-bridge-julia-checkpoint"
const CHECKPOINT_VERSION = 1

"Write `state`; `key` identifies the training it belongs to."
function write_checkpoint(path, state::FitState, key)
    groups = Pair{String,Any}["params"=>state.params]
    isnothing(state.momentum) || push!(groups, "momentum" => state.momentum)
    if !isnothing(state.best) && best_epoch(state) != length(state.history)
        push!(groups, "best" => state.best)
    end
    bytes = sum(((_, arrays),) -> sum(sizeof, arrays), groups)
    atomic_h5(path, bytes) do file
        write_attribute(file, "format", CHECKPOINT_FORMAT)
        write_attribute(file, "version", CHECKPOINT_VERSION)
        write_attribute(file, "key", key)
        write_attribute(file, "steps", state.steps)
        write_array(file, "history", history_table(state.history))
        write_array(file, "momentum_rows", state.momentum_rows)
        for (name, arrays) in groups
            group = HDF5.create_group(file, name)
            for (i, array) in enumerate(arrays)
                isempty(array) || write_array(group, string(i - 1), array)
            end
        end
    end
end

"Put what `write_checkpoint` wrote into `state`, unless it belongs to another training."
function read_checkpoint!(state::FitState, path, key)
    open_checked(path, CHECKPOINT_FORMAT, CHECKPOINT_VERSION) do file
        text_attribute(file, "key") == key || throw(
            BridgeError(
                "$path belongs to another training (other data, circuit or options); " *
                "delete it to start afresh.",
            ),
        )
        guarded(path) do
            state.steps = whole_attribute(file, "steps")
            state.history = history_of(read(file["history"]))
            state.momentum_rows .= read(file["momentum_rows"])
            read_arrays!(state.params, file["params"])
            if haskey(file, "momentum")
                state.momentum = map(p -> fill!(similar(p), 0), state.params)
                read_arrays!(state.momentum, file["momentum"])
            end
            if !isnothing(best_epoch(state))
                state.best = map(copy, state.params)
                haskey(file, "best") && read_arrays!(state.best, file["best"])
            end
        end
    end
    return state
end

function read_arrays!(arrays, group)
    for (i, array) in enumerate(arrays)
        name = string(i - 1)
        if haskey(group, name)
            copyto!(array, read(group[name]))
        elseif !isempty(array)
            arrays[i] = similar(array, (0, 0, 0))
        end
    end
    return arrays
end

"Epochs as a matrix, a column each; NaN stands for a validation score that is not there."
history_table(history) = reduce(
    hcat,
    [
        [
            e.epoch,
            e.step_size,
            e.train,
            something(e.valid, NaN),
            !isnothing(e.valid),
            e.seconds,
        ] for e in history
    ];
    init = zeros(6, 0),
)

history_of(table) = [
    Epoch(e, step_size, train, has_valid == 1 ? valid : nothing, seconds) for
    (e, step_size, train, valid, has_valid, seconds) in eachcol(table)
]
