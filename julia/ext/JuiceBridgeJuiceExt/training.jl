# Juice's own EM.

juice_em(circuit::Circuit, x::AbstractMatrix{<:Integer}; root::Integer = 1, keywords...) =
    juice_em(to_juice(circuit; root), x; keywords...)

function juice_em(
    pc::Juice.ProbCircuit,
    x::AbstractMatrix{<:Integer};
    epochs::Integer = 1,
    batch_size::Integer = 512,
    inertia::Real = 0.9,
    inertia_end::Real = inertia,
    pseudocount::Real = 0.1,
)
    CUDA.functional() || throw(
        BridgeError(
            "Juice's EM runs on CUDA only, and CUDA is not functional on this machine.",
        ),
    )
    1 <= batch_size <= size(x, 2) || throw(
        BridgeError("batch_size must be from 1 to the number of rows, $(size(x, 2))."),
    )
    bits = Juice.CuBitsProbCircuit(pc)
    rows = CUDA.CuArray(juice_rows(x))
    CUDA.synchronize()
    started = time()
    log_likelihoods = Juice.mini_batch_em(
        bits,
        rows,
        epochs;
        batch_size,
        pseudocount,
        param_inertia = inertia,
        param_inertia_end = inertia_end,
        verbose = false,
    )
    CUDA.synchronize()
    seconds = time() - started
    Juice.update_parameters(bits)
    return (; pc, log_likelihoods, seconds)
end
