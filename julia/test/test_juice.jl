if Base.find_package("ProbabilisticCircuits") === nothing
    @info "The tests with Juice.jl are skipped: ProbabilisticCircuits is not in this environment."
    @testset "Juice.jl" begin
        @test_skip "ProbabilisticCircuits"
    end
else
    if Base.get_extension(JuiceBridge, :JuiceBridgeJuiceExt) === nothing
        @testset "a sentence without Juice.jl" begin
            for f in (to_juice, from_juice, load_juice, save_juice, juice_em)
                @test_throws BridgeError(
                    "$f needs Juice.jl: run `using ProbabilisticCircuits` first.",
                ) f()
            end
        end
    end
    include("juice_circuits.jl")
    include("juice_conversion.jl")
    include("juice_training.jl")
    include("juice_files.jl")
end
