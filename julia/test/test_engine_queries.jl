# Samples, most probable explanations and posteriors against enumeration.

const DRAWS = 4000

"""
Pearson's chi-square of draws against enumerated probabilities, rare ones pooled; the limit
is some four standard deviations above its mean.
"""
function follows(
    circuit,
    drawn;
    evidence = fill(-1, circuit.num_vars),
    root = 1,
    latents = Dict(),
)
    rows = completions(circuit, evidence; root)
    logs = [oracle_ll(circuit, row; latents)[root] for row in rows]
    expected = exp.(logs .- logsum(logs)) .* size(drawn, 2)
    place = Dict(row => k for (k, row) in enumerate(rows))
    counts = zeros(length(rows))
    foreach(row -> counts[place[row]] += 1, eachcol(drawn))
    any(counts[expected.==0] .> 0) && return false
    rare = 0 .< expected .< 5
    kept = expected .>= 5
    chi = sum((counts[kept] .- expected[kept]) .^ 2 ./ expected[kept])
    if any(rare)
        chi += (sum(counts[rare]) - sum(expected[rare]))^2 / max(1, sum(expected[rare]))
    end
    freedom = count(kept) + any(rare) - 1
    return chi <= freedom + 4 * sqrt(2 * freedom) + 8
end

@testset "samples of a $name" for (name, circuit) in ENGINE_CIRCUITS
    for root in eachindex(circuit.roots)
        drawn = sample(circuit, DRAWS; seed = 1, root)
        @test drawn isa Matrix{Int32} && size(drawn) == (circuit.num_vars, DRAWS)
        @test follows(circuit, drawn; root)
    end
    evidence = rows_of(circuit, 3, 2; missing_share = 0.5)
    drawn = sample(circuit, DRAWS; evidence, seed = 3)
    @test size(drawn) == (circuit.num_vars, DRAWS, 3)
    @test all(n -> follows(circuit, drawn[:, :, n]; evidence = evidence[:, n]), 1:3)
    @test drawn == sample(circuit, DRAWS; evidence, seed = 3)
    @test drawn != sample(circuit, DRAWS; evidence, seed = 4)
end

@testset "samples of random circuits" begin
    for seed = 1:15
        circuit = random_circuit(seed, 2 + seed % 4)
        @test follows(circuit, sample(circuit, DRAWS; seed))
    end
end

@testset "samples given latents" begin
    for name in WITH_LATENT
        circuit = ENGINE_CIRCUITS[name]
        z = Int32[-1 0; 1 -1; 0 -1; 1 -1][1:length(circuit.latents["z"]), :]
        drawn = sample(circuit, DRAWS; latents = Dict("z" => z), seed = 4)
        for n = 1:2
            @test follows(circuit, drawn[:, :, n]; latents = Dict("z" => z[:, n]))
        end
    end
end

@testset "variables of other roots stay missing" begin
    drawn = sample(ENGINE_CIRCUITS["bundle"], 5; seed = 1, root = 2)
    @test all(drawn[1:2, :] .== -1) && all(drawn[3:4, :] .>= 0)
end

@testset "best joint state of a $name" for (name, circuit) in merge(
    ENGINE_CIRCUITS,
    Dict("random $s" => random_circuit(s, 5) for s = 1:8),
)
    evidence =
        [rows_of(circuit, 20, 6; missing_share = 0.5) fill(Int32(-1), circuit.num_vars)]
    for root in eachindex(circuit.roots)
        x, value = mpe(circuit, evidence; root)
        expected = [oracle_max(circuit, row)[root] for row in eachcol(evidence)]
        @test value ≈ expected rtol = 1e-12
        @test [oracle_max(circuit, row)[root] for row in eachcol(x)] ≈ expected rtol = 1e-12
        @test all(x[evidence.>=0] .== evidence[evidence.>=0])
        scope = sort!(collect(scope_of(circuit, circuit.roots[root])))
        @test all(x[scope, :] .>= 0)
    end
end

