# Growing circuits of several roots: prune, choose roots, double (Liu et al., ICML 2023).
#
# A circuit whose roots, its heads, mix the nodes of one shared circuit grows by doubling that
# circuit: every block of K nodes becomes a block of 2K, two copies that mix each other a little,
# and a head belongs to one of the copies.

"Bounds of the noise that weights and leaves are multiplied by."
const WEIGHT_NOISE, LEAF_NOISE = (0.1, 10.0), (0.1, 2.0)

"""
    prune(circuit, counts, share)

The circuit without the sum weights that have at most a `share` of their block's flow: they
become zero, and columns are normalised again. The entries of a column with its largest flow
stay, so a column without flow stays as it is. `counts` are those of
[`expected_counts`](@ref), by layer.
"""
function prune(circuit::Circuit, counts::AbstractVector, share::Real)
    number = length(circuit.layers)
    length(counts) == number ||
        wrong_size("counts must have an entry for each of the $number layers.")
    params = map(enumerate(circuit.layers), counts) do (i, layer), flow
        layer isa SumLayer && owns_params(layer) || return nothing
        flow !== nothing && size(flow) == size(layer.weights) || wrong_size(
            "counts of layer $i must be an array of size $(size(layer.weights)).",
        )
        return pruned_weights(layer, flow, share)
    end
    return with_params(circuit, params)
end

function pruned_weights(layer, counts, share)
    weights = copy(layer.weights)
    for groups in group_lists(layer)
        flow = view(counts, :, :, groups)
        most = maximum(flow; dims = (1, 3))
        keep = (flow .> share * sum(Float64, flow)) .| (flow .>= most)
        weights[:, :, groups] = normal_columns(weights[:, :, groups] .* keep, (1, 3))
    end
    return weights
end

"Numbers divided by their sums over `dims`, in double precision."
normal_columns(weights, dims) = weights ./ sum(Float64, weights; dims)

"""
    choose_roots(circuit, roots)

The circuit whose root `i` is a copy, with weights of its own, of root `roots[i]`. Its last
layer consists of its roots. `roots` may leave out some and name one several times.
"""
function choose_roots(circuit::Circuit, roots::AbstractVector{<:Integer})
    layer, start = root_layer(circuit)
    !isempty(roots) && all(in(eachindex(circuit.roots)), roots) ||
        refuse("roots must hold one or more numbers from 1 to $(length(circuit.roots)).")
    edges = [child_range(layer, circuit.roots[root] - start + 1) for root in roots]
    order = reduce(vcat, edges)
    last_layer = SumLayer(
        cumsum([1; length.(edges)]),
        layer.children[order],
        eachindex(order),
        layer.weights[:, :, layer.groups[order]],
    )
    layers = [circuit.layers[1:(end-1)]; last_layer]
    blocks = start:(start+length(roots)-1)
    return Circuit(circuit.num_vars, layers, blocks; circuit.latents, circuit.meta)
end

"The last layer and its first block, once it is known to consist of the roots."
function root_layer(circuit)
    layer, start = last(circuit.layers), circuit.starts[end-1]
    layer isa SumLayer && layer.tied_to == 0 && circuit.widths[end] == 1 ||
        refuse("The last layer of a circuit that grows must be the sums that are roots.")
    sort(circuit.roots) == start:num_blocks(circuit) ||
        refuse("Every block of the last layer of a circuit that grows must be a root.")
    return layer, start
end

"""
    grow(circuit, second; cross = 0.2, noise = 0.2, seed = default_rng())

The circuit with every block but the roots doubled: two copies that mix each other.

- `second`: for each root, whether it belongs to the second copy;
- `cross`: what a copy weighs the nodes of the other by, relative to its own;
- `noise`: standard deviation of what weights are multiplied by, around 1;
- `seed`: of the noise, a number or a generator.

The circuit's last layer consists of its roots, and its products are `:hadamard`. Latents that
it names are gone. Without noise both copies are what the block was, so no root changes.
"""
function grow(
    circuit::Circuit,
    second::AbstractVector{Bool};
    cross::Real = 0.2,
    noise::Real = 0.2,
    seed = default_rng(),
)
    root_layer(circuit)
    number = length(circuit.roots)
    length(second) == number ||
        wrong_size("second must have an entry for each of the $number roots.")
    cross >= 0 && noise >= 0 || refuse("cross and noise must be at least 0.")
    rng = generator(seed)
    layers = Layer[]
    for (i, layer) in enumerate(circuit.layers)
        layer isa ProductLayer &&
            layer.kind !== :hadamard &&
            refuse("Layer $i is a $(layer.kind) product, which cannot be grown.")
        params = if layer isa InputLayer
            grown_leaves(rng, layer, noise)
        elseif layer isa SumLayer && owns_params(layer)
            mixed =
                i < length(circuit.layers) ? two_by_two(layer.weights, cross) :
                root_columns(circuit, second, cross)
            grown_weights(rng, layer, mixed, noise)
        elseif layer isa SumLayer
            layers[layer.tied_to].weights
        end
        push!(layers, with_params(layer, params))
    end
    return Circuit(circuit.num_vars, layers, circuit.roots; circuit.meta)
end

function grown_leaves(rng, layer, noise)
    old = cat(layer.params, layer.params; dims = 2)
    noisy = normal_columns(old .* factors(rng, size(old), noise, LEAF_NOISE), 1)
    return convert(typeof(layer.params), project!(layer.family, noisy, old))
end

function two_by_two(own, cross)
    other = eltype(own)(cross) .* own
    return [own other; other own]
end

"A root's columns weigh the copy that it belongs to by 1, the other by the cross term."
function root_columns(circuit, second, cross)
    layer, start = root_layer(circuit)
    share = ones(1, 1, size(layer.weights, 3), 2)
    for (root, side) in zip(circuit.roots, second)
        edges = child_range(layer, root - start + 1)
        share[1, 1, layer.groups[edges], side ? 1 : 2] .= cross
    end
    first_copy, second_copy = eachslice(share; dims = 4)
    return [layer.weights .* first_copy; layer.weights .* second_copy]
end

function grown_weights(rng, layer, mixed, noise)
    noisy = mixed .* factors(rng, size(mixed), noise, WEIGHT_NOISE)
    weights = similar(layer.weights, size(mixed))
    for groups in group_lists(layer)
        weights[:, :, groups] = normal_columns(noisy[:, :, groups], (1, 3))
    end
    return weights
end

"What numbers are multiplied by: around 1, inside `bounds`."
function factors(rng, dims, noise, bounds)
    noise == 0 && return 1
    return clamp.(1 .+ noise .* randn(rng, dims), bounds...)
end
