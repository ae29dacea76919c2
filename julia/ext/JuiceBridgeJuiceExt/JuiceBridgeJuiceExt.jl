# Circuits to and from Juice.jl's nodes, its files, and its EM.
module JuiceBridgeJuiceExt

using JuiceBridge
using JuiceBridge: ID_LIMIT, Layer, check
using JuiceBridge: blocks_below, category_vector, child_range, fingerprint, layer_blocks
using JuiceBridge: rename_over, root_block
using Random: RandomDevice, randstring

import JuiceBridge: from_juice, juice_em, load_juice, save_juice, to_juice
import ProbabilisticCircuits as Juice

const CUDA = Juice.CUDA

include("to_juice.jl")
include("graph.jl")
include("grouping.jl")
include("layers.jl")
include("from_juice.jl")
include("files.jl")
include("training.jl")

end