@testset "the best states of an HMM are Viterbi's" begin
    circuit = random_hmm(3, 4, 5; seed = 7)
    owned = [a for a in circuit.layers if a isa SumLayer && a.tied_to == 0]
    transition = log.(Float64.(owned[1].weights[:, :, 1]))  # next × state
    initial = log.(Float64.(owned[end].weights[:, 1, 1]))
    emission = log.(Float64.(circuit.layers[1].params[:, :, 1]))
    x = rows_of(circuit, 10, 8; missing_share = 0)
    for (row, value) in zip(eachcol(x), mpe(circuit, x)[2])
        score = initial .+ emission[row[1]+1, :]
        for symbol in row[2:end]
            score = vec(maximum(transition .+ score'; dims = 2)) .+ emission[symbol+1, :]
        end
        @test value ≈ maximum(score) rtol = 1e-12
    end
end

@testset "posteriors of a $name" for name in WITH_LATENT
    circuit = ENGINE_CIRCUITS[name]
    x = rows_of(circuit, 5, 9; missing_share = 0.4)
    found = posteriors(circuit, x, "z")
    @test found isa Array{Float32,3}
    @test all(s -> isapprox(s, 1; atol = 1e-5), sum(found; dims = 1))
    positions = size(found, 2)
    for n in axes(x, 2), p = 1:positions, j in axes(found, 1)
        z = fill(-1, positions)
        z[p] = j - 1
        joint = oracle_ll(circuit, x[:, n]; latents = Dict("z" => z))[1]
        @test found[j, p, n] ≈ exp(joint - oracle_ll(circuit, x[:, n])[1]) atol = 1e-5
    end
end

@testset "posteriors of blocks of every kind" begin
    for seed = 1:12
        plain = random_circuit(seed, 4)
        names = Dict("b$b" => Int32[b] for b = 1:num_blocks(plain))
        circuit = Circuit(4, plain.layers, plain.roots; latents = names)
        x = rows_of(circuit, 3, seed)
        for b = 1:num_blocks(plain)
            found = posteriors(circuit, x, "b$b")
            for n = 1:3
                # The flow of a node is ∂ log p / ∂ log of its value.
                width = size(found, 1)
                function moved(j, step)
                    soft = ones(width, 1)
                    soft[j] = exp(step)
                    return oracle_ll(circuit, x[:, n]; latents = Dict("b$b" => soft))[1]
                end
                slope = [(moved(j, 1e-5) - moved(j, -1e-5)) / 2e-5 for j = 1:width]
                @test found[:, 1, n] ≈ slope atol = 1e-5
            end
        end
    end
end

@testset "impossible evidence" begin
    emission = [0.5 0.25; 0.5 0.75; 0.0 0.0]
    circuit = hmm([0.5, 0.5], [0.9 0.1; 0.1 0.9], emission, 3)
    evidence = Int32[0 -1; -1 2; 1 0]
    @test_throws "Column 2" sample(circuit, 2; evidence, seed = 0)
    @test_throws "row 1, counted from zero" posteriors(circuit, evidence, "z")
    value = mpe(circuit, evidence)[2]
    @test isfinite(value[1]) && value[2] == -Inf
    drawn = sample(circuit, DRAWS; evidence = evidence[:, 1:1], seed = 1)
    @test follows(circuit, drawn[:, :, 1]; evidence = evidence[:, 1])
end

@testset "no rows, no latent, no root" begin
    circuit = ENGINE_CIRCUITS["hclt"]
    none = zeros(Int32, circuit.num_vars, 0)
    @test size(sample(circuit, 2; evidence = none, seed = 0)) == (circuit.num_vars, 2, 0)
    x, value = mpe(circuit, none)
    @test size(x) == size(none) && isempty(value)
    @test size(posteriors(circuit, none, "z")) == (3, 4, 0)
    x = rows_of(circuit, 2, 1)
    @test_throws "it has: z" posteriors(circuit, x, "w")
    @test_throws "root is 2" mpe(circuit, x; root = 2)
    @test_throws "root is 0" sample(circuit, 1; seed = 1, root = 0)
end
