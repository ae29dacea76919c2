# The downward pass: flows, and the expected counts they add up to.
#
# The flow of a node is ∂ log p / ∂ log (its value); of an edge θ · ∂ log p / ∂θ, which
# defines the expected counts. Counts of a sum layer are collected without their factor θ,
# the same for a whole pass: `finish_counts!` multiplies it in once. Flows overwrite the
# values of products where each product has one reader; the ratios flow / value overwrite
# the values of sums.

"""
    downward!(pass, counts, weights)

Add the flows of the batch to `counts` ([`new_counts`](@ref)); `weights` `[columns, roots]`
enter at the roots. An upward pass comes before; its values are gone afterwards.
"""
function downward!(pass::Pass, counts::AbstractVector, weights::AbstractMatrix)
    for plan in pass.program.plans
        has_flow(pass, plan) || continue
        fill!(sized!(pass.flows[plan.layer], plan.width, pass.batch, plan.blocks), 0)
    end
    foreach(link -> enter!(pass, link, weights), pass.program.roots)
    for plan in Iterators.reverse(pass.program.plans)
        down!(pass, plan, counts)
    end
    return counts
end

"Whether a layer's flows are added up in a buffer of their own."
has_flow(pass, plan::InputPlan) = pass.kept[plan.layer]
has_flow(pass, plan::ProductPlan) = !plan.in_place
has_flow(pass, plan::SumPlan) = plan.lender == 0

"The tile that holds a layer's flows; for a sum layer with a lender, the lender's."
function flow_tile(pass::Pass, plan)
    has_flow(pass, plan) && return pass.flows[plan.layer].array
    plan isa SumPlan || return pass.tiles[plan.layer].array
    return flow_tile(pass, pass.program.plans[plan.lender]::ProductPlan)
end

function enter!(pass::HostPass, link, weights)
    flow = pass.flows[link.layer].array
    for (root, place) in zip(link.readers, link.children), n = 1:pass.batch
        flow[1, n, place] += weights[n, root]
    end
    return nothing
end

function enter!(pass::Pass, link, weights)
    flow = view(pass.flows[link.layer].array, 1, :, link.children)
    flow .+= weights[:, link.readers]
    return nothing
end

# Products ---------------------------------------------------------------------------------

down!(::Pass, ::InputPlan, counts) = nothing

function down!(pass::Pass, plan::ProductPlan, counts)
    flow = flow_tile(pass, plan)
    if plan.kind === :kronecker
        for link in plan.pushes
            hand_over!(pass, link, node_sums(flow, pass, plan, link), counts)
        end
    else
        counted = pass isa HostPass && plan.counts_along
        foreach(link -> hand_over!(pass, link, flow, counts; counted), plan.pushes)
    end
    return nothing
end

"A Kronecker product's flow, added up over the nodes of the other child."
function node_sums(flow, pass, plan, link)
    width = pass.program.plans[link.layer].width
    other, rest = plan.width ÷ width, size(flow)[2:3]
    found = sized!(pass.scratch, width, rest...)
    if link.slot == 2  # the second child's nodes run fastest
        sum!(reshape(found, width, 1, rest...), reshape(flow, width, other, rest...))
    else
        sum!(reshape(found, 1, width, rest...), reshape(flow, other, width, rest...))
    end
    return found
end

"""
Add the readers' flow to a link's children; flow into an input layer is counted at once,
where it is not `counted` already.
"""
function hand_over!(pass::Pass, link, flow, counts; counted = false)
    plan = pass.program.plans[link.layer]
    if plan isa InputPlan
        count = counts[plan.layer]
        counted || isempty(count) || count_leaves!(count, pass, plan, link, flow)
        pass.kept[plan.layer] || return nothing
    end
    add_flow!(pass.flows[link.layer].array, link, flow)
    return nothing
end

function add_flow!(into::Array, link, flow::Array)
    width, batch = size(into, 1), size(into, 2)
    threaded(length(link.readers), width * batch * length(link.readers)) do range, _
        for k in range
            reader, child = Int(link.readers[k]), Int(link.children[k])
            for n = 1:batch
                @inbounds @simd ivdep for w = 1:width
                    into[w, n, child] += flow[link.low+w, n, reader]
                end
            end
        end
        return false
    end
    return into
end

function add_flow!(into::AbstractArray, link, flow)
    rows = (link.low+1):(link.low+size(into, 1))
    view(into, :, :, link.children) .+= flow[rows, :, link.readers]
    return into
end

# Sums -------------------------------------------------------------------------------------

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
    count = counts[plan.owner]
    values_to_ratios!(pass, plan)
    isempty(count) || count_edges!(count, pass, plan)
    hand_down!(pass, plan)
    return nothing
end

"""
A thread takes whole blocks as far as there are equally many for each, where no two blocks
share counts; what is left is cut in columns.
"""
function pass_down!(pass::HostPass, plan::SumPlan, counts)
    threads, count = Threads.nthreads(), counts[plan.owner]
    whole = plan.direct && plan.apart ? plan.blocks ÷ threads * threads : 0
    sized!(pass.scratch, plan.width_in, pass.batch, threads)
    whole > 0 && sized!(pass.aside, plan.width, pass.batch, threads)
    work = 4 * plan.width * plan.width_in * whole * pass.batch
    threaded(whole, work) do range, part
        for b in range
            pass_block_down!(pass, plan, counts, b, part)
        end
        return false
    end
    rest = (whole+1):plan.blocks
    isempty(rest) && return nothing
    values_to_ratios!(pass, plan, rest)
    isempty(count) || count_edges!(count, pass, plan, rest)
    hand_down!(pass, plan, rest)
    foreach(b -> count_leaves_of!(pass, plan, counts, b, 1:pass.batch), rest)
    return nothing
