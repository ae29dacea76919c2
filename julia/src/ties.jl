# Which weights are shared: in a sum layer through groups, across layers through `tied_to`.

"""
    components(join_all, number)

Labels of the classes of `1:number`; `join_all(join!)` joins two members at a time.
"""
function components(join_all, number)
    above = collect(1:number)
    function top(member)
        while above[member] != member
            above[member] = above[above[member]]
            member = above[member]
        end
        return member
    end
    join_all((a, b) -> (above[top(a)] = top(b)))
    return top.(1:number)
end

"By group: the first block that names it, and at which place of its list."
function first_uses(layer::SumLayer)
    number = size(layer.weights, 3)
    block, place = zeros(Int, number), zeros(Int, number)
    for b = 1:num_blocks(layer), (k, edge) in enumerate(child_range(layer, b))
        group = layer.groups[edge]
        block[group] == 0 || continue
        block[group], place[group] = b, k
    end
    return block, place
end

"""
Refuse half-shared lists of groups, and rows that do not sum to one.

A block is right if all its groups stand, at the same places of an equally long list, in the
block that named the first of them first.
"""
function check_ties(layer::SumLayer, start, item)
    block, place = first_uses(layer)
    for b = 1:num_blocks(layer)
        edges = child_range(layer, b)
        groups = view(layer.groups, edges)
        for (k, group) in enumerate(groups)
            block[group] == b && place[group] != k || continue
            fail(
                "$item/groups",
                "block $(start + b - 2) names group $(in_file(group)) twice",
            )
        end
        owner = block[groups[1]]
        if !same_list(groups, owner, child_range(layer, owner), block, place)
            group = groups[findfirst(group -> block[group] != b, groups)]
            fail(
                "$item/groups",
                "blocks $(start + block[group] - 2) and $(start + b - 2) share group " *
                "$(in_file(group)), so their whole ordered lists of groups must be equal",
            )
        end
    end
    check_rows(layer, block, "$item/weights")
end

"Rows sum to one in every block that names its groups first."
function check_rows(layer::SumLayer, block, item)
    sums = column_sums(layer.weights, item)
    total = zeros(size(sums, 1))
    for b = 1:num_blocks(layer)
        groups = view(layer.groups, child_range(layer, b))
        block[groups[1]] == b || continue
        fill!(total, 0)
        for group in groups
            total .+= view(sums, :, group)
        end
        check_sums(total, groups[1], item)
    end
end

function same_list(groups, owner, edges, block, place)
    length(groups) == length(edges) || return false
    return all(block[g] == owner && place[g] == k for (k, g) in enumerate(groups))
end

"`tied_to` names an earlier sum layer with weights of its own, and `weights` is its array."
function check_owner(circuit::Circuit, index, item)
    layer = circuit.layers[index]
    layer.tied_to == 0 && return
    owner = 1 <= layer.tied_to < index ? circuit.layers[layer.tied_to] : nothing
    if !(owner isa SumLayer && owner.tied_to == 0)
        fail(
            "$item/tied_to",
            "names layer $(layer.tied_to - 1), must be an earlier sum layer with weights " *
            "of its own",
        )
    end
    layer.weights === owner.weights || fail(
        "$item/weights",
        "must be the very array of layer $(layer.tied_to - 1), its owner",
    )
end

"Every block's ordered list of groups is that of some block of the owner."
function check_tied_lists(circuit::Circuit, layer::SumLayer, start, item)
    owner = circuit.layers[layer.tied_to]
    block, place = first_uses(owner)
    for b = 1:num_blocks(layer)
        groups = view(layer.groups, child_range(layer, b))
        theirs = block[groups[1]]
        same_list(groups, theirs, child_range(owner, theirs), block, place) || fail(
            "$item/groups",
            "the list of groups of block $(start + b - 2) is not one of layer " *
            "$(layer.tied_to - 1), to which this layer is tied",
        )
    end
end
