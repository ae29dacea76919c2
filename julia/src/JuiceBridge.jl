"""
Probabilistic circuits in layers of blocks: files, builders, and training by EM.

    using JuiceBridge
    circuit = load_circuit("model.h5")
    log_likelihood(circuit, x)          # x: [num_vars, rows] integers, -1 where missing

A circuit is data ([`Circuit`](@ref), [`InputLayer`](@ref), [`ProductLayer`](@ref),
[`SumLayer`](@ref)); builders make it, the engine runs it, HDF5 files keep it.
"""
module JuiceBridge

using HDF5: HDF5, API
using JSON3: JSON3
using PrecompileTools: @compile_workload
using Random: AbstractRNG, RandomDevice, Xoshiro, default_rng, randexp!, randstring, shuffle

export BridgeError, MISSING
export InputLayer, ProductLayer, SumLayer, Circuit
export num_blocks, num_parameters, num_categories, layer_of, layer_params, with_params
export hidden_tree, print_tree, chow_liu_tree
export load_circuit, save_circuit, Assignments, load_assignments, save_assignments
export hclt, hmm, random_hmm, patch_bundle, rat_spn, region_circuit, tucker_circuit
export RegionGraph, load_region_graph, save_region_graph, random_region_graph, tree_regions
export quad_tree, quad_graph, poon_domingos, latent_regions
export count_parameters, latent_circuit, choose_roots, with_dictionary
export compiled, log_likelihood, expected_counts, mpe, posteriors
export FitOptions, Schedule, FitResult
export to_juice, from_juice, load_juice, save_juice, juice_rows, from_juice_rows, juice_em
# Names that others have, too: take them with `using JuiceBridge: check, congruent, double, fit, glue,
# grow, narrow, prune, sample`, and leaf families, `Categorical`, `Smooth`, `Gaussian`, `Logistic` and `Binomial`, likewise.

include("families.jl")
include("types.jl")
include("ties.jl")
include("scopes.jl")
include("check.jl")
include("hdf5.jl")
include("hdf5_attributes.jl")
include("files.jl")
include("rows.jl")
include("mutual_information.jl")
include("trees.jl")
include("hclt.jl")
include("hmm.jl")
include("patches.jl")
include("region_graph.jl")
include("region_rectangles.jl")
include("region_circuit.jl")
include("rat_spn.jl")
include("counting.jl")
include("growing.jl")
include("doubling.jl")
include("dictionary.jl")
include("print_tree.jl")
include("engine/engine.jl")
include("show.jl")
include("engine/workload.jl")
include("serve.jl")
include("juice.jl")
include("serve_workload.jl")

end