end

"All of a block by one thread, as many columns at a time as its caches hold."
function pass_block_down!(pass::HostPass, plan::SumPlan, counts, b, part)
    count, aside = counts[plan.owner], pass.aside.array
    for columns in portions(1:pass.batch, columns_at_once(plan, 1:pass.batch))
        set_ratios!(aside, plan.width * pass.batch * (part - 1), pass, plan, b, columns)
        ratios = view(aside, :, 1:length(columns), part)
        isempty(count) || count_edge!(count, pass, plan, b, 1:plan.width, columns, ratios)
        hand_down_edge!(pass, plan, b, columns, part, ratios)
        count_leaves_of!(pass, plan, counts, b, columns)
    end
    return nothing
end

"Count the leaves of the product below block `b`, where that can be done along the way."
function count_leaves_of!(pass::HostPass, plan::SumPlan, counts, b, columns)
    plan.direct || return nothing
    product = pass.program.plans[plan.sources[1]]::ProductPlan{Vector{Int32}}
    product.counts_along || return nothing
    flow, block = pass.tiles[product.layer].array, plan.before + b
    for k = product.offsets[block]:(product.offsets[block+1]-1)
        leaf = pass.program.plans[product.sources[k]]
        leaf isa InputPlan || continue
        count = counts[leaf.layer]
        isempty(count) && continue
        count_leaf!(count, pass, leaf, Int(product.places[k]), flow, block, columns)
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
    values, flow = pass.tiles[plan.layer].array, flow_tile(pass, plan)
    width, tiny = plan.width, floatmin(T)
    block = plan.lender == 0 ? b : Int(plan.lent[b])
    at = width * (first(columns) - 1 + pass.batch * (b - 1))
    from = width * (first(columns) - 1 + pass.batch * (block - 1))
    @inbounds @simd ivdep for k = 1:(width*length(columns))
        value = values[at+k]
        ratios[before+k] = flow[from+k] / ifelse(value > tiny, value, tiny)
    end
    pass.masked[plan.layer] || return nothing
    mask = pass.masks[plan.layer].array
    @inbounds @simd ivdep for k = 1:(width*length(columns))
        ratios[before+k] *= mask[at+k]
    end
    return nothing
end

function count_edges!(count::Array, pass::HostPass, plan::SumPlan, rest)
    plan.apart || return count_groups!(count, pass, plan)
    edges = Int(plan.offsets[first(rest)]):(Int(plan.offsets[last(rest)+1])-1)
    work = 2 * plan.width * plan.width_in * pass.batch * length(edges)
    each_slab(plan.width, length(edges), work) do k, nodes, _
        ratios = edge_ratios(pass, plan, edges[k], nodes, 1:pass.batch)
        count_edge!(count, pass, plan, edges[k], nodes, 1:pass.batch, ratios)
        return false
    end
    return count
end

"The ratios of the block that has edge `e`."
function edge_ratios(pass::HostPass, plan::SumPlan, e, nodes, columns)
    b = plan.single ? e : Int(plan.blocks_there[e])
    return view(pass.tiles[plan.layer].array, nodes, columns, b)
end

"Add what some columns count for edge `e`, for `nodes` of its block, from their ratios."
function count_edge!(count, pass::HostPass, plan::SumPlan, e, nodes, columns, ratios)
    values, before = edge_tile(pass, plan)
    into = view(count, :, nodes, Int(plan.groups[e]))
    gemm!('N', view(values, :, columns, before + e), 'T', ratios, 1, into)
    return nothing
end

"The counts of a layer whose edges share groups."
function count_groups!(count::Array, pass::HostPass, plan::SumPlan)
    values, before = edge_tile(pass, plan)
    ratio, all = pass.tiles[plan.layer].array, 1:pass.batch
    work = 2 * length(count) * pass.batch * cld(plan.edges, size(count, 3))
    each_slab(plan.width, size(count, 3), work) do g, nodes, _
        range = plan.group_offsets[g]:(plan.group_offsets[g+1]-1)
        isempty(range) && return false
        if plan.single && plan.major
            from, to = before + first(range), before + last(range)
            long = reshape(view(values, :, :, from:to), plan.width_in, :)
            ratios = reshape(view(ratio, :, :, range), plan.width, :)
            gemm!('N', long, 'T', view(ratios, nodes, :), 1, view(count, :, nodes, g))
        else
            for k in range
                e = Int(plan.group_edges[k])
                ratios = edge_ratios(pass, plan, e, nodes, all)
                count_edge!(count, pass, plan, e, nodes, all, ratios)
            end
        end
        return false
    end
    return count
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
    values, before = edge_tile(pass, plan)
    source = plan.sources[1]
    adds = plan.direct && !(pass.program.plans[source]::ProductPlan).in_place
    into = adds ? pass.flows[source].array : values
    θ = view(pass.weights[plan.owner], :, :, Int(plan.groups[e]))
    scratch = pass.scratch.array
    gemm!('N', θ, 'N', ratios, 0, view(scratch, :, 1:length(columns), part))
    at = plan.width_in * (first(columns) - 1 + pass.batch * (before + e - 1))
    from = plan.width_in * pass.batch * (part - 1)
    @inbounds @simd ivdep for k = 1:(plan.width_in*length(columns))
        flow = values[at+k] * scratch[from+k]
        into[at+k] = adds ? into[at+k] + flow : flow
    end
    return nothing
end
