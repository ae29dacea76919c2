# Starting parameters: columns drawn uniformly from the simplex, or uniform ones.

"""
    dirichlet_columns(rng, dims...)

`Array{Float32}` of size `dims` whose first dimension holds independent Dirichlet(1) draws:
exponential variates, normalised in double precision.
"""
function dirichlet_columns(rng::AbstractRNG, dims::Integer...)
    out = Array{Float32}(undef, dims...)
    draws = Vector{Float64}(undef, dims[1])
    for column in eachcol(reshape(out, dims[1], :))
        randexp!(rng, draws)
        column .= draws ./ sum(draws)
    end
    return out
end

"Without a generator the columns are uniform."
dirichlet_columns(::Nothing, dims::Integer...) = fill(1 / Float32(dims[1]), dims)

"The generator a builder draws from: `rng` itself, or a new one seeded by a number."
generator(seed) = Xoshiro(seed_number(seed))
generator(rng::AbstractRNG) = rng

"The same, or `nothing`, where a builder may leave uniform columns."
generator_or_none(seed) = isnothing(seed) ? nothing : generator(seed)

"`categories` (one number, or one per variable) as a vector of `number` positive numbers."
function category_vector(categories, number)
    fits = categories isa Integer || length(categories) == number
    if !(fits && all(c -> c isa Integer && c >= 1, categories))
        refuse("categories must be a positive integer, or a vector of $number of them.")
    end
    return categories isa Integer ? fill(Int(categories), number) : Vector{Int}(categories)
end
