# What the engine needs of an array type: threads, exact powers of two, buffers that are
# reused, batched products. Everything has a method for any array and a threaded one for
# `Array`.

"Device name → a function of the ordinal after the colon that returns an array type."
const DEVICES = Dict{String,Function}("cpu" => _ -> Array)

"""
    array_type(device)

The array type to compute with: `device` is a name (`"cpu"`, `"cuda"`, `"cuda:1"`) or the
array type itself (`Array`, `CuArray`, `JLArray`).
"""
function array_type(device::AbstractString)
    kind, ordinal = split(string(device, ":"), ':')
    haskey(DEVICES, kind) && return DEVICES[kind](ordinal)
    hint =
        kind == "cuda" ? "load CUDA.jl first (`using CUDA`)" :
        "there is \"cpu\" and \"cuda\""
    throw(BridgeError("The device \"$device\" is not available: $hint."))
end
array_type(device::Type{<:AbstractArray}) = device
function array_type(device)
    return refuse(
        "device is $(repr(device)); it must be a name such as \"cpu\", or an array type.",
    )
end

"The array on the device; the same array where it is there already."
on_device(::Type{Array}, array::AbstractArray) = convert(Array, array)
on_device(A::Type, array::AbstractArray) = A(array)

"""
Bytes the engine may fill on the device of `array`; `nothing` where memory is like a CPU's.
"""
free_bytes(array::AbstractArray) = nothing

# Threads ----------------------------------------------------------------------------------

"Operations below which another thread costs more than it saves."
const GRAIN = 1 << 15

"How many calls run in the engine, and the threads that BLAS had before the first of them."
mutable struct BlasUsers
    const lock::ReentrantLock
    calls::Int
    threads::Int
end

const BLAS_USERS = BlasUsers(ReentrantLock(), 0, 1)

function enter_blas!(users::BlasUsers)
    return lock(users.lock) do
        users.calls == 0 && (users.threads = BLAS.get_num_threads())
        users.calls += 1
        return BLAS.set_num_threads(1)
    end
end

function leave_blas!(users::BlasUsers)
    return lock(users.lock) do
        users.calls -= 1
        return users.calls == 0 && BLAS.set_num_threads(users.threads)
    end
end

"How many calls on a thread flush, one inside or beside another, and its former setting."
mutable struct Flushing
    calls::Int
    before::Bool
end

const FLUSHING = Dict{Int,Flushing}()
const FLUSHING_LOCK = Threads.SpinLock()

"""
Run `f()` with subnormal numbers flushed to zero. The task must stay on its thread, which has
its former setting back after the last of the calls on it; tasks may take turns there.
"""
function flushing(f::F) where {F}
    state = lock(FLUSHING_LOCK) do
        return get!(() -> Flushing(0, false), FLUSHING, Threads.threadid())
    end
    state.calls == 0 && (state.before = get_zero_subnormals())
    state.calls += 1
    set_zero_subnormals(true)
    try
        return f()
    finally
        state.calls -= 1
        state.calls == 0 && set_zero_subnormals(state.before)
    end
end

"""
    with_engine(f)

Run `f()` as the engine wants the machine: subnormal numbers flushed to zero (they are slow
and mean nothing here) and BLAS on one thread. Many small products run side by side on
Julia's threads, and a large one is cut by columns: threads of BLAS would not flush, and
cannot be told to. The calling task stays on its thread. All threads get their former
settings back, BLAS with the last of several concurrent calls.
"""
function with_engine(f::F) where {F}
    task = current_task()
    sticky = task.sticky
    task.sticky = true
    enter_blas!(BLAS_USERS)
    try
        return flushing(f)
    finally
        leave_blas!(BLAS_USERS)
        task.sticky = sticky
    end
end

"""
    threaded(body, number, work)

Call `body(span, part)` on ranges that cut `1:number` into parts, one per thread as far as
`work` (operations in all) is worth it. `body` returns a `Bool`; returns whether any was
true.
"""
function threaded(body::F, number::Int, work::Int) where {F}
    parts = min(number, Threads.nthreads(), cld(work, GRAIN))
    parts <= 1 && return number > 0 && body(1:number, 1)::Bool
    return spread(body, number, parts)
end

function spread(body::F, number::Int, parts::Int) where {F}
    cut(part) = (1+number*(part-1)÷parts):(number*part÷parts)
    tasks =
        map(part -> Threads.@spawn(flushing(() -> body(cut(part), part)::Bool)), 2:parts)
    found = body(cut(1), 1)::Bool
    for task in tasks
        found |= fetch(task)::Bool
    end
    return found
end

"""
    each_slab(body, batch, blocks, work)

Call `body(block, columns, part)` for all `batch` columns of all blocks, cut over threads: a
thread takes whole blocks as far as there are enough of them. Returns whether any call was
true.
"""
function each_slab(body::F, batch::Int, blocks::Int, work::Int) where {F}
    return threaded(batch * blocks, work) do span, part
        found = false
        at = first(span)
        while at <= last(span)
            block = (at - 1) ÷ batch + 1
            before = (block - 1) * batch
            columns = (at-before):min(batch, last(span) - before)
            found |= body(block, columns, part)::Bool
            at = before + last(columns) + 1
        end
        return found
    end
end

"`span` in portions of `most`, the last one what is left; `most` is at least one."
portions(span::UnitRange{Int}, most::Int) = Iterators.partition(span, max(1, most))

