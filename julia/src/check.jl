# Is this a circuit? Structural and numeric checks, before anything is computed.

"How far the sum of a row of probabilities may be from one."
const TOLERANCE = 1e-5

const ID_LIMIT = 2^31 - 1

"What is known of every block so far: width, leaves counted with multiplicity, scope."
struct BlockFacts
    widths::Vector{Int}
    sizes::Vector{Int}
    prints::Vector{UInt64}
end

BlockFacts(total) = BlockFacts(zeros(Int, total), zeros(Int, total), zeros(UInt64, total))

"""
    check(circuit, place = "circuit")

Throw unless `circuit` is smooth, decomposable, normalised and consistently stored.

The [`BridgeError`](@ref) is one sentence that begins with `place` (for instance the file)
and names the array at fault as in a circuit file: `/layers/<i>/<array>`, `/roots`,
`/latents/<name>` or `/meta`. Ids in it count from zero, as in files.
"""
function check(circuit::Circuit, place::AbstractString = "circuit")
    check_header(circuit, place)
    for (i, layer) in enumerate(circuit.layers)
        item = "$place: /layers/$(i - 1)"
        check_arrays(layer, item)
        layer isa SumLayer && check_owner(circuit, i, item)
    end
    total = num_blocks(circuit)
    total <= ID_LIMIT ||
        fail("$place: /layers", "$total blocks in all, at most $ID_LIMIT are possible")
    variables = check_variables(circuit, place)
    facts = BlockFacts(total)
    for (i, layer) in enumerate(circuit.layers)
        blocks = circuit.starts[i]:(circuit.starts[i+1]-1)
        check_layer(circuit, layer, facts, blocks, "$place: /layers/$(i - 1)")
        if layer isa ProductLayer && maximum(view(facts.sizes, blocks)) > variables
            fail_overlap(circuit, trues(total), place)
        end
    end
    check_listed(circuit, facts, place)
    check_decomposable(circuit, facts, variables, place)
    return nothing
end

fail(item, problem) = throw(BridgeError("$item: $problem."))

"The id as files count it; it wraps, so that any 32-bit number of a file comes back."
in_file(id::Int32) = Int(id - Int32(1))
in_file(id::Int) = id - 1

storable(text::AbstractString) = isvalid(text) && !occursin('\0', text)
storable(number::Integer) = typemin(Int64) <= number <= typemax(Int64)
storable(::AbstractFloat) = true
storable(::Any) = false

function check_header(circuit, place)
    1 <= circuit.num_vars <= ID_LIMIT ||
        fail(place, "num_vars is $(circuit.num_vars), must be from 1 to $ID_LIMIT")
    isempty(circuit.layers) && fail("$place: /layers", "there is no layer")
    for name in Iterators.flatten((keys(circuit.latents), keys(circuit.meta)))
        isempty(name) || !storable(name) || continue
        text = repr(name)
        fail(place, "the name $text must be non-empty text without NUL characters")
    end
    for name in keys(circuit.latents)
        if occursin('/', name) || name in (".", "..")
            text = repr(name)
            fail("$place: /latents", "the name $text must not be '.', '..' or hold a '/'")
        end
    end
    for (name, value) in circuit.meta
        storable(value) && continue
        problem = "must be text without NUL characters, a 64-bit integer or a float"
        fail("$place: /meta", "$(repr(name)) $problem")
    end
end

check_ids(ids, item) = isempty(ids) && fail(item, "must hold at least one entry")

"Types, shapes and ids that can be judged within the layer."
function check_arrays(layer::InputLayer, item)
    check_ids(layer.variables, "$item/variables")
    check_groups(layer.groups, "params", layer.params, length(layer.variables), item)
end

function check_arrays(layer::Union{ProductLayer,SumLayer}, item)
    if layer isa ProductLayer && layer.kind ∉ (:hadamard, :kronecker, :concat)
        problem = "is unknown, must be hadamard, kronecker or concat"
        fail(item, "kind '$(layer.kind)' $problem")
    end
    check_ids(layer.children, "$item/children")
    offsets, number = layer.offsets, length(layer.children)
    rises = length(offsets) > 1 && offsets[1] == 1 && offsets[end] == number + 1
    if !(rises && all(offsets[b] < offsets[b+1] for b = 1:(length(offsets)-1)))
        problem = "must rise strictly from 0 to the number of children ($number)"
        fail("$item/offsets", problem)
    end
    if layer isa SumLayer
        shared = layer.tied_to != 0
        check_groups(layer.groups, "weights", layer.weights, number, item; shared)
    end
end

"`groups` names an array of `params` per entry, and each one unless they are `shared`."
function check_groups(groups, name, params, entries, item; shared = false)
    eltype(params) in (Float32, Float64) ||
        fail("$item/$name", "has type $(eltype(params)), must be Float32 or Float64")
    0 in size(params) &&
        fail("$item/$name", "has shape $(reverse(size(params))), must have no size 0")
    length(groups) == entries || fail(
        "$item/groups",
        "has $(length(groups)) entries, but there must be $entries, one for each of the " *
        (name == "params" ? "variables" : "children"),
    )
    number = size(params, 3)
    used = falses(number)
    for group in groups
        1 <= group <= number || fail(
            "$item/groups",
            "names group $(in_file(group)), but $name has $number groups",
        )
        used[group] = true
    end
    if !shared && !all(used)
        unused = findfirst(!, used) - 1
        fail("$item/$name", "group $unused is used by no block; leave it out")
    end
end

