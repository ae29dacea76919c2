# Who reads what, as lists in which nothing occurs twice.

"""
    links(readers, children, blocks, ints; once, lows, slots)

Links of the pairs, split by the children's layer and by `lows` and `slots`, so that within
a link no entry of `once` (`:readers`, `:children` or `:none`) occurs twice. `blocks` is
the map of the circuit's blocks, or `nothing` where children are places already.
"""
function links(
    readers,
    children,
    blocks,
    ints;
    once,
    lows = zeros(Int32, length(children)),
    slots = ones(Int32, length(children)),
)
    parts = Dict{NTuple{4,Int},Tuple{Vector{Int32},Vector{Int32}}}()
    seen = Dict{NTuple{4,Int},Int}()
    for (reader, child, low, slot) in zip(readers, children, lows, slots)
        layer = isnothing(blocks) ? 0 : Int(blocks.layers[child])
        place = isnothing(blocks) ? Int(child) : Int(blocks.places[child])
        entry = once === :readers ? Int(reader) : once === :children ? place : -1
        rank = 0
        if entry >= 0
            rank = get(seen, (layer, low, slot, entry), 0)
            seen[(layer, low, slot, entry)] = rank + 1
        end
        part = get!(() -> (Int32[], Int32[]), parts, (layer, low, slot, rank))
        push!(part[1], reader)
        push!(part[2], place)
    end
    V = typeof(ints(Int32[]))
    found = Link{V}[]
    for key in sort!(collect(keys(parts)); by = k -> (k[3], k[1], k[2], k[4]))
        layer, low, slot, _ = key
        push!(found, Link{V}(layer, low, slot, ints(parts[key][1]), ints(parts[key][2])))
    end
    return found
end

"The reader and the number (first, second, …) of every child."
function enumerate_children(offsets)
    readers, slots = zeros(Int32, offsets[end] - 1), zeros(Int32, offsets[end] - 1)
    for b = 1:(length(offsets)-1), k = offsets[b]:(offsets[b+1]-1)
        readers[k], slots[k] = b, k - offsets[b] + 1
    end
    return readers, slots
end
