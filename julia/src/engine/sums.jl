# Sum layers on the way up: a matrix product per edge.

function up!(pass::HostPass, plan::SumPlan)
    out = sized!(pass.tiles[plan.layer], plan.width, pass.batch, plan.blocks)
    scale = sized!(pass.scales[plan.layer], pass.batch, plan.blocks)
    plan.direct ? copy_scale!(scale, pass, plan) : gather_edges!(scale, pass, plan)
    is_mixed(pass, plan) || mix!(out, pass, plan)
    masked, inherits = pass.masked[plan.layer], any(i -> pass.lossy[i], plan.below)
    masked && mask_tile!(out, pass.masks[plan.layer].array)
    pass.lossy[plan.layer] = false
    if inherits || masked || any_faint!(pass, plan.owner)
        pass.lossy[plan.layer] = bound_sums!(pass, plan, inherits)
    end
    return nothing
end

"""
    edge_tile(pass, plan)

A sum layer's children and how many blocks of the tile come before them: the products
themselves where the layer is direct, else the gathered edges.
"""
function edge_tile(pass::Pass, plan::SumPlan)
    plan.direct && return pass.tiles[plan.sources[1]].array, plan.before
    return pass.edges[plan.layer].array, 0
end

"""
    mix!(out, pass, plan)

`out[:, :, b] = Σ_e weights[:, :, group of e]' * child of e`. The columns of all blocks are
cut over Julia's threads; BLAS itself uses one.
"""
function mix!(out::Array, pass::HostPass, plan::SumPlan)
    vals, before = edge_tile(pass, plan)
    work = 2 * plan.width * plan.width_in * plan.edges * pass.batch
    each_slab(pass.batch, plan.blocks, work) do b, columns, _
        into = view(out, :, columns, b)
        for e = plan.offsets[b]:(plan.offsets[b+1]-1)
            θ, β = weights_of(pass, plan, e), e > plan.offsets[b]
            gemm!('T', θ, 'N', view(vals, :, columns, before + e), β, into)
        end
        return false
    end
    return out
end

"Whether the layer's values were computed along with those of the products below."
function is_mixed(pass::HostPass, plan::SumPlan)
    plan.direct || return false
    return (pass.program.plans[plan.sources[1]]::ProductPlan).mixer == plan.layer
end

"""
Multiplications up to which OpenBLAS multiplies straight from the operands. Above, it copies
them first, which small matrices are not worth. A transposed left operand it always copies.
"""
const SMALL_PRODUCT = 10^6

"Least columns for which that is faster."
const SMALL_COLUMNS = 64

"How many columns a block's matrix product takes at once."
function columns_at_once(plan::SumPlan, columns)
    number = SMALL_PRODUCT ÷ (plan.width * plan.width_in)
    return number < SMALL_COLUMNS ? length(columns) : prevpow(2, number)
end
columns_to_mix(::Nothing, columns) = length(columns)
columns_to_mix(plan::SumPlan, columns) = columns_at_once(plan, columns)

"Whether the weights are worth transposing for so many columns of one block."
is_flipped(plan::SumPlan, columns) =
    length(columns) >= SMALL_COLUMNS &&
    SMALL_COLUMNS * plan.width * plan.width_in <= SMALL_PRODUCT

"""
Transpose the weights of a direct layer's block `b` for the thread `part`, unless that was
done for all layers that share them.
"""
function flip_weights!(pass::HostPass, plan::SumPlan, b, columns, part)
    plan.sharers == 1 && is_flipped(plan, columns) || return nothing
    transpose!(view(pass.aside.array, :, :, part), weights_of(pass, plan, b))
    return nothing
end

"The weights of edge `e`."
weights_of(pass, plan, e) = view(pass.weights[plan.owner], :, :, Int(plan.groups[e]))

"Transpose the weights that several layers share, once for a batch."
function flip_shared!(pass::HostPass)
    for plan in pass.program.plans
        plan isa SumPlan && plan.sharers > 1 && plan.owner == plan.layer || continue
        θ = pass.weights[plan.owner]
        width_in, width, groups = size(θ)
        flip = sized!(pass.flips[plan.owner], width, width_in, groups)
        each_slab(width_in, groups, length(θ)) do g, nodes, _
            transpose!(view(flip, :, nodes, g), view(θ, nodes, :, g))
            return false
        end
    end
    return pass
end
flip_shared!(pass::Pass) = pass

