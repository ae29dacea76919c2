# Sum layers on the way up, as broadcasts and batched products: for arrays on any device
# (see sums.jl).

function up!(pass::Pass, plan::SumPlan)
    out = sized!(pass.tiles[plan.layer], plan.width, pass.batch, plan.blocks)
    scale = sized!(pass.scales[plan.layer], pass.batch, plan.blocks)
    plan.direct ? copy_scale!(scale, pass, plan) : gather_edges!(scale, pass, plan)
    mix!(out, pass, plan)
    masked, inherits = pass.masked[plan.layer], any(i -> pass.lossy[i], plan.below)
    masked && (out .*= pass.masks[plan.layer].array)
    pass.lossy[plan.layer] = false
    if inherits || masked || any_faint!(pass, plan.owner)
        loss_bound = sized!(pass.errors[plan.layer], pass.batch, plan.blocks)
        inherits ? inherit_errors!(loss_bound, scale, pass, plan) : fill!(loss_bound, 0)
        pass.lossy[plan.layer] = add_losses!(loss_bound, out, pass, plan)
    end
    return nothing
end

"A sum layer's children as an array of their own."
function edge_values(pass::Pass, plan::SumPlan)
    tile, before = edge_tile(pass, plan)
    return view(tile, :, :, (before+1):(before+plan.edges))
end

"""
A group-major layer's tile as one long matrix per group: (width, columns of its blocks,
groups).
"""
by_group(tile, weights) = reshape(tile, size(tile, 1), :, size(weights, 3))

function mix!(out::AbstractArray, pass::Pass, plan::SumPlan)
    weights, vals = pass.weights[plan.owner], edge_values(pass, plan)
    if plan.single && plan.major
        batched_mul!(by_group(out, weights), 'T', weights, 'N', by_group(vals, weights), 0)
    elseif plan.single
        batched_mul!(out, 'T', weights[:, :, plan.groups_there], 'N', vals, 0)
    else
        mixed = similar(out, plan.width, pass.batch, plan.edges)
        batched_mul!(mixed, 'T', weights[:, :, plan.groups_there], 'N', vals, 0)
        fill!(out, 0)
        for link in plan.by_slot
            view(out, :, :, link.readers) .+= mixed[:, :, link.children]
        end
    end
    return out
end

function copy_scale!(scale::AbstractMatrix, pass::Pass, plan::SumPlan)
    places = (plan.before+1):(plan.before+plan.edges)
    return scale .= view(pass.scales[plan.sources[1]].array, :, places)
end

function gather_edges!(scale::AbstractMatrix, pass::Pass{T}, plan::SumPlan) where {T}
    edges = sized!(pass.edges[plan.layer], plan.width_in, pass.batch, plan.edges)
    exponents = similar(scale, Float64, pass.batch, plan.edges)
    for link in plan.reads
        vals = pass.tiles[link.layer].array[:, :, link.children]
        view(edges, :, :, link.readers) .= vals
        view(exponents, :, link.readers) .= pass.scales[link.layer].array[:, link.children]
    end
    top = reshape(largest(edges), size(exponents))
    own = ifelse.(top .> 0, exponents .+ power_of.(top), -Inf)
    fill!(scale, -Inf)
    for link in plan.by_slot
        part = view(scale, :, link.readers)
        part .= max.(part, own[:, link.children])
    end
    shift = exponents .- finite_or_zero.(scale[:, plan.blocks_there])
    return times_power!(edges, reshape(shift, 1, size(shift)...))
end

function inherit_errors!(loss_bound::AbstractMatrix, scale, pass::Pass, plan::SumPlan)
    fill!(loss_bound, 0)
    lost = fill!(similar(loss_bound, pass.batch, plan.edges), 0)
    shift = fill!(similar(lost), 0)
    for link in plan.reads
        pass.lossy[link.layer] || continue
        view(lost, :, link.readers) .= pass.errors[link.layer].array[:, link.children]
        plan.direct && continue
        view(shift, :, link.readers) .= pass.scales[link.layer].array[:, link.children]
    end
    plan.direct || (shift .-= finite_or_zero.(scale[:, plan.blocks_there]))
    moved = ifelse.(lost .> 0, unknown_as_infinite.(lost .* exp2.(shift)), 0.0)
    for link in plan.by_slot
        view(loss_bound, :, link.readers) .+= moved[:, link.children]
    end
    return loss_bound
end

function add_losses!(
    loss_bound::AbstractMatrix,
    out::AbstractArray{T},
    pass::Pass,
    plan,
) where {T}
    mask = pass.masks[plan.layer].array
    allowed = pass.masked[plan.layer] ? ifelse.(mask .> 0, out, typemax(T)) : out
    low = reshape(smallest(allowed), size(loss_bound))
    loss_bound .+= ifelse.(low .< faintest(T), Float64(floatmin(T)) * plan.terms, 0.0)
    return any(>(0), loss_bound)
end
