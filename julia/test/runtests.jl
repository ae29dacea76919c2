using Test
using JuiceBridge
using JuiceBridge: Counts, Epoch, Layer, check, fit, glue, sample
using JuiceBridge: maximum_spanning_tree, mutual_information, tree_levels
using StableRNGs: StableRNG

"All Julia files in some folders of the package."
function source_files(folders...)
    root = joinpath(@__DIR__, "..")
    files = String[]
    for folder in folders, (path, _, found) in walkdir(joinpath(root, folder))
        append!(files, joinpath.(path, filter(endswith(".jl"), found)))
    end
    return files
end

include("circuits.jl")
include("oracle.jl")
include("engine_oracle.jl")
include("engine_circuits.jl")

@testset "JuiceBridge" begin
    include("test_check.jl")
    include("test_files.jl")
    include("test_trees.jl")
    include("test_builders.jl")
    include("test_region_graph.jl")
    include("test_counting.jl")
    include("test_growing.jl")
    include("test_doubling.jl")
    include("test_families.jl")
    include("test_show.jl")
    include("test_serve.jl")
    include("test_juice.jl")
    include("test_print_tree.jl")
    include("test_page.jl")
    include("test_examples.jl")
    include("test_engine.jl")
    include("test_arguments.jl")
    include("test_engine_training.jl")
    include("test_engine_underflow.jl")
    include("test_engine_queries.jl")
    include("test_engine_memory.jl")
    include("test_engine_arrays.jl")
    include("test_quality.jl")
end