"The values of a direct layer's block `b`."
function mix_block!(pass::HostPass, plan::SumPlan, b, columns, part)
    vals = view(edge_tile(pass, plan)[1], :, columns, plan.before + b)
    into = view(pass.tiles[plan.layer].array, :, columns, b)
    if plan.sharers > 1
        flip = view(pass.flips[plan.owner].array, :, :, Int(plan.groups[b]))
        gemm!('N', flip, 'N', vals, 0, into)
    elseif is_flipped(plan, columns)
        gemm!('N', view(pass.aside.array, :, :, part), 'N', vals, 0, into)
    else
        gemm!('T', weights_of(pass, plan, b), 'N', vals, 0, into)
    end
    return nothing
end

function mask_tile!(tile::Array, mask::Array)
    @inbounds @simd ivdep for k in eachindex(tile, mask)
        tile[k] *= mask[k]
    end
    return tile
end

function copy_scale!(scale::Matrix, pass::HostPass, plan::SumPlan)
    source = pass.scales[plan.sources[1]].array
    return copyto!(scale, 1, source, 1 + pass.batch * plan.before, length(scale))
end

"""
    gather_edges!(scale, pass, plan)

Copy the children into the tile of edges, all edges of a block on one scale, where the
largest value is from 0.5 to 1; that scale goes into `scale`.
"""
function gather_edges!(scale::Matrix, pass::HostPass{T}, plan::SumPlan) where {T}
    edges = sized!(pass.edges[plan.layer], plan.width_in, pass.batch, plan.edges)
    each_slab(pass.batch, plan.blocks, 4 * length(edges)) do b, columns, _
        span = plan.offsets[b]:(plan.offsets[b+1]-1)
        for n in columns
            common = -Inf
            for e in span
                common = max(common, exponent_of_child(pass, plan, e, n))
            end
            common > -Inf || (common = exponent_of_losses(pass, plan, span, n))
            scale[n, b] = common
            common = isfinite(common) ? common : 0.0
            for e in span
                copy_edge!(edges, pass, plan, e, n, common)
            end
        end
        return false
    end
    return edges
end

"Scale of an edge's child, its own maximum included."
function exponent_of_child(pass, plan, e, n)
    tile, place = pass.tiles[plan.sources[e]].array, Int(plan.places[e])
    width, batch = size(tile, 1), size(tile, 2)
    _, top = extremes(tile, width * (n - 1 + batch * (place - 1)), width)
    top > 0 || return -Inf
    return pass.scales[plan.sources[e]].array[n, place] + power_of(top)
end

"The scale of the largest bound among edges whose children are all zero."
function exponent_of_losses(pass, plan, span, n)
    common = -Inf
    for e in span
        i, place = Int(plan.sources[e]), Int(plan.places[e])
        pass.lossy[i] || continue
        0 < pass.errors[i].array[n, place] < Inf || continue
        common = max(common, pass.scales[i].array[n, place])
    end
    return common
end

function copy_edge!(edges::Array{T}, pass, plan, e, n, common) where {T}
    tile, place = pass.tiles[plan.sources[e]].array, Int(plan.places[e])
    shift = pass.scales[plan.sources[e]].array[n, place] - common
    near, far = two_powers(T, shift)
    @inbounds @simd ivdep for w in axes(edges, 1)
        edges[w, n, e] = tile[w, n, place] * near * far
    end
    return nothing
end

"""
Bound what underflow took from the sums: what the edges lost, and what the product itself
may have lost. Returns whether it took anything.
"""
function bound_sums!(pass::HostPass{T}, plan::SumPlan, inherits) where {T}
    loss_bound = sized!(pass.errors[plan.layer], pass.batch, plan.blocks)
    out, scale = pass.tiles[plan.layer].array, pass.scales[plan.layer].array
    mask = pass.masked[plan.layer] ? pass.masks[plan.layer].array : nothing
    limit, loss = faintest(T), Float64(floatmin(T)) * plan.terms
    return each_slab(pass.batch, plan.blocks, length(out)) do b, columns, _
        lost = false
        for n in columns
            bound = inherits ? edge_losses(pass, plan, n, b, scale[n, b]) : 0.0
            at = plan.width * (n - 1 + pass.batch * (b - 1))
            low, _ = extremes(out, mask, at, plan.width)
            low < limit && scale[n, b] > -Inf && (bound += loss)
            loss_bound[n, b] = bound
            lost |= bound > 0
        end
        return lost
    end
end

"The error bounds of a block's edges, added up on its scale."
function edge_losses(pass, plan, n, b, scale)
    total = 0.0
    for e = plan.offsets[b]:(plan.offsets[b+1]-1)
        i, place = Int(plan.sources[e]), Int(plan.places[e])
        lost = pass.lossy[i] ? pass.errors[i].array[n, place] : 0.0
        lost > 0 || continue
        shift = plan.direct ? 0.0 : pass.scales[i].array[n, place] - finite_or_zero(scale)
        total += moved(lost, shift)
    end
    return total
end
