# Circuits for the engine's tests: one of every kind, and random ones with ragged sums and
# ties.

using Random: AbstractRNG, Xoshiro, shuffle

"Four variables in pairs twice over: a random sum-product network."
function small_rat_spn(seed)
    scopes = [[1, 2, 3, 4], [1, 2], [3, 4], [1, 3], [2, 4], [1], [2], [3], [4]]
    partitions = [(1, 2, 3), (1, 4, 5), (2, 6, 7), (3, 8, 9), (4, 6, 8), (5, 7, 9)]
    return rat_spn(RegionGraph(4, scopes, partitions), 2, 2, [2, 3, 2, 2]; seed)
end

const ENGINE_CIRCUITS = Dict(
    "hclt" => hclt([2, 0, 2, 3], 3, [2, 3, 2, 3]; seed = 1),
    "hmm" => random_hmm(3, 3, 4; seed = 2),
    "bundle" => patch_bundle([0, 1], 2, 2, [2, 3]; seed = 3),
    "glued" => glue(
        hclt([0, 1], 2, 3; seed = 4),
        patch_bundle([2, 0], 3, 2, 2; seed = 5),
        [1 3; 4 2],
    ),
    "rat_spn" => small_rat_spn(7),
    "mixture" => mixture(4, 2, 6),
)

"Circuits whose latents have a state for certain, so that a posterior sums to one."
const WITH_LATENT = ("hclt", "hmm", "glued")

rows_of(circuit, count, seed; missing_share = 0.2) =
    random_rows(num_categories(circuit), count, seed; missing_share)

# Random circuits --------------------------------------------------------------------------

"Blocks made for every scope."
const COPIES = 2

struct Maker{R<:AbstractRNG}
    rng::R
    layers::Vector{Layer}
end

function add!(maker::Maker, layer)
    first = sum(num_blocks, maker.layers; init = 0) + 1
    push!(maker.layers, layer)
    return collect(first:(first+num_blocks(layer)-1))
end

width_of(maker::Maker, block) =
    (c = Circuit(1, maker.layers, [1]); c.widths[JuiceBridge.layer_of(c, block)])

"A circuit over `n` variables whose structure, ties and parameters follow from `seed`."
function random_circuit(seed, n)
    maker = Maker(Xoshiro(seed), Layer[])
    top = region!(maker, collect(1:n))
    root = mix!(maker, top, 1, 1)
    return Circuit(n, maker.layers, root; latents = Dict("z" => Int32[top[1]]))
end

"`COPIES` blocks of width 2 over the variables."
function region!(maker::Maker, variables)
    rng = maker.rng
    if length(variables) == 1
        groups = rand(rng) < 0.5 ? ones(Int, COPIES) : collect(1:COPIES)
        params = Float64.(columns(rng, 2 + variables[1] % 2, 2, maximum(groups)))
        return add!(maker, InputLayer(fill(variables[1], COPIES), groups, params))
    end
    kind = rand(rng, (:hadamard, :kronecker))
    cuts = kind === :kronecker ? 1 : rand(rng, 1:min(2, length(variables) - 1))
    at = [0; sort!(shuffle(rng, 1:(length(variables)-1))[1:cuts]); length(variables)]
    parts = [region!(maker, variables[(at[k]+1):at[k+1]]) for k = 1:(length(at)-1)]
    children = [rand(rng, part) for _ = 1:COPIES for part in parts]
    offsets = 1 .+ length(parts) .* (0:COPIES)
    below = add!(maker, ProductLayer(kind, offsets, children))
    rand(rng) < 0.6 && return mix!(maker, below, 2, COPIES)
    heads = mix!(maker, below, 1, 2 * COPIES)
    return add!(maker, ProductLayer(:concat, 1 .+ 2 .* (0:COPIES), heads))
end

"Sums of one or two edges; those of as many share their groups, or none do."
function mix!(maker::Maker, below, width, blocks)
    rng = maker.rng
    counts = rand(rng) < 0.4 ? rand(rng, 1:2, blocks) : fill(rand(rng, 1:2), blocks)
    tied, width_in = rand(rng) < 0.5, width_of(maker, below[1])
    weights, families, groups = Matrix{Float64}[], Dict{Int,Vector{Int}}(), Int[]
    for (block, edges) in enumerate(counts)
        family = get!(families, tied ? edges : block + 10) do
            rows = Float64.(columns(rng, edges * width_in, width))
            append!(weights, [rows[(width_in*(e-1)+1):(width_in*e), :] for e = 1:edges])
            collect((length(weights)-edges+1):length(weights))
        end
        append!(groups, family)
    end
    children = rand(rng, below, length(groups))
    offsets = cumsum([1; counts])
    return add!(maker, SumLayer(offsets, children, groups, stack(weights)))
end

"Rows raised to random powers; what float32 cannot hold as a parameter is zero."
function sharpened(circuit, power, seed)
    rng = Xoshiro(seed)
    sharp = map(circuit.layers) do layer
        JuiceBridge.owns_params(layer) || return nothing
        raised = Float64.(layer_params(layer)) .^ rand(rng, 1:(power-1))
        for family in families_of(layer), o in axes(raised, 2)
            raised[:, o, family] ./= sum(raised[:, o, family])
        end
        return Float32.(ifelse.(raised .< 1e-30, 0.0, raised))
    end
    return with_params(circuit, sharp)
end

families_of(layer::InputLayer) = [[g] for g in axes(layer.params, 3)]
families_of(layer::SumLayer) = unique([
    Int.(layer.groups[JuiceBridge.child_range(layer, b)]) for b = 1:num_blocks(layer)
])

"What is counted at roots that are leaves, one of them a factor of another root, too."
function test_leaf_roots(device)
    leaves = InputLayer([1, 2], [1, 2], fill(0.5f0, 2, 1, 2))
    circuit = Circuit(2, [leaves, ProductLayer(:hadamard, [1, 3], [1, 2])], [1, 3])
    x = [1 1 0 1; 0 1 1 MISSING]
    @test log_likelihood(circuit, x; device) ≈ log.([0.5 0.5 0.5 0.5; 0.25 0.25 0.25 0.5])
    @test expected_counts(circuit, x; device).layers[1][:, 1, :] == [2 1; 6 2]
    trained = fit(circuit, x; optimizer = :full_em, epochs = 1, pseudocount = 0, device)
    @test trained.circuit.layers[1].params[:, 1, :] ≈ [1/4 1/3; 3/4 2/3]
end
