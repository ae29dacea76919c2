# Sum layers on the way down, as broadcasts and batched products: for arrays on any device
# (see downward.jl).

function values_to_ratios!(pass::Pass{T}, plan::SumPlan) where {T}
    ratio, flow = pass.tiles[plan.layer].array, flow_tile(pass, plan)
    own = plan.flow_owner == 0 ? flow : flow[:, :, plan.flow_blocks]
    ratio .= own ./ max.(ratio, floatmin(T))
    pass.masked[plan.layer] && (ratio .*= pass.masks[plan.layer].array)
    return nothing
end

function count_edges!(tally::AbstractArray{T,3}, pass::Pass{T}, plan::SumPlan) where {T}
    vals, ratio = edge_values(pass, plan), pass.tiles[plan.layer].array
    if plan.single && plan.major
        batched_mul!(tally, 'N', by_group(vals, tally), 'T', by_group(ratio, tally), 1)
        return tally
    end
    ratios = plan.single ? ratio : ratio[:, :, plan.blocks_there]
    more = similar(tally, plan.width_in, plan.width, plan.edges)
    batched_mul!(more, 'N', vals, 'T', ratios, 0)
    for link in plan.by_group
        view(tally, :, :, link.readers) .+= more[:, :, link.children]
    end
    return tally
end

function hand_down!(pass::Pass, plan::SumPlan)
    vals, ratio = edge_values(pass, plan), pass.tiles[plan.layer].array
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
        flow .+= found .* vals
    else
        vals .*= found
    end
    return nothing
end
