# The engine on CUDA: where its arrays are, batched products by CUBLAS, scattered sums by
# atomics.
module JuiceBridgeCUDAExt

using CUDA
using JuiceBridge: JuiceBridge, BridgeError

function __init__()
    JuiceBridge.DEVICES["cuda"] = cuda_arrays
    return nothing
end

"`CuArray`, on the device of this ordinal (the current one where it is empty)."
function cuda_arrays(ordinal::AbstractString)
    CUDA.functional() ||
        throw(BridgeError("CUDA.jl cannot use a GPU here; set the device to \"cpu\"."))
    isempty(ordinal) && return CuArray
    number, total = tryparse(Int, ordinal), length(CUDA.devices())
    if isnothing(number) || !(0 <= number < total)
        problem = "is not available: there are the devices cuda:0 to cuda:$(total - 1)"
        throw(BridgeError("The device \"cuda:$ordinal\" $problem."))
    end
    CUDA.device!(number)
    return CuArray
end

"What the driver has free, and what CUDA.jl keeps for reuse."
JuiceBridge.free_bytes(::CuArray) =
    Int(CUDA.free_memory()) + Int(CUDA.cached_memory()) - Int(CUDA.used_memory())

function JuiceBridge.batched_mul!(
    C::CuArray{T,3},
    tA,
    A::CuArray{T,3},
    tB,
    B::CuArray{T,3},
    β,
) where {T<:Union{Float32,Float64}}
    return CUDA.CUBLAS.gemm_strided_batched!(tA, tB, one(T), A, B, convert(T, β), C)
end

function JuiceBridge.scatter_add!(sums::CuMatrix, columns::CuVector, vals::CuMatrix)
    isempty(vals) && return sums
    kernel = @cuda launch = false scatter_kernel!(sums, columns, vals)
    threads = min(length(vals), CUDA.launch_configuration(kernel.fun).threads)
    kernel(sums, columns, vals; threads, blocks = cld(length(vals), threads))
    return sums
end

function scatter_kernel!(sums, columns, vals)
    k = (blockIdx().x - 1) * blockDim().x + threadIdx().x
    if k <= length(vals)
        column, row = divrem(k - 1, size(vals, 1))
        @inbounds CUDA.@atomic sums[row+1, Int(columns[column+1])] += vals[k]
    end
    return nothing
end

end
