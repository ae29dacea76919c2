# Training by EM: options, the loop over epochs and mini-batches, early stopping.

const SCHEDULES = (:linear, :cosine, :constant, :step)

const OPTIMIZERS = (:full_em, :mini_em, :anemone)

one_of(choices) = join(repr.(choices), ", ", " or ")

"""
    Schedule(start = 0.1, stop = 0.01, kind = :linear, switch = 0.8)

Step size η over training, from `start` to `stop`, per mini-batch. `kind` is `:linear`,
`:cosine`, `:constant`, or `:step`, which keeps `start` for the share `switch` of the
training.
"""
struct Schedule
    start::Float64
    stop::Float64
    kind::Symbol
    switch::Float64

    function Schedule(start, stop, kind = :linear, switch = 0.8)
        kind in SCHEDULES ||
            refuse("kind is $(repr(kind)); it must be $(one_of(SCHEDULES)).")
        for (name, rate) in ("start" => start, "stop" => stop)
            0 < rate <= 1 || refuse("$name is $rate; a step size is above 0, at most 1.")
        end
        0 <= switch <= 1 || refuse("switch is $switch; it must be from 0 to 1.")
        return new(start, stop, kind, switch)
    end
end

Schedule(; start = 0.1, stop = 0.01, kind = :linear, switch = 0.8) =
    Schedule(start, stop, kind, switch)

"η at mini-batch `taken` (from zero) of `total`."
function step_size(schedule::Schedule, taken, total)
    (; start, stop, kind) = schedule
    kind === :constant && return start
    kind === :step && return taken < schedule.switch * total ? start : stop
    done = taken / max(1, total - 1)
    kind === :cosine && (done = (1 - cos(π * done)) / 2)
    return start + (stop - start) * done
end

"""
    FitOptions(; optimizer = :mini_em, epochs = 10, batch_size = 512, keywords...)

How to train.

- `optimizer`: `:full_em` (one step per pass), `:mini_em` (Liu et al., ICLR 2023, app. B.1)
  or `:anemone` (arXiv 2505.19982);
- `step_size = Schedule()`: η for `:mini_em` and `:anemone`;
- `pseudocount = 0.1`: added to the counts of a row, shared evenly by its entries;
- `momentum = 0.9`: on the counts, for `:anemone`;
- `patience = nothing`: stop after this many epochs without a better validation score;
- `frozen = Int[]`: layers whose parameters stay as they are;
- `seed = 0`: orders the mini-batches, where no order is given; a number or a generator.
"""
struct FitOptions
    optimizer::Symbol
    epochs::Int
    batch_size::Int
    step_size::Schedule
    pseudocount::Float64
    momentum::Float64
    patience::Union{Nothing,Int}
    frozen::Vector{Int}
    seed::Int

    function FitOptions(;
        optimizer = :mini_em,
        epochs = 10,
        batch_size = 512,
        step_size = Schedule(),
        pseudocount = 0.1,
        momentum = 0.9,
        patience = nothing,
        frozen = Int[],
        seed = 0,
    )
        if optimizer ∉ OPTIMIZERS
            refuse("optimizer is $(repr(optimizer)); it must be $(one_of(OPTIMIZERS)).")
        end
        check_whole(epochs, "epochs", 0:MOST_EPOCHS)
        check_whole(batch_size, "batch_size", 1:ID_LIMIT)
        isnothing(patience) || check_whole(patience, "patience", 1:ID_LIMIT)
        0 <= pseudocount <= LARGEST_PSEUDOCOUNT || refuse(
            "pseudocount is $pseudocount; it must be from 0 to $LARGEST_PSEUDOCOUNT.",
        )
        0 <= momentum < 1 || refuse("momentum is $momentum; it must be from 0 to below 1.")
        return new(
            optimizer,
            epochs,
            batch_size,
            step_size,
            pseudocount,
            momentum,
            patience,
            frozen,
            seed_number(seed),
        )
    end
end

const MOST_EPOCHS = 100_000
const LARGEST_PSEUDOCOUNT = 10^9

