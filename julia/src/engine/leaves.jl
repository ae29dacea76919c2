# Input layers: a tile on the way up, where someone needs one, and counts on the way down.

up!(pass::Pass, plan::InputPlan) =
    has_tile(pass, plan, plan.layer) && fill_tile!(pass, plan)

"The column of the table that (column `n`, block `b`) reads."
@inline leaf_column(plan::InputPlan, codes, n, b) =
    @inbounds plan.bases[b] + codes[n, plan.variables[b]]

function fill_tile!(pass::HostPass, plan::InputPlan)
    i = plan.layer
    tile, _ = start_tile!(pass, plan)
    each_slab(pass.batch, plan.blocks, length(tile)) do b, columns, _
        times_leaf!(tile, b, tile, 0, pass, i, b, columns)
        pass.masked[i] && times_mask!(tile, pass.masks[i].array, b, columns)
        return false
    end
    return nothing
end

function fill_tile!(pass::Pass, plan::InputPlan)
    tile, _ = start_tile!(pass, plan)
    tile .= leaf_values(pass, plan, Base.OneTo(plan.blocks))
    pass.masked[plan.layer] && (tile .*= pass.masks[plan.layer].array)
    return nothing
end

"The tile and the scales (zeros) of a layer, nothing lost yet."
function start_tile!(pass::Pass, plan)
    tile = sized!(pass.tiles[plan.layer], plan.width, pass.batch, plan.blocks)
    scale = sized!(pass.scales[plan.layer], pass.batch, plan.blocks)
    fill!(scale, 0)
    pass.lossy[plan.layer] = false
    return tile, scale
end

"Input columns `[columns, places]` of the flattened table for some blocks."
function leaf_columns(pass::Pass, plan::InputPlan, places)
    variables, bases = plan.variables[places], plan.bases[places]
    return pass.codes.array[:, variables] .+ transpose(bases)
end

"The values (width, columns, places) of some input blocks."
function leaf_values(pass::Pass{T}, plan::InputPlan, places) where {T}
    table = reshape(pass.params[plan.layer], plan.width, :)
    return T.(table[:, leaf_columns(pass, plan, places)])
end

"""
Set block `b` of `tile` to block `place` of `vals` times input block `leaf` of layer `source`,
or to that alone where `place` is zero.
"""
@inline function times_leaf!(tile, b, vals, place, pass::HostPass, source, leaf, columns)
    table = pass.params[source]
    plan = pass.program.plans[source]::InputPlan{Vector{Int32}}
    codes, width, batch = pass.codes.array, size(tile, 1), size(tile, 2)
    base, variable = @inbounds plan.bases[leaf], plan.variables[leaf]
    for n in columns
        at, from = width * (n - 1 + batch * (b - 1)), width * (n - 1 + batch * (place - 1))
        column = width * (base + @inbounds(codes[n, variable]) - 1)
        if place == 0
            each_lane(w -> @inbounds(tile[at+w] = table[column+w]), width)
        else
            set_lanes!(*, tile, at, vals, from, table, column, width)
        end
    end
    return nothing
end

@inline function times_mask!(tile, mask, b, columns)
    width, batch = size(tile, 1), size(tile, 2)
    at = width * (first(columns) - 1 + batch * (b - 1))
    @inbounds @simd ivdep for k = (at+1):(at+width*length(columns))
        tile[k] *= mask[k]
    end
    return nothing
end

# Counts -----------------------------------------------------------------------------------

function count_leaves!(tally::Array, pass::HostPass, plan::InputPlan, link, flow::Array)
    links, work = length(link.readers), plan.width * pass.batch * length(link.readers)
    every, low = 1:pass.batch, link.low
    if plan.apart
        threaded(links, work) do span, _
            for k in span
                reader, leaf = Int(link.readers[k]), Int(link.children[k])
                count_leaf!(tally, pass, plan, leaf, flow, reader, every, low)
            end
            return false
        end
    else  # blocks share a table: cut its columns, not the blocks
        parts = Threads.nthreads()
        threaded(parts, work) do span, _
            owned = (first(span) - 1, last(span), parts)
            for k = 1:links
                reader, leaf = Int(link.readers[k]), Int(link.children[k])
                count_leaf!(tally, pass, plan, leaf, flow, reader, every, low, owned)
            end
            return false
        end
    end
    return tally
end

"Spreads column numbers over 16 bits: 2^16 divided by the golden ratio."
const SPREADER = 40503

"Whether a thread counts into this column of a table; all threads have equally many."
@inline is_owned(column, ::Nothing) = true
@inline function is_owned(column, (before, stop, parts)::NTuple{3,Int})
    part = ((column * SPREADER & 0xffff) * parts) >> 16
    return before <= part < stop
end

"""
Add the flow of some columns of block `reader`, after its first `low` nodes, to the counts
of a leaf; only where its column of the table is `owned`.
"""
function count_leaf!(
    tally,
    pass,
    plan,
    leaf,
    flow,
    reader,
    columns,
    low = 0,
    owned = nothing,
)
    codes, width, batch = pass.codes.array, plan.width, pass.batch
    base, variable = @inbounds plan.bases[leaf], plan.variables[leaf]
    for n in columns
        column = Int(base + @inbounds(codes[n, variable]))
        is_owned(column, owned) || continue
        into = width * (column - 1)
        from = low + size(flow, 1) * (n - 1 + batch * (reader - 1))
        set_lanes!(+, tally, into, tally, into, flow, from, width)
    end
    return nothing
end

function count_leaves!(tally::AbstractArray, pass::Pass, plan::InputPlan, link, flow)
    rows = (link.low+1):(link.low+plan.width)
    vals = eltype(tally).(reshape(flow[rows, :, link.readers], plan.width, :))
    columns = vec(leaf_columns(pass, plan, link.children))
    scatter_add!(reshape(tally, plan.width, :), columns, vals)
    return tally
end
