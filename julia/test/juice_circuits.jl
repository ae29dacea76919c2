# Circuits of Juice.jl for the tests, and ours of every kind.

import ProbabilisticCircuits as Juice
using Random: randperm, shuffle

"Our circuits, and the root to convert."
function circuits_for_juice()
    bundle = patch_bundle(Int32[0, 1, 1], 3, 2, 4; seed = 5)
    latent = hclt(Int32[2, 0], 2, 3; seed = 6)
    halves = [[1, 2, 3], [1, 2], [3], [1], [2, 3], [2]]
    graph = RegionGraph(3, halves, [(1, 2, 3), (1, 4, 5), (2, 4, 6), (5, 6, 3)])
    certain = latent_circuit([0 1 2 1; 1 0 2 0], 3; pseudocount = 0, epsilon = 0)
    return [
        "hclt" => (hclt(random_tree(6, 1), 3, 4; seed = 1), 1),
        "hclt, mixed" => (hclt(random_tree(5, 2), 2, [2, 3, 4, 3, 2]; seed = 2), 1),
        "hmm" => (random_hmm(3, 4, 5; seed = 3), 1),
        "mixture" => (mixture(4, 3, 4), 1),
        "mixture, second root" => (mixture(4, 3, 4), 2),
        "patch bundle" => (bundle, 2),
        "glued patches" => (glue(latent, bundle, [1 4; 2 5; 3 6]), 1),
        "rat-spn" => (rat_spn(graph, 2, 2, 3; seed = 7), 1),
        "zeros" => (certain, 1),
    ]
end

"Juice's log-likelihoods of rows `[num_vars, rows]`."
juice_logs(pc, x) =
    Float64.(Juice.loglikelihoods(pc, Matrix(juice_rows(x)); batch_size = 16))

"Equal logarithms, -Inf included, to what Float32 can tell."
agree(a, b) =
    length(a) == length(b) &&
    all(u == v || isapprox(u, v; rtol = 1e-5, atol = 1e-5) for (u, v) in zip(a, b))

"""
A random circuit over `count` variables of three values: sums and products of all shapes,
which share nodes, with input nodes of all kinds.
"""
function random_juice(count, seed)
    rng = Xoshiro(seed)
    made = Dict{Vector{Int},Vector{Juice.PlainProbCircuit}}()
    return random_sum(rng, collect(1:count), made)
end

function random_sum(rng, scope, made)
    inputs = Juice.PlainProbCircuit[random_part(rng, scope, made) for _ = 1:rand(rng, 1:4)]
    weights = log.(columns(rng, length(inputs)))
    node = Juice.PlainSumNode(inputs, weights)
    push!(get!(() -> [], made, scope), node)
    return node
end

"A node with this scope, new or known, to be mixed or multiplied."
function random_part(rng, scope, made)
    known = get(made, scope, nothing)
    known !== nothing && rand(rng) < 0.5 && return rand(rng, known)
    length(scope) == 1 && return random_input(rng, scope[1])
    rand(rng) < 0.2 && return random_sum(rng, scope, made)
    cut = rand(rng, 1:(length(scope)-1))
    parts = scope[randperm(rng, length(scope))]
    sides = [sort(parts[1:cut]), sort(parts[(cut+1):end])]
    factors = [
        rand(rng, Bool) ? random_sum(rng, s, made) : random_part(rng, s, made) for
        s in sides
    ]
    node = Juice.multiply(Juice.PlainProbCircuit[factors...])
    push!(get!(() -> [], made, scope), node)
    return node
end

function random_input(rng, variable)
    kind = rand(rng, 1:4)
    kind == 1 && return Juice.PlainInputNode(variable, Juice.Indicator(rand(rng, 0:2)))
    kind == 2 && return Juice.PlainInputNode(variable, Juice.Literal(rand(rng, Bool)))
    kind == 3 && return Juice.PlainInputNode(variable, Juice.Binomial(2, rand(rng)))
    return Juice.PlainInputNode(variable, Juice.Categorical(log.(columns(rng, 3))))
end
