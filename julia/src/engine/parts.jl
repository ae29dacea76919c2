# Circuits of several parts that share nothing, such as the patch circuits of all clusters.
#
# Layer by layer such a circuit's values fill memory. One part after the other, its values,
# counts and parameters stay in a cache from the upward pass to the M-step, and rows without
# weight under its roots are left out.

"""
A part of a circuit.

- `pass`: its own, with copies of its parameters;
- `rows`: those of the circuit, with the weights of its own roots;
- `groups`: by layer, the groups of the circuit's parameters that are its own;
- `counts`: the same for parts of one shape one after the other, so that they stay in a cache.
"""
struct Part{P<:Pass,R<:Rows,C}
    pass::P
    rows::R
    groups::Vector{Vector{Int}}
    counts::Vector{C}
end

"""
    parts_to_train(circuit, pass, rows, options)

The parts that take steps one by one, in the order of their first blocks; none where the
circuit is to be trained as a whole.
"""
function parts_to_train(circuit, pass::P, rows::R, options) where {P<:HostPass,R<:Rows}
    parts = Part{P,R,eltype(pass.params)}[]
    options.optimizer !== :anemone && isempty(rows.evidence) && is_plain(circuit, pass) ||
        return parts
    numbers = part_numbers(circuit)
    allequal(numbers) && return parts
    for blocks in blocks_of_parts(circuit, numbers)
        some = restricted(circuit, blocks)
        isnothing(some) && return empty(parts)
        program = compile(some.circuit, Array, some.variables)
        params = map((array, groups) -> array[:, :, groups], pass.params, some.groups)
        own_pass = Pass(pass, program, params)
        own_rows = Rows(rows.x, rows.weights[:, some.roots], rows.evidence)
        counts = new_counts(own_pass, options.frozen)
        if !isempty(parts) && map(size, counts) == map(size, last(parts).counts)
            counts = last(parts).counts
        end
        push!(parts, Part(own_pass, own_rows, some.groups, counts))
    end
    return parts
end
parts_to_train(circuit, pass::P, ::R, _) where {P<:Pass,R<:Rows} =
    Part{P,R,eltype(pass.params)}[]

"Take the parameters of a part from those of the circuit."
function take_params!(part::Part, params)
    for (own, array, groups) in zip(part.pass.params, params, part.groups)
        foreach(
            k -> copyto!(view(own, :, :, k), view(array, :, :, groups[k])),
            eachindex(groups),
        )
    end
    params_changed!(part.pass)
    return part
end

"Put the parameters of a part among those of the circuit."
function give_params!(params, part::Part)
    for (own, array, groups) in zip(part.pass.params, params, part.groups)
        foreach(
            k -> copyto!(view(array, :, :, groups[k]), view(own, :, :, k)),
            eachindex(groups),
        )
    end
    return params
end

"Whether the M-step of a group needs nothing but that group's counts."
function is_plain(circuit, pass)
    return all(families -> isempty(families.family), pass.program.families) &&
           all(circuit.layers) do layer
        layer isa InputLayer && return layer.family isa Categorical
        return layer isa ProductLayer || layer.tied_to == 0
    end
end

"`[blocks]`: numbers that are equal where blocks depend on each other or share parameters."
function part_numbers(circuit)
    return components(num_blocks(circuit)) do join!
        for (i, layer) in enumerate(circuit.layers)
            first_of = Dict{Int32,Int}()
            for (b, block) in enumerate(layer_blocks(circuit, i))
                groups = layer isa InputLayer ? layer.groups[b:b] : Int32[]
                if !(layer isa InputLayer)
                    foreach(k -> join!(block, layer.children[k]), child_range(layer, b))
                    layer isa SumLayer && (groups = layer.groups[child_range(layer, b)])
                end
                foreach(g -> join!(block, get!(first_of, g, block)), groups)
            end
        end
    end
end

"The blocks of every part, ascending."
function blocks_of_parts(circuit, numbers)
    found = Dict{Int,Vector{Int}}()
    for (block, number) in enumerate(numbers)
        push!(get!(() -> Int[], found, number), block)
    end
    return sort!(collect(values(found)); by = first)
end

"""
The circuit of some blocks alone, in the layers of the whole; the variables that it reads, its
roots, and by layer its groups of parameters. `nothing` where a layer has none of the blocks.
"""
function restricted(circuit, blocks)
    renumbered(ids, all_ids) = Int32[searchsortedfirst(all_ids, id) for id in ids]
    places = map(eachindex(circuit.layers)) do i
        own = filter(block -> insorted(block, blocks), layer_blocks(circuit, i))
        return own .- (circuit.starts[i] - 1)
    end
    any(isempty, places) && return nothing
    variables = sort!(
        reduce(
            union,
            layer.variables[some] for
            (layer, some) in zip(circuit.layers, places) if layer isa InputLayer
        ),
    )
    groups = Vector{Int}[]
    layers = map(circuit.layers, places) do layer, some
        edges =
            layer isa InputLayer ? some : reduce(vcat, child_range(layer, b) for b in some)
        own = layer isa ProductLayer ? Int[] : sort!(unique(Int.(layer.groups[edges])))
        push!(groups, own)
        if layer isa InputLayer
            own_variables = renumbered(layer.variables[some], variables)
            some_params = layer.params[:, :, own]
            return InputLayer(
                own_variables,
                renumbered(layer.groups[some], own),
                some_params,
                layer.family,
            )
        end
        offsets = cumsum([1; [length(child_range(layer, b)) for b in some]])
        children = renumbered(layer.children[edges], blocks)
        layer isa ProductLayer && return ProductLayer(layer.kind, offsets, children)
        numbers = renumbered(layer.groups[edges], own)
        return SumLayer(offsets, children, numbers, layer.weights[:, :, own])
    end
    roots = findall(root -> insorted(root, blocks), circuit.roots)
    own_roots = renumbered(circuit.roots[roots], blocks)
    part = Circuit(length(variables), Vector{Layer}(layers), own_roots)
    return (; circuit = part, variables, roots, groups)
end

"Read an array in order once: what is then read at random comes from a cache."
function warm_up(array::Array{T}) where {T}
    bits, line = zero(bits_type(T)), 64 ÷ sizeof(T)
    @inbounds for k = 1:line:length(array)
        bits |= reinterpret(bits_type(T), array[k])
    end
    return bits
end

"""
    train_parts!(parts, columns, η, pseudocount)

A step of every part on the columns that have weight under its roots; returns Σ weight ·
log p before it. The circuit's own parameters stay as they are, until `give_params!`.
"""
function train_parts!(parts, columns, η, pseudocount)
    total = 0.0
    for part in parts
        weights = part.rows.weights
        seen = filter(n -> any(>(0), view(weights, n, :)), columns)
        isempty(seen) && continue
        foreach(warm_up, part.pass.params)
        total += collect!(part.pass, part.counts, part.rows, seen)
        m_step!(part.pass, part.counts, η, pseudocount)
    end
    return total
end
