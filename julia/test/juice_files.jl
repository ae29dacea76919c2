@testset ".jpc round trip: $name" for (name, (circuit, root)) in circuits_for_juice()
    mktempdir() do folder
        x = random_rows(max.(num_categories(circuit), 1), 20, 21)
        path = joinpath(folder, "model.jpc")
        save_juice(circuit, path; root)
        @test readdir(folder) == ["model.jpc"]
        logs = log_likelihood(circuit, x)[root, :]
        @test agree(juice_logs(read(path, Juice.ProbCircuit), x), logs)
        again = load_juice(path; circuit.num_vars)
        @test agree(log_likelihood(again, x)[1, :], logs)
        save_juice(again, path * ".gz")
        @test agree(
            log_likelihood(load_juice(path * ".gz"; circuit.num_vars), x)[1, :],
            logs,
        )
        # What Juice reads and writes again is the same text.
        written = joinpath(folder, "again.jpc")
        write(written, read(path, Juice.ProbCircuit))
        @test read(written) == read(path)
    end
end

@testset "input nodes of all kinds in .jpc files" begin
    x = reduce(hcat, collect.(all_rows(fill(4, 3)))) .- 1
    for seed = 1:10
        pc = random_juice(3, seed)
        mktempdir() do folder
            path = joinpath(folder, "random.jpc")
            write(path, pc)
            circuit = load_juice(path; num_vars = 3, categories = 3)
            @test agree(vec(log_likelihood(circuit, x)), juice_logs(pc, x))
        end
    end
end

@testset "files that cannot be read or written" begin
    mktempdir() do folder
        circuit = hclt(Int32[0, 1], 2, 2; seed = 1)
        bad = joinpath(folder, "bad.jpc")
        write(bad, "jpc 2\nQ what is this\n")
        @test_throws r"bad.jpc: Juice.jl cannot read it" load_juice(bad)
        @test_throws r"there is no such file" load_juice(joinpath(folder, "none.jpc"))
        @test_throws r"must end in .jpc" load_juice(joinpath(folder, "model.h5"))
        @test_throws r"must end in .jpc" save_juice(circuit, joinpath(folder, "model.psdd"))
        @test_throws r"cannot be written" save_juice(
            circuit,
            joinpath(folder, "no", "model.jpc"),
        )
        @test readdir(folder) == ["bad.jpc"]
    end
end
