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
    foreach(link -> enter!(pass, link, weights, counts), pass.program.roots)
    for plan in Iterators.reverse(pass.program.plans)
        down!(pass, plan, counts)
    end
    add_spares!(pass, counts)
    return counts
end

"Whether a layer's flows are added up in a buffer of their own."
has_flow(pass, plan::InputPlan) = pass.keeps_flow[plan.layer]
has_flow(pass, plan::ProductPlan) = !plan.in_place
has_flow(pass, plan::SumPlan) = plan.flow_owner == 0

"The tile that holds a layer's flows; for a sum layer, perhaps that of a product layer."
function flow_tile(pass::Pass, plan)
    has_flow(pass, plan) && return pass.flows[plan.layer].array
    plan isa SumPlan || return pass.tiles[plan.layer].array
    return flow_tile(pass, pass.program.plans[plan.flow_owner]::ProductPlan)
end

"Put weights into the flow of roots; a root that is a leaf is counted at once."
function enter!(pass::Pass, link, weights, counts)
    if pass.program.plans[link.layer] isa InputPlan
        flow = reshape(weights, 1, size(weights)...)
        return hand_over!(pass, link, flow, counts)
    end
    return add_weights!(pass.flows[link.layer].array, link, weights)
end

function add_weights!(flow::Array, link, weights)
    for (root, place) in zip(link.readers, link.children), n in axes(weights, 1)
        flow[1, n, place] += weights[n, root]
    end
    return flow
end

function add_weights!(flow::AbstractArray, link, weights)
    view(flow, 1, :, link.children) .+= weights[:, link.readers]
    return flow
end

# Products ---------------------------------------------------------------------------------

down!(::Pass, ::InputPlan, counts) = nothing

function down!(pass::Pass, plan::ProductPlan, counts)
    flow = flow_tile(pass, plan)
    plan.kind === :kronecker && return hand_pairs!(pass, plan, flow, counts)
    counted = pass isa HostPass && plan.counts_along
    foreach(link -> hand_over!(pass, link, flow, counts; counted), plan.pushes)
    return nothing
end

"Hand the flow of a Kronecker product to its children, one after the other."
function hand_pairs!(pass::Pass, plan::ProductPlan, flow, counts)
    for link in plan.pushes
        hand_over!(pass, link, node_sums(flow, pass, plan, link), counts)
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
        tally = counts[plan.layer]
        counted || isempty(tally) || count_leaves!(tally, pass, plan, link, flow)
        pass.keeps_flow[plan.layer] || return nothing
    end
    add_flow!(pass.flows[link.layer].array, link, flow)
    return nothing
end

function add_flow!(into::Array, link, flow::Array)
    width, batch = size(into, 1), size(into, 2)
    threaded(length(link.readers), width * batch * length(link.readers)) do span, _
        for k in span
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
