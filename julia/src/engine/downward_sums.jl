# Sum layers on the way down: ratios, counts, and the flows of edges.

function down!(pass::Pass, plan::SumPlan, counts)
    pass_down!(pass, plan, counts)
    if !plan.direct
        flow = pass.edges[plan.layer].array
        foreach(link -> hand_over!(pass, link, flow, counts), plan.pushes)
    end
    return nothing
end

"""
Turn the values of a sum layer into flow / value, add to its counts (without their factor θ)
and find the flows of its edges.
"""
function pass_down!(pass::Pass, plan::SumPlan, counts)
    tally = counts[plan.owner]
    values_to_ratios!(pass, plan)
    isempty(tally) || count_edges!(tally, pass, plan)
    hand_down!(pass, plan)
    return nothing
end

"""
A thread takes whole blocks as far as there are equally many for each, where no two blocks
share counts; what is left is cut in columns.
"""
function pass_down!(pass::HostPass, plan::SumPlan, counts)
    threads = Threads.nthreads()
    sized!(pass.scratch, plan.width_in, pass.batch, threads)
    plan.direct && sized!(pass.aside, plan.width, pass.batch, threads)
    is_cut(pass, plan) && return pass_columns_down!(pass, plan, counts)
    whole = plan.direct && plan.apart ? plan.blocks ÷ threads * threads : 0
    work = 4 * plan.width * plan.width_in * whole * pass.batch
    threaded(whole, work) do span, part
        for b in span
            pass_block_down!(pass, plan, counts, b, part)
        end
        return false
    end
    rest = (whole+1):plan.blocks
    isempty(rest) && return nothing
    tally = counts[plan.owner]
    values_to_ratios!(pass, plan, rest)
    isempty(tally) || count_edges!(tally, pass, plan, rest)
    hand_down!(pass, plan, rest)
    foreach(b -> count_leaves_of!(pass, plan, counts, b, 1:pass.batch), rest)
    return nothing
end

"All of a block by one thread, as many columns at a time as its caches hold."
function pass_block_down!(pass::HostPass, plan::SumPlan, counts, b, part)
    tally = counts[plan.owner]
    for columns in portions(1:pass.batch, columns_at_once(plan, 1:pass.batch))
        pass_portion_down!(pass, plan, tally, 0, b, columns, part)
        count_leaves_of!(pass, plan, counts, b, columns)
    end
    return nothing
end

"Some columns of a block; counts go into the groups of `tally` after the first `before`."
function pass_portion_down!(pass::HostPass, plan::SumPlan, tally, before, b, columns, part)
    aside, nodes = pass.aside.array, 1:plan.width
    set_ratios!(aside, plan.width * pass.batch * (part - 1), pass, plan, b, columns)
    ratios = view(aside, :, 1:length(columns), part)
    isempty(tally) || count_edge!(tally, pass, plan, b, nodes, columns, ratios, before)
    hand_down_edge!(pass, plan, b, columns, part, ratios)
    return nothing
end

# Layers that share weights with others ----------------------------------------------------

"""
Whether threads take columns of this layer, each with counts of its own: where several
layers share the weights, and there are too few blocks for all threads.
"""
function is_cut(pass::HostPass, plan::SumPlan)
    others = Threads.nthreads() - 1
    plan.direct && plan.sharers > 1 && plan.blocks <= others || return false
    return others * sizeof(pass.weights[plan.owner]) <= SPARE_BYTES
end

"Bytes of counts that a layer's threads, the first apart, may have for themselves."
const SPARE_BYTES = 16 * 2^20

function pass_columns_down!(pass::HostPass, plan::SumPlan, counts)
    tally, groups = counts[plan.owner], size(counts[plan.owner], 3)
    spare = isempty(tally) ? tally : claim_spare!(pass, plan.owner)
    work = 4 * plan.width * plan.width_in * plan.blocks * pass.batch
    each_slab(pass.batch, plan.blocks, work) do b, columns, part
        into, before = part == 1 ? (tally, 0) : (spare, groups * (part - 2))
        for some in portions(columns, columns_at_once(plan, columns))
            pass_portion_down!(pass, plan, into, before, b, some, part)
        end
        return false
    end
    foreach(b -> count_leaves_of!(pass, plan, counts, b, 1:pass.batch), 1:plan.blocks)
    return nothing
end

"Counts for all threads but the first: their groups follow one another."
function claim_spare!(pass::HostPass, owner)
    width_in, width, groups = size(pass.weights[owner])
    copies = groups * (Threads.nthreads() - 1)
    spare = sized!(pass.spares[owner], width_in, width, copies)
    pass.spared[owner] || fill!(spare, 0)
    pass.spared[owner] = true
    return spare
end

"Add what threads counted for themselves."
function add_spares!(pass::HostPass, counts)
    for owner in eachindex(counts)
        pass.spared[owner] || continue
        tally, spare = counts[owner], pass.spares[owner].array
        threaded(length(tally), length(spare)) do span, _
            for before = 0:length(tally):(length(spare)-1)
                @inbounds @simd ivdep for k in span
                    tally[k] += spare[before+k]
                end
            end
            return false
        end
        pass.spared[owner] = false
    end
    return counts
end
add_spares!(::Pass, counts) = counts

# Parts of a layer -------------------------------------------------------------------------

"Count the leaves of the product below block `b`, where that can be done along the way."
function count_leaves_of!(pass::HostPass, plan::SumPlan, counts, b, columns)
    plan.direct || return nothing
    product = pass.program.plans[plan.sources[1]]::ProductPlan{Vector{Int32}}
    product.counts_along || return nothing
    flow, block = pass.tiles[product.layer].array, plan.before + b
    for k = product.offsets[block]:(product.offsets[block+1]-1)
        leaf = pass.program.plans[product.sources[k]]
        leaf isa InputPlan || continue
        tally = counts[leaf.layer]
        isempty(tally) && continue
        count_leaf!(tally, pass, leaf, Int(product.places[k]), flow, block, columns)
    end
    return nothing
