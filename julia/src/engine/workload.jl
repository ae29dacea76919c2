# Run once while the package is precompiled, so that a first training need not wait for the
# compiler.

function run_workload()
    x = UInt8[0 1 1; 1 0 1]
    for circuit in (hclt([0, 1], 2, 2; seed = 1), random_hmm(2, 2, 2; seed = 1))
        latents = Dict("z" => Int32[0 1 1; 1 0 -1])
        for rows in (x, Int32.(x), Int64.(x))
            log_likelihood(circuit, rows; latents)
            fit(circuit, rows, FitOptions(; epochs = 1); valid = rows, latents)
        end
        for optimizer in (:full_em, :anemone)
            fit(circuit, x, FitOptions(; optimizer, epochs = 1))
        end
        expected_counts(circuit, x)
        sample(circuit, 1; evidence = Int32[-1; 0;;], seed = 1)
        posteriors(circuit, x, "z")
        mpe(circuit, x)
    end
    return nothing
end

ccall(:jl_generating_output, Cint, ()) == 1 && run_workload()