"How many variables leaves read; each must have one number of categories throughout."
function check_variables(circuit, place)
    sizes = Dict{Int32,Int}()
    for (i, layer) in enumerate(circuit.layers)
        layer isa InputLayer || continue
        categories = size(layer.params, 1)
        for variable in layer.variables
            1 <= variable <= circuit.num_vars || fail(
                "$place: /layers/$(i - 1)/variables",
                "names variable $(in_file(variable)), but num_vars is $(circuit.num_vars)",
            )
            get!(sizes, variable, categories) == categories || fail(
                "$place: /layers/$(i - 1)/params",
                "gives variable $(in_file(variable)) $categories categories, but another " *
                "layer gives it another number",
            )
        end
    end
    isempty(sizes) && fail("$place: /layers", "there is no input layer")
    return length(sizes)
end

"Children, widths, scopes, ties and rows; fills in what is known of the layer's blocks."
function check_layer(circuit, layer::InputLayer, facts, blocks, item)
    sums = column_sums(layer.params, "$item/params")
    for group in axes(sums, 2)
        check_sums(view(sums, :, group), group, "$item/params")
    end
    facts.widths[blocks] .= size(layer.params, 2)
    facts.sizes[blocks] .= 1
    facts.prints[blocks] .= fingerprint.(layer.variables)
end

function check_layer(circuit, layer::ProductLayer, facts, blocks, item)
    check_children(layer, facts, blocks, item; mixes = layer.kind === :concat)
    facts.widths[blocks] .= check_width(layer, facts.widths, item)
end

function check_layer(circuit, layer::SumLayer, facts, blocks, item)
    check_children(layer, facts, blocks, item; mixes = true)
    width = size(layer.weights, 1)
    for child in layer.children
        facts.widths[child] == width || fail(
            "$item/children",
            "block $(in_file(child)) has another width than the $width of weights",
        )
    end
    facts.widths[blocks] .= size(layer.weights, 2)
    if layer.tied_to == 0
        check_ties(layer, first(blocks), item)
    else
        check_tied_lists(circuit, layer, first(blocks), item)
    end
end

"Children come from earlier layers, and have one scope where they are mixed."
function check_children(layer, facts, blocks, item; mixes)
    for child in layer.children
        1 <= child < first(blocks) || fail(
            "$item/children",
            "names block $(in_file(child)), but earlier layers hold only the blocks " *
            "below $(first(blocks) - 1)",
        )
    end
    for (b, block) in enumerate(blocks)
        children = view(layer.children, child_range(layer, b))
        if mixes
            facts.sizes[block] = facts.sizes[children[1]]
            facts.prints[block] = facts.prints[children[1]]
            all(facts.prints[child] == facts.prints[block] for child in children) || fail(
                "$item/children",
                "block $(block - 1) is not smooth: its children have different scopes",
            )
        else
            facts.sizes[block] = sum(facts.sizes[child] for child in children)
            facts.prints[block] = sum(facts.prints[child] for child in children)
        end
    end
end

"The width of a product layer, from those of its children."
function check_width(layer, widths, item)
    kind = layer.kind
    if kind === :kronecker &&
       any(b -> length(child_range(layer, b)) != 2, 1:num_blocks(layer))
        fail("$item/offsets", "every kronecker block must have exactly two children")
    end
    width(b) = (kind === :concat ? sum : prod)(
        widths[child] for child in view(layer.children, child_range(layer, b))
    )
    if kind === :hadamard
        total = widths[layer.children[1]]
        alike = all(child -> widths[child] == total, layer.children)
    else
        total = width(1)
        alike = all(b -> width(b) == total, 1:num_blocks(layer))
    end
    rule = kind === :hadamard ? "children" : "blocks"
    alike || fail("$item/children", "the $rule of this $kind layer differ in width")
    total <= ID_LIMIT ||
        fail("$item/children", "blocks of width $total, at most $ID_LIMIT is possible")
    return total
end

"`[width, groups]`: each column's sum in double precision; no entry may be negative or NaN."
function column_sums(params, item)
    bad = findfirst(p -> !(p >= 0), params)
    if bad !== nothing
        place = join((bad[3] - 1, bad[2] - 1, bad[1] - 1), ", ")
        fail(item, "holds $(params[bad]) at [$place], must be probabilities from 0 on")
    end
    return dropdims(sum(Float64, params; dims = 1); dims = 1)
end

function check_sums(sums, group, item)
    bad = findfirst(s -> !(abs(s - 1) <= TOLERANCE), sums)
    bad === nothing && return
    fail(
        item,
        "row $(bad - 1) of group $(group - 1) (with the groups listed beside it) sums to " *
        "$(round(sums[bad]; sigdigits = 6)), must be 1 within $TOLERANCE",
    )
end

"Roots and latents name blocks; roots have width 1."
function check_listed(circuit, facts, place)
    total = num_blocks(circuit)
    listed = [("latents/$name", blocks) for (name, blocks) in circuit.latents]
    for (name, blocks) in [("roots", circuit.roots); listed]
        check_ids(blocks, "$place: /$name")
        bad = findfirst(block -> !(1 <= block <= total), blocks)
        bad === nothing || fail(
            "$place: /$name",
            "names block $(in_file(blocks[bad])), but there are $total blocks",
        )
    end
    bad = findfirst(root -> facts.widths[root] != 1, circuit.roots)
    bad === nothing && return
    root = circuit.roots[bad]
    fail(
        "$place: /roots",
        "block $(in_file(root)) has width $(facts.widths[root]), must be 1",
    )
end
