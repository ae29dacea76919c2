"""
Probabilistic circuits in layers of blocks: files, builders, and training by EM.

    using JuiceBridge
    circuit = load_circuit("model.h5")
    log_likelihood(circuit, x)          # x: [num_vars, rows] integers, -1 where missing

A circuit is data ([`Circuit`](@ref), [`InputLayer`](@ref), [`ProductLayer`](@ref),
[`SumLayer`](@ref)); builders make it, the engine runs it, HDF5 files keep it.
"""
module JuiceBridge

export BridgeError, MISSING
export Layer, InputLayer, ProductLayer, SumLayer, Circuit
export num_blocks, num_parameters, num_categories, layer_of, layer_params, with_params

include("types.jl")

end
