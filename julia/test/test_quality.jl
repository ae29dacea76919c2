@testset "Aqua" begin
    if Base.find_package("Aqua") === nothing
        @info "Aqua's checks are skipped: the package Aqua is not in this environment."
        @test_skip "Aqua"
    else
        @eval using Aqua
        Base.invokelatest(Aqua.test_all, JuiceBridge; persistent_tasks = false)
    end
end

@testset "every exported name has a docstring" begin
    for name in names(JuiceBridge)
        @test haskey(Base.Docs.meta(JuiceBridge), Base.Docs.Binding(JuiceBridge, name))
    end
end
