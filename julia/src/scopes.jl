# Smoothness and decomposability of large circuits.
#
# Scopes are compared through fingerprints: every variable has a fixed pseudo-random 64-bit
# number, a block's fingerprint is the sum (mod 2^64) over its leaves, so a product adds the
# fingerprints of its children, and the children of a sum must all have the same one. That
# is a scope counted with multiplicity; two different ones agree by accident with
# probability 2^-64. A block with overlapping factors counts some variable twice, and so
# does everything above it. Hence a circuit is decomposable exactly if no block that is
# nobody's child counts more leaves than it has variables. Time and memory are linear in the
# number of edges.

"A fixed hash of a variable (the finaliser of SplitMix64)."
function fingerprint(variable::Integer)
    bits = (variable % UInt64) * 0x9e3779b97f4a7c15
    bits = (bits ⊻ (bits >> 30)) * 0xbf58476d1ce4e5b9
    bits = (bits ⊻ (bits >> 27)) * 0x94d049bb133111eb
    return bits ⊻ (bits >> 31)
end

"""
Compare leaves counted with multiplicity and variables, at the blocks nothing is above.

All such blocks of different scope are compared together first: where they hold disjoint
variables, as in a bundle of circuits, that settles it.
"""
function check_decomposable(circuit::Circuit, facts, variables, place)
    is_child = falses(num_blocks(circuit))
    for layer in circuit.layers
        layer isa InputLayer || (is_child[layer.children] .= true)
    end
    tops = unique(block -> facts.prints[block], findall(!, is_child))
    sum(facts.sizes[tops]) == variables && return
    for top in tops
        below = blocks_below(circuit, top)
        seen = Set{Int32}()
        for (i, layer) in enumerate(circuit.layers)
            layer isa InputLayer || continue
            union!(seen, layer.variables[view(below, layer_blocks(circuit, i))])
        end
        length(seen) == facts.sizes[top] || fail_overlap(circuit, below, place)
    end
end

"The ids of the blocks of layer `i`."
layer_blocks(circuit::Circuit, i) = circuit.starts[i]:(circuit.starts[i+1]-1)

"Which blocks `top` depends on, itself included."
function blocks_below(circuit::Circuit, top)
    below = falses(num_blocks(circuit))
    below[top] = true
    for i in reverse(eachindex(circuit.layers))
        layer = circuit.layers[i]
        layer isa InputLayer && continue
        for (b, block) in enumerate(layer_blocks(circuit, i))
            below[block] || continue
            below[view(layer.children, child_range(layer, b))] .= true
        end
    end
    return below
end

"Throw, naming the first product block in `among` whose factors share a variable."
function fail_overlap(circuit::Circuit, among, place)
    scopes = Dict{Int,Set{Int32}}()
    for (i, layer) in enumerate(circuit.layers),
        (b, block) in enumerate(layer_blocks(circuit, i))

        among[block] || continue
        if layer isa InputLayer
            scopes[block] = Set(layer.variables[b])
            continue
        end
        children = view(layer.children, child_range(layer, b))
        scope = copy(scopes[children[1]])
        if layer isa ProductLayer && layer.kind !== :concat
            for child in view(children, 2:length(children))
                shared = intersect(scope, scopes[child])
                isempty(shared) || fail(
                    "$place: /layers/$(i - 1)/children",
                    "block $(block - 1) is not decomposable: variable " *
                    "$(in_file(minimum(shared))) is in several of its children",
                )
                union!(scope, scopes[child])
            end
        end
        scopes[block] = scope
    end
    return error("sizes and scopes disagree")
end