# Powers of two ----------------------------------------------------------------------------

"The integer e with 0.5 ≤ x / 2^e < 1, for a positive normal number."
@inline power_of(x::Float32) =
    Int32((reinterpret(UInt32, x) >> 23) & 0x000000ff) - Int32(126)
@inline power_of(x::Float64) =
    Int32((reinterpret(UInt64, x) >> 52) & 0x00000000000007ff) - Int32(1022)

"""
2^e exactly, for an integer e; 0 below the type's smallest exponent, its largest power
above.
"""
@inline function power_of_two(::Type{Float32}, e::Real)
    bits = (unsafe_trunc(Int32, clamp(e, -126, 127)) + Int32(127)) << 23
    return ifelse(e < -126, 0.0f0, reinterpret(Float32, bits))
end
@inline function power_of_two(::Type{Float64}, e::Real)
    bits = (unsafe_trunc(Int64, clamp(e, -1022, 1023)) + 1023) << 52
    return ifelse(e < -1022, 0.0, reinterpret(Float64, bits))
end

"2^e for an exponent of normal numbers."
@inline normal_power(::Type{Float32}, e::Int32) =
    reinterpret(Float32, (e + Int32(127)) << 23)
@inline normal_power(::Type{Float64}, e::Int32) =
    reinterpret(Float64, (Int64(e) + 1023) << 52)

"""
Two powers whose product is 2^e, for values of raised columns: these times the first are zero
only if they times both are.
"""
@inline two_powers(::Type{T}, e::Real) where {T} =
    power_of_two(T, max(e, -126)), power_of_two(T, min(e + 126, 0))

bits_type(::Type{Float32}) = Int32
bits_type(::Type{Float64}) = Int64

# Buffers ----------------------------------------------------------------------------------

"An array that keeps its memory when it changes its size; `offset` entries stay before it."
mutable struct Buffer{V<:AbstractVector,A<:AbstractArray}
    flat::V
    array::A
    const skip::Int
end

"""
Entries by which buffers begin after one another, and after how many that starts again: the
same place of several is not at the same place of a memory page then, where processors take
stores and loads for related.
"""
const STAGGER, STAGGERED = 80, 13

const BUFFERS_MADE = Threads.Atomic{Int}(0)

"""
    Buffer(like, T, N)

An empty N-dimensional buffer of `T` where the array `like` is.
"""
function Buffer(like::AbstractArray, ::Type{T}, N::Int) where {T}
    flat = similar(like, T, 1)
    offset = STAGGER * (Threads.atomic_add!(BUFFERS_MADE, 1) % STAGGERED)
    return Buffer(flat, shaped(flat, 0, ntuple(_ -> 0, N)), offset)
end

shaped(flat::Vector, offset, dims::Dims) =
    unsafe_wrap(Array, pointer(flat, offset + 1), dims)
shaped(flat::AbstractVector, offset, dims::Dims) =
    reshape(view(flat, (offset+1):(offset+prod(dims))), dims)

"The buffer's array with the given size, contents arbitrary."
@inline function sized!(buffer::Buffer, dims::Int...)
    size(buffer.array) == dims || resize_buffer!(buffer, dims)
    return buffer.array
end

@noinline function resize_buffer!(buffer::Buffer, dims::Dims)
    if length(buffer.flat) < buffer.skip + prod(dims)
        buffer.flat = similar(buffer.flat, buffer.skip + prod(dims))
    end
    buffer.array = shaped(buffer.flat, buffer.skip, dims)
    return nothing
end

"Give a buffer's memory back."
function release!(buffer::Buffer)
    buffer.flat = similar(buffer.flat, 1)
    buffer.array = shaped(buffer.flat, 0, map(_ -> 0, size(buffer.array)))
    return buffer
end

# Products and scattered sums --------------------------------------------------------------

@inline gemm!(tA, A, tB, B, β, C) =
    BLAS.gemm!(tA, tB, one(eltype(C)), A, B, convert(eltype(C), β), C)

"""
    batched_mul!(C, tA, A, tB, B, β)

`C[:, :, i] = op(A[:, :, i]) * op(B[:, :, i]) + β * C[:, :, i]` for every i, where `tA` and
`tB` are `'N'` or `'T'`. The CUDA extension has a method for its arrays; on the CPU the
engine cuts its products over threads itself (`sums.jl`).
"""
function batched_mul!(
    C::AbstractArray{T,3},
    tA,
    A::AbstractArray{T,3},
    tB,
    B::AbstractArray{T,3},
    β,
) where {T}
    op(t, M) = t == 'N' ? M : transpose(M)
    for i in axes(C, 3)
        left, right = op(tA, view(A, :, :, i)), op(tB, view(B, :, :, i))
        mul!(view(C, :, :, i), left, right, true, β)
    end
    return C
end

"""
    scatter_add!(sums, columns, vals)

`sums[:, columns[i]] += vals[:, i]` for every i; columns may repeat. Arrays without a
method of their own (the CUDA extension has one) go through the host.
"""
function scatter_add!(sums::AbstractMatrix, columns::AbstractVector, vals::AbstractMatrix)
    host, from = Array(sums), Array(vals)
    for (i, column) in enumerate(Array(columns))
        view(host, :, column) .+= view(from, :, i)
    end
    return copyto!(sums, host)
end