function check_whole(number, name, span)
    number isa Integer && number in span && return number
    bounds = "from $(first(span)) to $(last(span))"
    return refuse("$name is $(repr(number)); it must be an integer $bounds.")
end

"""
One line of a learning curve; log-likelihoods are nats per row, averaged. `epoch` counts
from one. `train` is measured while the epoch's steps are taken, `valid` (`nothing` without
validation rows) after them.
"""
struct Epoch
    epoch::Int
    step_size::Float64
    train::Float64
    valid::Union{Nothing,Float64}
    seconds::Float64
end

"The trained circuit (the best on validation where there is one) and its learning curve."
struct FitResult
    circuit::Circuit
    history::Vector{Epoch}
end

"""
All that training changes; a checkpoint is this, written out. `momentum_rows` are the rows
`[1, roots]` that `momentum` averages, averaged with the same weights.
"""
mutable struct FitState{P}
    params::Vector{P}
    momentum::Union{Nothing,Vector{P}}
    momentum_rows::Matrix{Float64}
    steps::Int
    history::Vector{Epoch}
    best::Union{Nothing,Vector{P}}
end

"""
The number of the best epoch on validation, the first of equal ones; `nothing` without
validation.
"""
function best_epoch(state::FitState)
    isempty(state.history) && return nothing
    isnothing(state.history[1].valid) && return nothing
    scores = [isnan(epoch.valid) ? -Inf : epoch.valid for epoch in state.history]
    return argmax(scores)
end

"""
One training of one circuit; `pseudocount` is to be added to counts as they are collected.
`parts` are empty where the circuit is trained as a whole.
"""
Base.@kwdef struct Trainer{P<:Pass,R<:Rows,X,A}
    pass::P
    parts::Vector{Part{P,R,A}}
    rows::R
    valid::X
    options::FitOptions
    pseudocount::Float64
    state::FitState{A}
    counts::Vector{A}
    prior::Vector{A}
    batch::Int
    order::Union{Nothing,Matrix{Int32}}
end

function Trainer(
    pass::Pass,
    parts,
    rows::Rows,
    valid,
    options::FitOptions,
    pseudocount,
    order,
)
    total = size(rows.x, 2)
    batch = options.optimizer === :full_em ? total : min(options.batch_size, total)
    momentum_rows = zeros(1, pass.program.num_roots)
    state = FitState(pass.params, nothing, momentum_rows, 0, Epoch[], nothing)
    counts = isempty(parts) ? new_counts(pass, options.frozen) : empty(pass.params)
    prior = options.optimizer === :anemone ? new_counts(pass) : empty(counts)
    return Trainer(;
        pass,
        parts,
        rows,
        valid,
        options,
        pseudocount,
        state,
        counts,
        prior,
        batch,
        order,
    )
end

num_batches(trainer::Trainer) = cld(size(trainer.rows.x, 2), trainer.batch)

"The order in which epoch `number` takes its rows."
function row_order(trainer::Trainer, number)
    isnothing(trainer.order) || return trainer.order[:, number]
    generator = Xoshiro(hash((trainer.options.seed, number)))
    return Int32.(randperm(generator, size(trainer.rows.x, 2)))
end

"""
One pass over the rows, then the validation score. With `joins` the circuit has the parameters
of its parts then.
"""
function run_epoch!(trainer::Trainer, on_batch, joins)
    started = time()
    (; pass, state, rows, options) = trainer
    number = length(state.history) + 1
    order = row_order(trainer, number)
    total, η = 0.0, 1.0
    steps = num_batches(trainer) * options.epochs
    for k = 1:num_batches(trainer)
        columns = order[(1+(k-1)*trainer.batch):min(k * trainer.batch, end)]
        η = step_size(trainer)
        total += train_on!(trainer, columns, η)
        state.steps += 1
        on_batch(state.steps, steps)
    end
    train = total / sum(Float64, rows.weights)
    isnan(train) &&
        throw(BridgeError("Training diverged: the log-likelihood is not a number."))
    joins && join_parts!(trainer)
    valid = nothing
    if !isnothing(trainer.valid)
        scores = evaluate!(pass, trainer.valid, Evidence())
        valid = sum(scores) / length(scores)
    end
    return Epoch(number, η, train, valid, time() - started)
