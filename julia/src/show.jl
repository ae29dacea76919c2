# How circuits and their parts look in a REPL.

"1234567 → \"1,234,567\"."
commas(number::Integer) = replace(string(number), r"(?<=\d)(?=(\d{3})+$)" => ",")

"A number and its noun, in the plural where it takes one."
counted_noun(number, noun, plural = noun * "s") =
    "$(commas(number)) $(number == 1 ? noun : plural)"

"Most layers that are listed; of more, the ones in the middle are left out."
const SHOWN_LAYERS = 24

function Base.show(io::IO, circuit::Circuit)
    parts = (
        counted_noun(circuit.num_vars, "variable"),
        counted_noun(length(circuit.layers), "layer"),
        counted_noun(num_blocks(circuit), "block"),
        counted_noun(num_parameters(circuit), "parameter"),
        counted_noun(length(circuit.roots), "root"),
    )
    return print(io, "Circuit(", join(parts, ", "), ")")
end

function Base.show(io::IO, ::MIME"text/plain", circuit::Circuit)
    show(io, circuit)
    number = length(circuit.layers)
    rows = [layer_row(circuit, i) for i = 1:number]
    widths = [maximum(textwidth(row[k]) for row in rows; init = 0) for k = 1:4]
    for (i, row) in enumerate(rows)
        if number > SHOWN_LAYERS && SHOWN_LAYERS ÷ 2 < i <= number - SHOWN_LAYERS ÷ 2
            i == SHOWN_LAYERS ÷ 2 + 1 && print(io, "\n  ⋮")
            continue
        end
        cells = (lpad(row[1], widths[1]), rpad.(row[2:4], widths[2:4])..., row[5])
        print(io, "\n  ", rstrip(join(cells, "  ")))
    end
    for name in sort!(collect(keys(circuit.latents)))
        positions = counted_noun(length(circuit.latents[name]), "position")
        print(io, "\n  latent ", name, ": ", positions)
    end
    for name in sort!(collect(keys(circuit.meta)))
        print(io, "\n  ", name, ": ", circuit.meta[name])
    end
end

"One layer in five cells: number, kind, blocks, what is special, parameters."
function layer_row(circuit, i)
    layer = circuit.layers[i]
    blocks = "$(counted_noun(num_blocks(layer), "block")) × $(commas(circuit.widths[i]))"
    return [string(i), layer_kind(layer), blocks, layer_note(layer), parameter_note(layer)]
end

layer_kind(::InputLayer) = "input"
layer_kind(layer::ProductLayer) = String(layer.kind)
layer_kind(::SumLayer) = "sum"

layer_note(layer::InputLayer) = counted_noun(size(layer.params, 1), "value")
layer_note(layer::ProductLayer) = counted_noun(length(layer.children), "factor")
layer_note(layer::SumLayer) = "mixing $(counted_noun(size(layer.weights, 1), "node"))"

parameter_note(::ProductLayer) = ""
function parameter_note(layer::Union{InputLayer,SumLayer})
    owns_params(layer) || return "parameters of layer $(layer.tied_to)"
    params = layer_params(layer)
    groups = size(params, 3)
    blocks = layer isa InputLayer ? num_blocks(layer) : length(layer.children)
    shared = groups < blocks ? ", $(counted_noun(groups, "group"))" : ""
    return "$(counted_noun(length(params), "parameter")) ($(eltype(params))$shared)"
end

function Base.show(io::IO, layer::Layer)
    blocks = counted_noun(num_blocks(layer), "block")
    params = layer_params(layer)
    width = params === nothing ? "" : " × $(commas(size(params, 2)))"
    notes = filter(!isempty, ["$blocks$width", layer_note(layer), parameter_note(layer)])
    kind = layer isa ProductLayer ? ":$(layer.kind), " : ""
    return print(io, nameof(typeof(layer)), "(", kind, join(notes, ", "), ")")
end

function Base.show(io::IO, graph::RegionGraph)
    parts = (
        counted_noun(graph.num_vars, "variable"),
        counted_noun(length(graph.scopes), "region"),
        counted_noun(length(graph.partitions), "partition"),
    )
    return print(io, "RegionGraph(", join(parts, ", "), ")")
end

function Base.show(io::IO, assignments::Assignments)
    splits = sort!(collect(assignments.z); by = first)
    rows = ["$part $(counted_noun(size(z, 2), "row"))" for (part, z) in splits]
    positions = counted_noun(size(last(splits[1]), 1), "position")
    clusters = counted_noun(assignments.clusters, "cluster")
    return print(io, "Assignments(", join([clusters, positions, rows...], ", "), ")")
end

function Base.show(io::IO, counts::Counts)
    entries = sum(length, filter(!isnothing, counts.layers); init = 0)
    layers = counted_noun(count(!isnothing, counts.layers), "layer")
    score = "log-likelihood $(rounded(counts.log_likelihood))"
    return print(
        io,
        "Counts($layers, $(counted_noun(entries, "entry", "entries")), $score)",
    )
end

function Base.show(io::IO, schedule::Schedule)
    (; start, stop, kind, switch) = schedule
    kind === :constant && return print(io, "Schedule($start, :constant)")
    change = kind === :step ? ":step at $switch" : repr(kind)
    return print(io, "Schedule($start → $stop, $change)")
end

"Options as the call that makes them, without those that are as usual."
function Base.show(io::IO, options::FitOptions)
    usual = FitOptions()
    given = filter(fieldnames(FitOptions)) do name
        return name === :optimizer || getfield(options, name) != getfield(usual, name)
    end
    parts = ("$name = $(repr(getfield(options, name)))" for name in given)
    return print(io, "FitOptions(; ", join(parts, ", "), ")")
end

function Base.show(io::IO, epoch::Epoch)
    valid = isnothing(epoch.valid) ? "" : ", valid $(rounded(epoch.valid))"
    return print(io, "Epoch $(epoch.epoch): train $(rounded(epoch.train))$valid")
end

function Base.show(io::IO, result::FitResult)
    passes = counted_noun(length(result.history), "epoch")
    print(io, "FitResult($(result.circuit), $passes")
    isempty(result.history) || print(io, ", last ", result.history[end])
    return print(io, ")")
end

rounded(number) = round(number; sigdigits = 6)
