# Small circuits of every kind, for tests.

using Random: Xoshiro

columns(rng, dims...) = JuiceBridge.dirichlet_columns(rng, dims...)

"Two roots: a sum over Kronecker and Hadamard-of-sums parts, and one over a concat."
function mixture(variables, values, seed)
    rng = Xoshiro(seed)
    n, half = 2 * variables, variables ÷ 2
    inputs = InputLayer(repeat(1:variables, 2), 1:n, columns(rng, values, 2, n))
    offsets = [1, half + 1, variables + 1, variables + half + 1, n + 1]
    sides = ProductLayer(:hadamard, offsets, 1:n)
    cross = ProductLayer(:kronecker, [1, 3, 5], (n+1):(n+4))
    halves = reshape(columns(rng, 8, 1), 4, 1, 2)
    weights = cat(halves, columns(rng, 4, 1, 1); dims = 3)
    mixed = SumLayer([1, 3, 4], [n + 5, n + 6, n + 6], 1:3, weights)
    pair = ProductLayer(:concat, [1, 3], [n + 7, n + 8])
    top = SumLayer([1, 2], [n + 9], [1], columns(rng, 2, 1, 1))
    return Circuit(
        variables,
        Layer[inputs, sides, cross, mixed, pair, top],
        [n + 7, n + 10];
        latents = Dict("z" => Int32[n+9], "w" => Int32[n+5]),
        meta = Dict{String,Any}("note" => "a mixture", "count" => 3, "share" => 0.25),
    )
end

random_tree(n, seed) = Int32[v == 1 ? 0 : rand(Xoshiro(seed + v), 1:(v-1)) for v = 1:n]

"`[num_vars, rows]` with a share of missing values."
function random_rows(sizes, count, seed; missing_share = 0.2)
    rng = Xoshiro(seed)
    x = Int32[rand(rng, 0:(size-1)) for size in sizes, _ = 1:count]
    x[rand(rng, size(x)...).<missing_share] .= MISSING
    return x
end