end

"Put the parameters of all parts where those of the circuit are."
function join_parts!(trainer::Trainer)
    isempty(trainer.parts) && return trainer
    foreach(part -> give_params!(trainer.state.params, part), trainer.parts)
    params_changed!(trainer.pass)
    return trainer
end

"η of the next step."
function step_size(trainer::Trainer)
    (; options, state) = trainer
    options.optimizer === :full_em && return 1.0
    return step_size(options.step_size, state.steps, num_batches(trainer) * options.epochs)
end

"One step from the counts of a batch; returns Σ weight · log p before it."
function train_on!(trainer::Trainer, columns, η)
    (; pass, parts, rows, counts, pseudocount) = trainer
    isempty(parts) || return train_parts!(parts, columns, η, pseudocount)
    total = collect!(pass, counts, rows, columns)
    if trainer.options.optimizer === :anemone
        take_anemone_step!(trainer, columns, η)
    else
        m_step!(pass, counts, η, pseudocount)
    end
    return total
end

"""
What a row with every value missing counts is TD(n)·θ: one extra row per step. The rows of a
batch are averaged like its counts, so that a short last batch, or one in which a root has
no rows, does not change the proportion of the two.
"""
function take_anemone_step!(trainer::Trainer, columns, η)
    (; pass, counts, prior, options, state) = trainer
    finish_counts!(pass, counts)
    isnothing(state.momentum) && (state.momentum = new_counts(pass, options.frozen))
    β = options.momentum
    for (average, tally) in zip(state.momentum, counts)
        T = eltype(tally)
        average .= T(β) .* average .+ T(1 - β) .* tally
    end
    taken = Array(trainer.rows.weights[columns, :])
    state.momentum_rows .=
        β .* state.momentum_rows .+ (1 - β) .* sum(Float64, taken; dims = 1)
    correction = 1 - β^(state.steps + 1)
    load_missing!(pass, 1)
    upward!(pass)
    weights = similar(trainer.rows.weights, 1, pass.program.num_roots)
    copyto!(weights, convert(Matrix{eltype(weights)}, state.momentum_rows ./ correction))
    downward!(pass, prior, weights)
    spread_missing!(pass, prior)
    finish_counts!(pass, prior)
    anemone_step!(pass, counts, state.momentum, correction, prior, η, trainer.pseudocount)
    foreach(tally -> fill!(tally, 0), counts)
    foreach(tally -> fill!(tally, 0), prior)
    return nothing
end

"Remember the parameters when the last epoch scored best on validation."
function keep_best!(state::FitState)
    best_epoch(state) == length(state.history) || return state
    if isnothing(state.best)
        state.best = map(copy, state.params)
    else
        foreach(copyto!, state.best, state.params)
    end
    return state
end

function is_finished(trainer::Trainer)
    (; history) = trainer.state
    length(history) >= trainer.options.epochs && return true
    best = best_epoch(trainer.state)
    patience = trainer.options.patience
    return !isnothing(patience) && !isnothing(best) && length(history) - best >= patience
end

"Run the epochs that are left, write a checkpoint after each; the parameters of the best."
function train!(trainer::Trainer, checkpoint, key, on_epoch, on_batch)
    state = trainer.state
    if !isnothing(checkpoint) && isfile(checkpoint)
        read_checkpoint!(state, checkpoint, key)
        foreach(on_epoch, state.history)
        foreach(part -> take_params!(part, state.params), trainer.parts)
    end
    # Joining takes a third of an epoch of one step: only where something reads the circuit then.
    joins = !isnothing(trainer.valid) || !isnothing(checkpoint)
    while !is_finished(trainer)
        epoch = run_epoch!(trainer, on_batch, joins)
        push!(state.history, epoch)
        keep_best!(state)
        isnothing(checkpoint) || write_checkpoint(checkpoint, state, key)
        on_epoch(epoch)
    end
    joins || join_parts!(trainer)
    return isnothing(state.best) ? state.params : state.best
end
