# Latent evidence of a batch: a factor for every node of the blocks it is on.

"""
Latent name → values on the device: states `[positions, N]` (-1 = not observed) or weights
`[width, positions, N]`.
"""
const Evidence = Dict{String,AbstractArray}

"Put the evidence of the given columns on the batch."
function observe!(pass::Pass, evidence::Evidence, columns)
    isempty(evidence) && return pass
    for (i, sites) in enumerate(pass.program.sites), site in sites
        haskey(evidence, site.name) || continue
        plan = pass.program.plans[i]
        mask = sized!(pass.masks[i], plan.width, pass.batch, plan.blocks)
        pass.masked[i] || fill!(mask, 1)
        pass.masked[i] = true
        put_evidence!(mask, evidence[site.name], site, columns)
    end
    return pass
end

function put_evidence!(mask::Array{T}, states::Matrix, site, columns) where {T}
    return each_position(mask, site) do spot, place
        for (n, column) in enumerate(columns)
            node = states[spot, column] + 1
            node > 0 || continue
            @inbounds @simd ivdep for w in axes(mask, 1)
                mask[w, n, place] *= ifelse(w == node, one(T), zero(T))
            end
        end
    end
end

function put_evidence!(mask::Array, weights::Array{<:Any,3}, site, columns)
    return each_position(mask, site) do spot, place
        for (n, column) in enumerate(columns)
            @inbounds @simd ivdep for w in axes(mask, 1)
                mask[w, n, place] *= weights[w, spot, column]
            end
        end
    end
end

"Call `body(spot, place)` for the positions of a site, cut over threads."
function each_position(body::F, mask, site) where {F}
    number = length(site.positions)
    threaded(number, size(mask, 1) * size(mask, 2) * number) do span, _
        for k in span
            body(Int(site.positions[k]), Int(site.places[k]))
        end
        return false
    end
    return mask
end

function put_evidence!(mask::AbstractArray, states::AbstractMatrix, site, columns)
    width, batch = size(mask)
    found = permutedims(states[site.positions, columns])
    found = reshape(found, 1, batch, length(site.positions))
    view(mask, :, :, site.places) .*= (found .< 0) .| (found .== (0:(width-1)))
    return mask
end

function put_evidence!(mask::AbstractArray, weights::AbstractArray{<:Any,3}, site, columns)
    found = permutedims(weights[:, site.positions, columns], (1, 3, 2))
    view(mask, :, :, site.places) .*= found
    return mask
end
