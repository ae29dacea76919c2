"Mutual information of two columns by definition, over the rows where both are present."
function information_by_definition(a, b, sizes, pseudocount)
    table = fill(pseudocount / prod(sizes), sizes...)
    for (i, j) in zip(a, b)
        i == MISSING || j == MISSING || (table[i+1, j+1] += 1)
    end
    p = table ./ sum(table)
    terms = @. p * log(p / ($sum(p; dims = 2) * $sum(p; dims = 1)))
    return sum(t for (t, q) in zip(terms, p) if q > 0; init = 0.0)
end

function correlated(rows, seed)
    rng = Xoshiro(seed)
    x = rand(rng, Int32(0):Int32(4), 7, rows)
    x[4, :] = x[3, :]
    x[5, :] .= 1
    x[7, :] = mod.(x[6, :] .+ rand(rng, 0:1, rows), 5)
    x[1, rand(rng, rows).<0.7] .= 0
    return x
end

tree_edges(parents) = Set(minmax(v, Int(p)) for (v, p) in enumerate(parents) if p > 0)

@testset "mutual information by definition" begin
    sizes = [5, 5, 6, 5, 5, 5, 7]
    for x in (correlated(300, 1), random_rows(sizes, 200, 2), rand(0x00:0x04, 7, 50))
        for pseudocount in (0.0, 1.0, 3.5)
            found = mutual_information(x, sizes; pseudocount)
            expected = [
                i == j ? 0.0 :
                information_by_definition(
                    x[i, :],
                    x[j, :],
                    (sizes[i], sizes[j]),
                    pseudocount,
                ) for i = 1:7, j = 1:7
            ]
            @test maximum(abs, found - expected) < 6e-7
            @test found == found'
        end
    end
    @test mutual_information([0 1 -1; -1 -1 1], 2; pseudocount = 0)[1, 2] == 0
    @test_throws "variable 2" mutual_information([0 1; 0 2], 2)
    @test_throws ArgumentError mutual_information(zeros(Int, 2, 0), 2)
    @test_throws ArgumentError mutual_information([0 1], 2; bins = 0)
end

@testset "joint tables of any size and any number of variables" begin
    rng = Xoshiro(5)
    for (n, values) in ((3, 2), (9, 70), (17, 3), (2, 300))
        x = rand(rng, Int32(-1):Int32(values - 1), n, 90)
        found = mutual_information(x, values; bins = values, pseudocount = 0.5)
        i, j = 1, n
        expected = information_by_definition(x[i, :], x[j, :], (values, values), 0.5)
        @test found[i, j] ≈ expected atol = 6e-7
    end
end

@testset "bins" begin
    rng = Xoshiro(1)
    column = [rand(rng) < 0.8 ? 0 : rand(rng, 1:255) for _ = 1:4000]
    counts = JuiceBridge.value_counts(reshape(column, 1, :), [256])
    bin_of, used = JuiceBridge.bin_borders(counts, [256], 8)
    bins = bin_of[column.+2, 1]
    @test used == [8] && bin_of[1, 1] == 8
    @test all(bins[column.==0] .== 0) && all(bins[column.>0] .> 0)
    sizes = [count(==(b), bins) for b = 1:7]
    @test maximum(sizes) < 1.3 * minimum(sizes)
    @test issorted(bin_of[2:end, 1])
    for seed = 1:50
        column = rand(Xoshiro(seed), 0:40, rand(Xoshiro(seed), 1:60))
        counts = JuiceBridge.value_counts(reshape(column, 1, :), [41])
        bin_of, used = JuiceBridge.bin_borders(counts, [41], mod1(seed, 9))
        @test used[1] <= mod1(seed, 9)
        @test Set(bin_of[column.+2, 1]) == Set(0:(used[1]-1))
    end
end

"The greatest total weight of a spanning tree, by Kruskal's algorithm."
function kruskal(weights)
    n = size(weights, 1)
    part = collect(1:n)
    pairs = sort([(weights[i, j], i, j) for i = 1:n for j = 1:(i-1)]; rev = true)
    total = 0.0
    for (weight, i, j) in pairs
        part[i] == part[j] && continue
        total += weight
        replace!(part, part[i] => part[j])
    end
    return total
end

"Longest distance from each node of a tree."
function eccentricities(edges, n)
    far = fill(n, n, n)
    for v = 1:n
        far[v, v] = 0
    end
    for (a, b) in edges
        far[a, b] = far[b, a] = 1
    end
    for k = 1:n, i = 1:n, j = 1:n
        far[i, j] = min(far[i, j], far[i, k] + far[k, j])
    end
    return vec(maximum(far; dims = 2))
end

@testset "spanning trees" begin
    for n in (1, 2, 3, 8, 13), seed = 1:10
        weights = rand(Xoshiro(seed), n, n)
        weights += weights'
        parents = maximum_spanning_tree(weights)
        edges = tree_edges(parents)
        @test length(edges) == n - 1
        @test sum(weights[a, b] for (a, b) in edges; init = 0.0) ≈ kruskal(weights)
        @test findall(==(0), parents) == [argmin(eccentricities(edges, n))]
    end
    @test maximum_spanning_tree(zeros(4, 4)) == [0, 1, 1, 1]
    @test_throws ArgumentError maximum_spanning_tree([0 NaN; NaN 0])
    @test_throws ArgumentError maximum_spanning_tree(zeros(2, 3))
end

@testset "Chow-Liu trees" begin
    parents = chow_liu_tree(correlated(300, 1), 5; pseudocount = 0.0)
    @test (3, 4) in tree_edges(parents) && (6, 7) in tree_edges(parents)
    @test chow_liu_tree(zeros(UInt8, 3, 5), 2) == [0, 1, 1]
    @test chow_liu_tree(zeros(UInt8, 1, 5), 2) == [0]
    x = [mod(v * v * r + r ÷ v + (r ÷ 3) * (v ÷ 2), 23) for v = 1:12, r = 1:400]
    @test chow_liu_tree(x, 23) == [3, 3, 0, 2, 9, 3, 12, 6, 1, 2, 12, 2]
    @test chow_liu_tree(x, 23; bins = 4, pseudocount = 0.0) ==
          [3, 0, 2, 2, 9, 2, 9, 10, 3, 2, 9, 10]
end

@testset "levels" begin
    @test tree_levels([2, 0, 2, 1, 3, 1]) == [[2], [1, 3], [4, 6, 5]]
    @test_throws "exactly once" tree_levels([0, 0])
    @test_throws "cycle" tree_levels([0, 3, 2])
    @test_throws ArgumentError tree_levels([0, 5])
    @test_throws ArgumentError tree_levels(Int[])
end
