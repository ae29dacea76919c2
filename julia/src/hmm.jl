# Homogeneous hidden Markov models as circuits.

"""
    hmm(initial, transition, emission, length)

The circuit of a homogeneous hidden Markov model with `H` states and `V` tokens, for
sequences of `length` tokens, one variable each: p(x, z) = `initial[z_1] * emission[x_1,
z_1] * Π_t transition[z_t, z_(t-1)] * emission[x_t, z_t]`.

- `initial`: `[H]`, the distribution of the first state;
- `transition`: `[H, H]`, column `h` is the distribution of the state after `h`;
- `emission`: `[V, H]`, column `h` is the distribution of the token in state `h`.

One input layer, all blocks of one group; then, from the last position to the first, a
product (the position's input times the sum of the position after it) and a sum, which mixes
it by `transition`, at the first position by `initial`. All transition layers are tied to
the first of them. `latents["z"]` lists the product blocks.
"""
function hmm(
    initial::AbstractVector{<:AbstractFloat},
    transition::AbstractMatrix{<:AbstractFloat},
    emission::AbstractMatrix{<:AbstractFloat},
    length::Integer,
)
    states = Base.length(initial)
    size(transition) == (states, states) && states > 0 ||
        wrong_size("An HMM needs initial [H] and transition [H, H].")
    size(emission, 2) == states && !isempty(emission) ||
        wrong_size("emission must have the shape [V, $states].")
    length >= 1 || refuse("An HMM's circuit needs at least 1 position.")
    leaves = InputLayer(1:length, ones(Int, length), as_groups(emission))
    between, prior = as_groups(transition), reshape(Array(initial), states, 1, 1)
    layers = Layer[leaves]
    below = Int32[]
    for t = length:-1:1
        block = length + 2 * (length - t) + 1
        children = [Int32(t); below]
        push!(layers, ProductLayer(:hadamard, [1, Base.length(children) + 1], children))
        owner = 1 < t < length ? 3 : 0
        push!(layers, SumLayer([1, 2], [block], [1], t > 1 ? between : prior, owner))
        below = Int32[block+1]
    end
    products = [length + 2 * (length - t) + 1 for t = 1:length]
    return Circuit(
        length,
        layers,
        [3 * length];
        latents = Dict("z" => Vector{Int32}(products)),
        meta = Dict{String,Any}("structure" => "hmm", "latent_states" => states),
    )
end

as_groups(matrix) = reshape(Array(matrix), size(matrix)..., 1)

"""
    random_hmm(states, vocabulary, length; seed = default_rng())

The circuit of an [`hmm`](@ref) whose distributions are Dirichlet(1) draws.
"""
function random_hmm(states::Integer, vocabulary::Integer, length::Integer; seed = default_rng())
    states >= 1 && vocabulary >= 1 ||
        refuse("An HMM needs at least 1 state and 1 token.")
    rng = generator(seed)
    initial = dirichlet_columns(rng, states)
    transition = dirichlet_columns(rng, states, states)
    emission = dirichlet_columns(rng, vocabulary, states)
    return hmm(initial, transition, emission, length)
end
