# Circuits of several parts that share nothing, such as the patch circuits of all clusters.
#
# Layer by layer such a circuit's values fill memory. One part after the other, its values,
# counts and parameters stay in a cache from the upward pass to the M-step, and rows without
# weight under its roots are left out.

"A part of a circuit: its pass, and the rows with the weights of its own roots."
struct Part{P<:Pass,R<:Rows}
    pass::P
    rows::R
end

"""
    parts_to_train(circuit, pass, rows, options)

The parts that take steps one by one, in the order of their first blocks; none where the
circuit is to be trained as a whole.
"""
function parts_to_train(circuit, pass::P, rows::R, options) where {P<:HostPass,R<:Rows}
    parts = Part{P,R}[]
    options.optimizer !== :anemone && isempty(rows.evidence) && is_plain(circuit, pass) ||
        return parts
    numbers = part_numbers(circuit)
    allequal(numbers) && return parts
    for blocks in blocks_of_parts(circuit, numbers)
        some = restricted(circuit, blocks)
        isnothing(some) && return empty(parts)
        program = compile(some.circuit, Array, some.variables)
        own = Rows(rows.x, rows.weights[:, some.roots], rows.evidence)
        push!(parts, Part{P,R}(Pass(pass, program), own))
    end
    return parts
end
parts_to_train(circuit, ::P, ::R, _) where {P<:Pass,R<:Rows} = Part{P,R}[]

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
The circuit of some blocks alone, in the layers and with the parameters of the whole; the
variables that it reads, and its roots. `nothing` where a layer has none of the blocks.
"""
function restricted(circuit, blocks)
    renumbered(ids, new) = Int32[new[id] for id in ids]
    new_block = Dict(block => i for (i, block) in enumerate(blocks))
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
    new_variable = Dict(v => i for (i, v) in enumerate(variables))
    layers = map(circuit.layers, places) do layer, some
        if layer isa InputLayer
            own = renumbered(layer.variables[some], new_variable)
            return InputLayer(own, layer.groups[some], layer.params, layer.family)
        end
        edges = [child_range(layer, b) for b in some]
        all_edges = reduce(vcat, edges)
        offsets = cumsum([1; length.(edges)])
        children = renumbered(layer.children[all_edges], new_block)
        layer isa ProductLayer && return ProductLayer(layer.kind, offsets, children)
        return SumLayer(offsets, children, layer.groups[all_edges], layer.weights)
    end
    roots = findall(in(keys(new_block)), circuit.roots)
    blocks_of_roots = renumbered(circuit.roots[roots], new_block)
    part = Circuit(length(variables), Vector{Layer}(layers), blocks_of_roots)
    return (; circuit = part, variables, roots)
end

"""
    train_parts!(pass, parts, counts, columns, η, pseudocount)

A step of every part on the columns that have weight under its roots; returns Σ weight ·
log p before it.
"""
function train_parts!(pass, parts, counts, columns, η, pseudocount)
    total = 0.0
    for part in parts
        weights = part.rows.weights
        seen = filter(n -> any(>(0), view(weights, n, :)), columns)
        isempty(seen) && continue
        total += collect!(part.pass, counts, part.rows, seen)
        m_step!(part.pass, counts, η, pseudocount)
    end
    params_changed!(pass)
    return total
end
