# Homogeneous hidden Markov models as circuits.

"""
    hmm(initial, transition, emission, steps)

The circuit of a homogeneous hidden Markov model with `H` states and `V` tokens, for
sequences of `steps` tokens, one variable each: p(x, z) = `initial[z_1] * emission[x_1,
z_1] * Π_t transition[z_t, z_(t-1)] * emission[x_t, z_t]`.

- `initial`: `[H]`, the distribution of the first state;
- `transition`: `[H, H]`, column `h` is the distribution of the state after `h`;
- `emission`: `[V, H]`, column `h` is the distribution of the token in state `h`.

One input layer, all blocks of one group; then, from the last position to the first, a
product (the position's input times the sum of the position after it) and a sum, which mixes
it by `transition`, at the first position by `initial`. All transition layers are tied to
the first of them. `latents["z"]` lists the product blocks.

```jldoctest
julia> weather = hmm([0.5, 0.5], [0.75 0.25; 0.25 0.75], [1.0 0.0; 0.0 1.0], 3);

julia> x = [0 0; 0 1; 0 0];                # two sequences of three tokens

julia> round.(exp.(log_likelihood(weather, x)); digits = 6)
1×2 Matrix{Float64}:
 0.28125  0.03125
```
"""
function hmm(
    initial::AbstractVector{<:AbstractFloat},
    transition::AbstractMatrix{<:AbstractFloat},
    emission::AbstractMatrix{<:AbstractFloat},
    steps::Integer,
)
    states = length(initial)
    size(transition) == (states, states) && states > 0 ||
        wrong_size("An HMM needs initial [H] and transition [H, H].")
    size(emission, 2) == states && !isempty(emission) ||
        wrong_size("emission must have the shape [V, $states].")
    steps >= 1 || refuse("An HMM's circuit needs at least 1 position.")
    leaves = InputLayer(1:steps, ones(Int, steps), as_groups(emission))
    between, prior = as_groups(transition), reshape(Array(initial), states, 1, 1)
    layers = Layer[leaves]
    below = Int32[]
    for t = steps:-1:1
        block = steps + 2 * (steps - t) + 1
        children = [Int32(t); below]
        push!(layers, ProductLayer(:hadamard, [1, length(children) + 1], children))
        owner = 1 < t < steps ? 3 : 0
        push!(layers, SumLayer([1, 2], [block], [1], t > 1 ? between : prior, owner))
        below = Int32[block+1]
    end
    products = [steps + 2 * (steps - t) + 1 for t = 1:steps]
    return Circuit(
        steps,
        layers,
        [3 * steps];
        latents = Dict("z" => Vector{Int32}(products)),
        meta = Dict{String,Any}("structure" => "hmm", "latent_states" => states),
    )
end

as_groups(matrix) = reshape(Array(matrix), size(matrix)..., 1)

"""
    random_hmm(states, vocabulary, steps; seed = default_rng())

The circuit of an [`hmm`](@ref) whose distributions are Dirichlet(1) draws.
"""
function random_hmm(
    states::Integer,
    vocabulary::Integer,
    steps::Integer;
    seed = default_rng(),
)
    states >= 1 && vocabulary >= 1 || refuse("An HMM needs at least 1 state and 1 token.")
    rng = generator(seed)
    initial = dirichlet_columns(rng, states)
    transition = dirichlet_columns(rng, states, states)
    emission = dirichlet_columns(rng, vocabulary, states)
    return hmm(initial, transition, emission, steps)
end
