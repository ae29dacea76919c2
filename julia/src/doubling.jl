# Growing any circuit: the nodes with the least flow go, then every block becomes two copies (after
# Dang, Liu & Van den Broeck, NeurIPS 2022).
#
# Nodes that are multiplied with each other, or read by the same tied weights, belong together.
# Blocks of one node stay as they are, and so do lists of blocks (:concat), blocks in Kronecker
# products, and what is multiplied with either.

"Added to the weights of a narrowed block, whose other entries may all have gone."
const LEAST_WEIGHT = 1e-12

"""
    double(circuit; noise = 0.2, seed = default_rng())

The circuit with two copies of every block that can grow; both read both copies alike.

- `noise`: standard deviation of what parameters are multiplied by, around 1;
- `seed`: of the noise, a number or a generator.

Value `k` of a latent that grew is now `k` or `K + k`. Without noise no root changes.
"""
function double(circuit::Circuit; noise::Real = 0.2, seed = default_rng())
    grows = growing_layers(circuit)
    noise >= 0 || refuse("noise must be at least 0.")
    rng = generator(seed)
    layers = Layer[]
    for (layer, wider) in zip(circuit.layers, grows)
        params = if layer isa InputLayer && wider
            grown_leaves(rng, layer, noise)
        elseif layer isa SumLayer && owns_params(layer)
            copies = (1 + reads_growing(circuit, layer, grows), 1 + wider, 1)
            copies == (1, 1, 1) ? nothing :
            grown_weights(rng, layer, repeat(layer.weights; outer = copies), noise)
        elseif layer isa SumLayer
            layers[layer.tied_to].weights
        end
        push!(layers, with_params(layer, params))
    end
    return resized(circuit, layers, width -> 2 * width)
end

"""
    narrow(circuit, counts, share)

The circuit without the `share` of the nodes of every block that has the least flow; at least
two stay. `counts` are those of [`expected_counts`](@ref), by layer.
"""
function narrow(circuit::Circuit, counts::AbstractVector, share::Real)
    grows = growing_layers(circuit)
    0 <= share < 1 || refuse("share is $share, must be at least 0 and below 1.")
    number = length(circuit.layers)
    length(counts) == number ||
        wrong_size("counts must have an entry for each of the $number layers.")
    classes = NodeClasses(circuit)
    kept = kept_nodes(circuit, counts, grows, classes, share)
    layers = Layer[]
    for (i, layer) in enumerate(circuit.layers)
        params = if layer isa SumLayer && !owns_params(layer)
            layers[layer.tied_to].weights
        elseif !(layer isa ProductLayer)
            columns = grows[i] ? classes.columns[i] : nothing
            below = layer isa SumLayer && reads_growing(circuit, layer, grows)
            narrowed(layer, kept, columns, below ? classes.entries[i] : nothing)
        end
        push!(layers, with_params(layer, params))
    end
    return resized(circuit, layers, width -> nodes_left(width, share))
end

nodes_left(width, share) = max(2, width - floor(Int, share * width))

reads_growing(circuit, layer, grows) = grows[layer_of(circuit, layer.children[1])]

"Of every layer, whether its blocks can grow."
function growing_layers(circuit)
    fixed = circuit.widths .== 1
    labels = components(length(fixed)) do join!
        for (i, layer) in enumerate(circuit.layers)
            layer isa InputLayer && continue
            below = unique(layer_of(circuit, child) for child in layer.children)
            if layer isa SumLayer
                # Entries are of one width, so what they read grows together.
                foreach(child -> join!(below[1], child), below)
                owns_params(layer) && continue
                owner = circuit.layers[layer.tied_to]
                join!(i, layer.tied_to)
                join!(below[1], layer_of(circuit, owner.children[1]))
            elseif layer.kind === :hadamard
                foreach(child -> join!(i, child), below)
            else
                fixed[[i; below]] .= true
            end
        end
    end
    held = Set(labels[fixed])
    grows = [!(label in held) for label in labels]
    any(grows) || refuse("The circuit has no blocks that can grow.")
    return grows
end

"""
By layer, the class of the columns and of the entries of every parameter group: nodes of one
class are kept, dropped and doubled together.
"""
struct NodeClasses
    columns::Vector{Vector{Int}}
    entries::Vector{Vector{Int}}
end

function NodeClasses(circuit::Circuit)
    total, first_column = num_blocks(circuit), zeros(Int, length(circuit.layers))
    groups = [
        layer isa ProductLayer ? 0 : size(layer_params(layer), 3) for
        layer in circuit.layers
    ]
    for (i, layer) in enumerate(circuit.layers)
        first_column[i] = total
        owns_params(layer) && (total += 2 * groups[i])
    end
    column(i, group) = first_column[i] + group
    entry(i, group) = first_column[i] + groups[i] + group
    labels = components(total) do join!
        for (i, layer) in enumerate(circuit.layers), b = 1:num_blocks(layer)
            block = circuit.starts[i] + b - 1
            if layer isa InputLayer
                join!(block, column(i, layer.groups[b]))
            elseif layer isa SumLayer
                owner = owns_params(layer) ? i : layer.tied_to
                for edge in child_range(layer, b)
                    join!(block, column(owner, layer.groups[edge]))
                    join!(layer.children[edge], entry(owner, layer.groups[edge]))
                end
            elseif layer.kind === :hadamard
                foreach(edge -> join!(block, layer.children[edge]), child_range(layer, b))
            end
        end
    end
    owned(i) = owns_params(circuit.layers[i]) ? (1:groups[i]) : (1:0)
    return NodeClasses(
        [labels[column.(i, owned(i))] for i in eachindex(groups)],
        [labels[entry.(i, owned(i))] for i in eachindex(groups)],
    )
end

"By class, the numbers of its nodes that stay, ascending."
function kept_nodes(circuit, counts, grows, classes, share)
    flows = Dict{Int,Vector{Float64}}()
    for (i, layer) in enumerate(circuit.layers)
        grows[i] && owns_params(layer) || continue
        params, flow = layer_params(layer), counts[i]
        flow !== nothing && size(flow) == size(params) ||
            wrong_size("counts of layer $i must be an array of size $(size(params)).")
        for (group, class) in enumerate(classes.columns[i])
            column = vec(sum(Float64, view(flow, :, :, group); dims = 1))
            flows[class] = haskey(flows, class) ? flows[class] .+ column : column
        end
    end
    return Dict(
        class => sort(sortperm(-flow; alg = MergeSort)[1:nodes_left(length(flow), share)])
        for (class, flow) in flows
    )
end

"The parameters of a layer with the columns and entries that stay."
function narrowed(layer, kept, columns, entries)
    params = layer_params(layer)
    isnothing(columns) && isnothing(entries) && return params
    pick(classes, group, whole) = isnothing(classes) ? whole : kept[classes[group]]
    parts = map(axes(params, 3)) do group
        return params[
            pick(entries, group, axes(params, 1)),
            pick(columns, group, axes(params, 2)),
            group,
        ]
    end
    found = stack(parts)
    isnothing(entries) && return found
    # A column may have had all its weight on nodes that are gone.
    found .+= eltype(found)(LEAST_WEIGHT)
    for groups in group_lists(layer)
        found[:, :, groups] = normal_columns(found[:, :, groups], (1, 3))
    end
    return found
end

"The circuit with other layers; `new_width` gives the width of what grew."
function resized(circuit, layers, new_width)
    meta = copy(circuit.meta)
    haskey(meta, "latent_states") &&
        (meta["latent_states"] = new_width(meta["latent_states"]))
    return Circuit(circuit.num_vars, layers, circuit.roots; circuit.latents, meta)
end
