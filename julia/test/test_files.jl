using Test
@testset "files" begin end
