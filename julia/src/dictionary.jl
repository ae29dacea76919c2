# Low-rank leaves: columns that mix a few distributions, which many leaves share.

"Iterations of EM for the factors of columns."
const FACTOR_ITERATIONS = 60

"How much of the mean column is in every entry of a dictionary at the start."
const MEAN_SHARE = 0.1

"""
    with_dictionary(circuit, entries; seed = nothing)

The circuit with leaves that mix `entries` shared distributions: a sum block above a block of
`entries` leaves for every variable.

Leaves that read the same variable share a dictionary. Without a `seed` dictionaries and weights
are fitted to the columns, exactly where there are no more of them than `entries`; with one, a
number or a generator, they are drawn.
"""
function with_dictionary(circuit::Circuit, entries::Integer; seed = nothing)
    entries >= 1 || refuse("entries must be at least 1, not $entries.")
    roles, rng = variable_roles(circuit), generator_or_none(seed)
    moved = zeros(Int32, num_blocks(circuit))
    place, layers, total = zeros(Int, length(circuit.layers)), Layer[], 0
    for (i, layer) in enumerate(circuit.layers)
        if layer isa InputLayer
            leaves, sums = factored(layer, entries, roles, rng, total)
            push!(layers, leaves, sums)
            total += num_blocks(leaves)
        elseif layer isa ProductLayer
            push!(layers, ProductLayer(layer.kind, layer.offsets, moved[layer.children]))
        else
            tied_to = owns_params(layer) ? 0 : place[layer.tied_to]
            weights = tied_to == 0 ? layer.weights : layers[tied_to].weights
            children = moved[layer.children]
            push!(layers, SumLayer(layer.offsets, children, layer.groups, weights, tied_to))
        end
        place[i] = length(layers)
        moved[circuit.starts[i]:(circuit.starts[i+1]-1)] = total .+ (1:num_blocks(layer))
        total += num_blocks(layer)
    end
    latents = Dict(name => moved[blocks] for (name, blocks) in circuit.latents)
    return Circuit(circuit.num_vars, layers, moved[circuit.roots]; latents, circuit.meta)
end

"A number for every variable, the same for those that tied leaves read."
function variable_roles(circuit)
    leaves = [layer for layer in circuit.layers if layer isa InputLayer]
    total = circuit.num_vars + sum(layer -> size(layer.params, 3), leaves)
    labels = components(total) do join!
        first_group = circuit.num_vars
        for layer in leaves
            foreach(join!, layer.variables, first_group .+ layer.groups)
            first_group += size(layer.params, 3)
        end
    end
    return labels[1:circuit.num_vars]
end

"The dictionaries of a layer, a block for every variable, and the sums above them."
function factored(layer, entries, roles, rng, before)
    variables = sort(unique(layer.variables))
    used = unique(roles[variables])
    book = Int.(indexin(roles[variables], used))
    child = Int.(indexin(layer.variables, variables))
    categories, width, groups = size(layer.params)
    book_of_group = zeros(Int, groups)
    book_of_group[layer.groups] = book[child]
    books = similar(layer.params, categories, entries, length(used))
    weights = similar(layer.params, entries, width, groups)
    if isnothing(rng)
        for each in eachindex(used)
            own = findall(==(each), book_of_group)
            columns = reshape(Float64.(layer.params[:, :, own]), categories, :)
            found, mixed = column_factors(columns, entries)
            books[:, :, each] = found
            weights[:, :, own] = reshape(mixed, entries, width, length(own))
        end
    else
        drawn = Float64.(dirichlet_columns(rng, size(books)...))
        books .= project!(layer.family, copy(drawn), drawn)
        weights .= dirichlet_columns(rng, size(weights)...)
    end
    leaves = InputLayer(variables, book, books, layer.family)
    offsets = 1:(num_blocks(layer)+1)
    return leaves, SumLayer(offsets, before .+ child, layer.groups, weights)
end

"""
A dictionary `[categories, entries]` and weights `[entries, columns]` whose product is near the
columns, by EM (Hofmann, UAI 1999); the columns themselves where there are few.
"""
function column_factors(columns, entries)
    categories, number = size(columns)
    if number <= entries
        spare = fill(1 / categories, categories, entries - number)
        return [columns spare], [i == j ? 1.0 : 0.0 for i = 1:entries, j = 1:number]
    end
    chosen = floor.(Int, range(1, number; length = entries))
    book =
        (1 - MEAN_SHARE) .* columns[:, chosen] .+
        MEAN_SHARE .* sum(columns; dims = 2) ./ number
    weights = fill(1 / entries, entries, number)
    for _ = 1:FACTOR_ITERATIONS
        mixed = book * weights
        ratio = ifelse.(mixed .> 0, columns ./ mixed, 0.0)
        counts = book .* (ratio * weights')
        weights = weights .* (book' * ratio)
        book = counts ./ max.(sum(counts; dims = 1), 1e-300)
    end
    return book, weights ./ sum(weights; dims = 1)
end
