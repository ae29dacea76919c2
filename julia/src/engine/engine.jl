# The engine: what runs a circuit, on arrays of any kind.

using LinearAlgebra: BLAS, mul!, transpose!
using Random: randperm

include("arrays.jl")
include("plans.jl")
include("links.jl")
include("compile.jl")
include("values.jl")
include("latents.jl")
include("leaves.jl")
include("products.jl")
include("underflow.jl")
include("products_anywhere.jl")
include("sums.jl")
include("sums_anywhere.jl")
include("downward.jl")
include("downward_anywhere.jl")
include("batches.jl")
include("em.jl")
include("evidence.jl")
include("fit.jl")
include("checkpoint.jl")
include("descent.jl")
include("sample.jl")
include("mpe.jl")
include("api.jl")
include("workload.jl")
