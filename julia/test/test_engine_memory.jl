# The inner loop allocates nothing: both passes over a batch reuse their buffers.

const Inner = JuiceBridge

"A pass over `count` rows after a first one, and what its parts allocate."
function allocated_bytes(circuit, count; latents = nothing)
    x = rows_of(circuit, count, 1; missing_share = 0.1)
    return Inner.with_engine() do
        pass = Inner.prepare(circuit, "cpu", Float32)
        counts = Inner.new_counts(pass)
        weights = ones(Float32, count, length(circuit.roots))
        evidence = Inner.evidence_on_device(Array, latents, Float32)
        rows = Inner.Rows(x, weights, evidence)
        columns = collect(Int32, 1:count)
        bytes = 0
        for _ = 1:2
            bytes = measured!(pass, counts, rows, columns)
        end
        return bytes
    end
end

"Bytes allocated by a batch: reading it, upward, downward; and by the M-step."
function measured!(pass, counts, rows, columns)
    batch = @allocated Inner.collect!(pass, counts, rows, columns)
    step = @allocated Inner.m_step!(pass, counts, 0.1, 0.1)
    return batch, step
end

@testset "a batch allocates nothing that grows" begin
    if Threads.nthreads() == 1
        tree(n) = [v == 1 ? 0 : v ÷ 2 for v = 1:n]
        deep, wide = hclt([0; 1:19], 8, 4; seed = 1), hclt(tree(40), 8, 4; seed = 1)
        chains = [random_hmm(8, 16, length; seed = 1) for length in (4, 16)]
        others = values(ENGINE_CIRCUITS)
        for circuit in (deep, wide, chains..., others...)
            few, many = (allocated_bytes(circuit, count) for count in (16, 128))
            @test first(many) < 4000
            @test first(many) <= first(few) + 100
            @test last(many) < 20_000
        end
    end
end

@testset "with threads, it is the tasks that allocate" begin
    circuit = hclt([v == 1 ? 0 : v ÷ 2 for v = 1:40], 8, 4; seed = 1)
    few, many = (first(allocated_bytes(circuit, count)) for count in (64, 512))
    layers = length(circuit.layers)
    @test max(few, many) < 1500 + 4000 * layers * Threads.nthreads()
end

@testset "a batch is cut to bounded memory" begin
    circuit = hclt([v == 1 ? 0 : v ÷ 2 for v = 1:40], 8, 4; seed = 1)
    x = rows_of(circuit, 300, 1)
    pass = Inner.prepare(circuit, "cpu", Float32)
    widest = maximum(Inner.kept_values, pass.program.plans)
    @test Inner.micro_batch(pass) * widest * 4 <= Inner.TILE_BYTES
    @test reduce(vcat, Inner.cut_rows(10, 4)) == 1:10
    @test maximum(length, Inner.cut_rows(10, 4)) == 4
    # Counts are sums over rows: in parts they are the same.
    whole = expected_counts(circuit, x)
    parts = [expected_counts(circuit, x[:, rows]) for rows in (1:100, 101:300)]
    for (i, counted) in enumerate(whole.layers)
        isnothing(counted) && continue
        @test counted ≈ parts[1].layers[i] .+ parts[2].layers[i] rtol = 1e-4
    end
end

@testset "half the rows at a time where memory runs out" begin
    circuit = ENGINE_CIRCUITS["glued"]
    x = rows_of(circuit, 30, 1)
    pass = Inner.prepare(circuit, "cpu", Float32)
    rows = Inner.Rows(x, ones(Float32, 30, 1), Inner.Evidence())
    whole, halves = Inner.new_counts(pass), Inner.new_counts(pass)
    expected = Inner.collect!(pass, whole, rows, 1:30)
    @test_logs (:warn, r"with 15 rows") Inner.halve_limit!(pass, 30)
    @test Inner.collect!(pass, halves, rows, 1:30) ≈ expected
    @test Inner.micro_batch(pass) == 15
    @test all(((a, b),) -> a ≈ b, zip(whole, halves))
end

@testset "settings of the machine come back" begin
    threads = Inner.BLAS.get_num_threads()
    Inner.BLAS.set_num_threads(2)
    flushed = get_zero_subnormals()
    log_likelihood(ENGINE_CIRCUITS["hclt"], rows_of(ENGINE_CIRCUITS["hclt"], 3, 1))
    @test Inner.BLAS.get_num_threads() == 2
    @test get_zero_subnormals() == flushed
    inside = Inner.with_engine(() -> (get_zero_subnormals(), Inner.BLAS.get_num_threads()))
    @test inside == (true, 1)
    Inner.BLAS.set_num_threads(threads)
end
