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
        foreach(link -> hand_over!(pass, link, flow, counts), plan.pushes)
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

"Add the readers' flow to a link's children; flow into an input layer is counted at once."
function hand_over!(pass::Pass, link, flow, counts)
    plan = pass.program.plans[link.layer]
    if plan isa InputPlan
        count = counts[plan.layer]
        isempty(count) || count_leaves!(count, pass, plan, link, flow)
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
    values_to_ratios!(pass, plan)
    count = counts[plan.owner]
    isempty(count) || count_edges!(count, pass, plan)
    hand_down!(pass, plan)
    if !plan.direct
        flow = pass.edges[plan.layer].array
        foreach(link -> hand_over!(pass, link, flow, counts), plan.pushes)
    end
    return nothing
end

"""
Turn the values of a sum layer into flow / value, the value being that before latent
evidence.
"""
function values_to_ratios!(pass::HostPass{T}, plan::SumPlan) where {T}
    ratio, flow = pass.tiles[plan.layer].array, flow_tile(pass, plan)
    masked, mask = pass.masked[plan.layer], pass.masks[plan.layer].array
    width, tiny = plan.width, floatmin(T)
    each_slab(pass.batch, plan.blocks, 4 * length(ratio)) do b, columns, _
        block = plan.lender == 0 ? b : Int(plan.lent[b])
        at = width * (first(columns) - 1 + pass.batch * (b - 1))
        from = width * (first(columns) - 1 + pass.batch * (block - 1))
        @inbounds @simd ivdep for k = 1:(width*length(columns))
            value = ratio[at+k]
            ratio[at+k] = flow[from+k] / ifelse(value > tiny, value, tiny)
        end
        masked && times_mask!(ratio, mask, b, columns)
        return false
    end
    return nothing
end

"Add the layer's counts, without their factor θ, to `count` (width in, width out, groups)."
function count_edges!(count::Array{T,3}, pass::HostPass{T}, plan::SumPlan) where {T}
    values, before = edge_tile(pass, plan)
    ratio = pass.tiles[plan.layer].array
    work = 2 * length(count) * pass.batch * cld(plan.edges, size(count, 3))
    each_slab(plan.width, size(count, 3), work) do g, nodes, _
        into = view(count, :, nodes, g)
        range = plan.group_offsets[g]:(plan.group_offsets[g+1]-1)
        isempty(range) && return false
        if plan.single && plan.major
            from, to = before + first(range), before + last(range)
            long = reshape(view(values, :, :, from:to), plan.width_in, :)
            ratios = reshape(view(ratio, :, :, range), plan.width, :)
            gemm!('N', long, 'T', view(ratios, nodes, :), 1, into)
        else
            for k in range
                e = Int(plan.group_edges[k])
                b = plan.single ? e : Int(plan.blocks_there[e])
                gemm!(
                    'N',
                    view(values, :, :, before + e),
                    'T',
                    view(ratio, nodes, :, b),
                    1,
                    into,
                )
            end
        end
        return false
    end
    return count
end

"""
The flows of a sum layer's edges: into the products' own tile where that is theirs alone,
added to their flows where not, and into the tile of edges where they were gathered.
"""
function hand_down!(pass::HostPass, plan::SumPlan)
    values, before = edge_tile(pass, plan)
    ratio, weights = pass.tiles[plan.layer].array, pass.weights[plan.owner]
    scratch = sized!(pass.scratch, plan.width_in, pass.batch, Threads.nthreads())
    source = plan.sources[1]
    adds = plan.direct && !(pass.program.plans[source]::ProductPlan).in_place
    into = adds ? pass.flows[source].array : values
    work = 2 * plan.width * plan.width_in * plan.edges * pass.batch
    each_slab(pass.batch, plan.edges, work) do e, columns, part
        b = plan.single ? e : Int(plan.blocks_there[e])
        θ, found = view(weights, :, :, Int(plan.groups[e])), view(scratch, :, columns, part)
        gemm!('N', θ, 'N', view(ratio, :, columns, b), 0, found)
        at = plan.width_in * (first(columns) - 1 + pass.batch * (before + e - 1))
        from = plan.width_in * (first(columns) - 1 + pass.batch * (part - 1))
        @inbounds @simd ivdep for k = 1:(plan.width_in*length(columns))
            flow = values[at+k] * scratch[from+k]
            into[at+k] = adds ? into[at+k] + flow : flow
        end
        return false
    end
    return nothing
end

# Sums on any device -----------------------------------------------------------------------

function values_to_ratios!(pass::Pass{T}, plan::SumPlan) where {T}
    ratio, flow = pass.tiles[plan.layer].array, flow_tile(pass, plan)
    own = plan.lender == 0 ? flow : flow[:, :, plan.lent]
    ratio .= own ./ max.(ratio, floatmin(T))
    pass.masked[plan.layer] && (ratio .*= pass.masks[plan.layer].array)
    return nothing
end

function count_edges!(count::AbstractArray{T,3}, pass::Pass{T}, plan::SumPlan) where {T}
    values, ratio = edge_values(pass, plan), pass.tiles[plan.layer].array
    if plan.single && plan.major
        batched_mul!(count, 'N', by_group(values, count), 'T', by_group(ratio, count), 1)
        return count
    end
    ratios = plan.single ? ratio : ratio[:, :, plan.blocks_there]
    more = similar(count, plan.width_in, plan.width, plan.edges)
    batched_mul!(more, 'N', values, 'T', ratios, 0)
    for link in plan.by_group
        view(count, :, :, link.readers) .+= more[:, :, link.children]
    end
    return count
end

function hand_down!(pass::Pass, plan::SumPlan)
    values, ratio = edge_values(pass, plan), pass.tiles[plan.layer].array
    weights = pass.weights[plan.owner]
    found = sized!(pass.scratch, plan.width_in, pass.batch, plan.edges)
    if plan.single && plan.major
        batched_mul!(
            by_group(found, weights),
            'N',
            weights,
            'N',
            by_group(ratio, weights),
            0,
        )
    else
        ratios = plan.single ? ratio : ratio[:, :, plan.blocks_there]
        batched_mul!(found, 'N', weights[:, :, plan.groups_there], 'N', ratios, 0)
    end
    source = pass.program.plans[plan.sources[1]]
    if plan.direct && source isa ProductPlan && !source.in_place
        flow = view(
            pass.flows[source.layer].array,
            :,
            :,
            (plan.before+1):(plan.before+plan.edges),
        )
        flow .+= found .* values
    else
        values .*= found
    end
    return nothing
end
