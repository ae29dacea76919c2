# Plain float64 evaluation of circuits in the log domain, block by block, for the engine's
# tests. Nothing is shared with the engine.

using JuiceBridge: child_range, layer_of, owns_params

logsum(terms) =
    (top = maximum(terms)) == -Inf ? -Inf : top + log(sum(t -> exp(t - top), terms))

"""
Log values of every node: a vector per block. `latents`: name → states or a matrix of
weights.
"""
function node_logs(circuit::Circuit, x; latents = Dict(), sums = logsum)
    evidence = log_evidence(circuit, latents)
    values = Vector{Float64}[]
    for layer in circuit.layers, b = 1:num_blocks(layer)
        value = block_logs(layer, b, values, x, sums)
        push!(values, value .+ get(evidence, length(values) + 1, 0.0))
    end
    return values
end

function log_evidence(circuit, latents)
    evidence = Dict{Int,Vector{Float64}}()
    for (name, given) in latents, (p, block) in enumerate(circuit.latents[name])
        width = circuit.widths[layer_of(circuit, block)]
        weights = ones(width)
        if given isa AbstractMatrix
            weights = Float64.(given[:, p])
        elseif given[p] >= 0
            weights = Float64.(1:width .== given[p] + 1)
        end
        evidence[block] = get(evidence, block, zeros(width)) .+ log.(weights)
    end
    return evidence
end

function block_logs(layer::InputLayer, b, values, x, sums)
    table = Float64.(layer.params[:, :, layer.groups[b]])
    value = x[layer.variables[b]]
    value >= 0 && return log.(table[value+1, :])
    return sums === logsum ? zeros(size(table, 2)) : log.(vec(maximum(table; dims = 1)))
end

function block_logs(layer::ProductLayer, b, values, x, sums)
    parts = [values[child] for child in layer.children[child_range(layer, b)]]
    layer.kind === :concat && return reduce(vcat, parts)
    layer.kind === :hadamard && return reduce(+, parts)
    return [u + v for u in parts[1] for v in parts[2]]
end

function block_logs(layer::SumLayer, b, values, x, sums)
    edges = child_range(layer, b)
    below = reduce(vcat, [values[layer.children[e]] for e in edges])
    weights = reduce(vcat, [Float64.(layer.weights[:, :, layer.groups[e]]) for e in edges])
    return [sums(log.(weights[:, i]) .+ below) for i in axes(weights, 2)]
end

"log p of one row under each root."
oracle_ll(circuit, x; kw...) =
    (v = node_logs(circuit, x; kw...); [v[r][1] for r in circuit.roots])
oracle_ll(circuit, x::AbstractMatrix) =
    reduce(hcat, [oracle_ll(circuit, c) for c in eachcol(x)])

"The log value of the best joint completion of variables and latents."
oracle_max(circuit, x) = oracle_ll(circuit, x; sums = maximum)

"Latent evidence of one row."
latents_at(latents, n) = Dict(k => selectdim(v, ndims(v), n) for (k, v) in latents)

"Σ weight · ∂ log p / ∂ log θ by central differences, as `Counts.layers`; zero where θ is."
function oracle_counts(
    circuit,
    x,
    weights = ones(length(circuit.roots), size(x, 2));
    latents = Dict(),
)
    exact = [owns_params(a) ? Float64.(layer_params(a)) : nothing for a in circuit.layers]
    function total(params)
        moved = with_params(circuit, params)
        return sum(axes(x, 2)) do n
            found = oracle_ll(moved, x[:, n]; latents = latents_at(latents, n))
            sum(w * f for (w, f) in zip(weights[:, n], found) if w != 0; init = 0.0)
        end
    end
    return map(eachindex(exact)) do i
        isnothing(exact[i]) && return nothing
        map(CartesianIndices(exact[i])) do at
            exact[i][at] == 0 && return 0.0
            up, down = map((1e-5, -1e-5)) do step
                params = Any[exact...]
                params[i] = copy(exact[i])
                params[i][at] *= exp(step)
                total(params)
            end
            (up - down) / 2e-5
        end
    end
end

"The variables of a block."
function scope_of(circuit, block)
    i = layer_of(circuit, block)
    layer, b = circuit.layers[i], block - circuit.starts[i] + 1
    layer isa InputLayer && return Set([Int(layer.variables[b])])
    return union((scope_of(circuit, c) for c in layer.children[child_range(layer, b)])...)
end

"Every completion of a row below a root."
function completions(circuit, x; root = 1)
    free = sort!([v for v in scope_of(circuit, circuit.roots[root]) if x[v] < 0])
    sizes = num_categories(circuit)
    return map(vec(collect(Iterators.product((0:(sizes[v]-1) for v in free)...)))) do choice
        row = Int32.(x)
        row[free] .= choice
        row
    end
end

latents_at_columns(latents, columns) =
    Dict(k => v isa Matrix ? v[:, columns] : v[:, :, columns] for (k, v) in latents)

mean_difference(a, b) = count(a .!= b) / length(a)

close_counts(found, expected; atol = 1e-5) =
    all(zip(found, expected)) do (a, b)
        isnothing(a) == isnothing(b) &&
            (isnothing(a) || isapprox(a, b; atol, norm = m -> maximum(abs, m)))
    end

soft_latents(circuit, name, count, seed) = rand(
    Xoshiro(seed),
    circuit.widths[layer_of(circuit, circuit.latents[name][1])],
    length(circuit.latents[name]),
    count,
)

same_logs(a, b; rtol = 1e-5, atol = 1e-6) =
    all(zip(a, b)) do (p, q)
        p == q || isapprox(p, q; rtol, atol)
    end

close_params(circuit, expected; atol = 2e-5) =
    all(zip(circuit.layers, expected)) do (a, b)
        isnothing(b) || isapprox(layer_params(a), b; atol, norm = m -> maximum(abs, m))
    end