end

function values_to_ratios!(pass::HostPass, plan::SumPlan, rest)
    work, ratios = 4 * plan.width * pass.batch * length(rest), pass.tiles[plan.layer].array
    each_slab(pass.batch, length(rest), work) do k, columns, _
        at = plan.width * (first(columns) - 1 + pass.batch * (rest[k] - 1))
        set_ratios!(ratios, at, pass, plan, rest[k], columns)
        return false
    end
    return nothing
end

"""
Put flow / value of some columns of block `b` into `ratios`, after its first `before`
entries; the value is that before latent evidence.
"""
function set_ratios!(ratios, before, pass::HostPass{T}, plan::SumPlan, b, columns) where {T}
    vals, flow = pass.tiles[plan.layer].array, flow_tile(pass, plan)
    width, tiny = plan.width, floatmin(T)
    block = plan.flow_owner == 0 ? b : Int(plan.flow_blocks[b])
    at = width * (first(columns) - 1 + pass.batch * (b - 1))
    from = width * (first(columns) - 1 + pass.batch * (block - 1))
    @inbounds @simd ivdep for k = 1:(width*length(columns))
        value = vals[at+k]
        ratios[before+k] = flow[from+k] / ifelse(value > tiny, value, tiny)
    end
    pass.masked[plan.layer] || return nothing
    mask = pass.masks[plan.layer].array
    @inbounds @simd ivdep for k = 1:(width*length(columns))
        ratios[before+k] *= mask[at+k]
    end
    return nothing
end

function count_edges!(tally::Array, pass::HostPass, plan::SumPlan, rest)
    plan.apart || return count_groups!(tally, pass, plan)
    edges = Int(plan.offsets[first(rest)]):(Int(plan.offsets[last(rest)+1])-1)
    work = 2 * plan.width * plan.width_in * pass.batch * length(edges)
    each_slab(plan.width, length(edges), work) do k, nodes, _
        ratios = edge_ratios(pass, plan, edges[k], nodes, 1:pass.batch)
        count_edge!(tally, pass, plan, edges[k], nodes, 1:pass.batch, ratios)
        return false
    end
    return tally
end

"The ratios of the block that has edge `e`."
function edge_ratios(pass::HostPass, plan::SumPlan, e, nodes, columns)
    b = plan.single ? e : Int(plan.blocks_there[e])
    return view(pass.tiles[plan.layer].array, nodes, columns, b)
end

"""
Add what some columns count for edge `e`, for `nodes` of its block, from their ratios, to
the groups of `tally` after the first `skipped`.
"""
function count_edge!(tally, pass, plan, e, nodes, columns, ratios, skipped = 0)
    vals, before = edge_tile(pass, plan)
    into = view(tally, :, nodes, skipped + Int(plan.groups[e]))
    gemm!('N', view(vals, :, columns, before + e), 'T', ratios, 1, into)
    return nothing
end

"The counts of a layer whose edges share groups."
function count_groups!(tally::Array, pass::HostPass, plan::SumPlan)
    vals, before = edge_tile(pass, plan)
    ratio, every = pass.tiles[plan.layer].array, 1:pass.batch
    work = 2 * length(tally) * pass.batch * cld(plan.edges, size(tally, 3))
    each_slab(plan.width, size(tally, 3), work) do g, nodes, _
        span = plan.group_offsets[g]:(plan.group_offsets[g+1]-1)
        isempty(span) && return false
        if plan.single && plan.major
            from, to = before + first(span), before + last(span)
            long = reshape(view(vals, :, :, from:to), plan.width_in, :)
            ratios = reshape(view(ratio, :, :, span), plan.width, :)
            gemm!('N', long, 'T', view(ratios, nodes, :), 1, view(tally, :, nodes, g))
        else
            for k in span
                e = Int(plan.group_edges[k])
                ratios = edge_ratios(pass, plan, e, nodes, every)
                count_edge!(tally, pass, plan, e, nodes, every, ratios)
            end
        end
        return false
    end
    return tally
end

"""
The flows of the edges of some blocks: into the products' own tile where that is theirs
alone, added to their flows where not, and into the tile of edges where they were gathered.
"""
function hand_down!(pass::HostPass, plan::SumPlan, rest)
    edges = Int(plan.offsets[first(rest)]):(Int(plan.offsets[last(rest)+1])-1)
    work = 2 * plan.width * plan.width_in * length(edges) * pass.batch
    each_slab(pass.batch, length(edges), work) do k, columns, part
        ratios = edge_ratios(pass, plan, edges[k], 1:plan.width, columns)
        hand_down_edge!(pass, plan, edges[k], columns, part, ratios)
        return false
    end
    return nothing
end

function hand_down_edge!(pass::HostPass, plan::SumPlan, e, columns, part, ratios)
    vals, before = edge_tile(pass, plan)
    source = plan.sources[1]
    adds = plan.direct && !(pass.program.plans[source]::ProductPlan).in_place
    into = adds ? pass.flows[source].array : vals
    scratch = pass.scratch.array
    θ = weights_of(pass, plan, e)
    gemm!('N', θ, 'N', ratios, 0, view(scratch, :, 1:length(columns), part))
    at = plan.width_in * (first(columns) - 1 + pass.batch * (before + e - 1))
    from = plan.width_in * pass.batch * (part - 1)
    @inbounds @simd ivdep for k = 1:(plan.width_in*length(columns))
        flow = vals[at+k] * scratch[from+k]
        into[at+k] = adds ? into[at+k] + flow : flow
    end
    return nothing
end
