# Run while the package is precompiled, so that a first training need not wait for the
# compiler.

function run_workload(precision)
    x = UInt8[0 1 1; 1 0 1]
    for circuit in (hclt([0, 1], 2, 2; seed = 1), random_hmm(2, 2, 2; seed = 1))
        latents = Dict("z" => Int32[0 1 1; 1 0 -1])
        for rows in (x, Int32.(x), Int64.(x))
            log_likelihood(circuit, rows; latents, precision)
            fit(circuit, rows; epochs = 1, valid = rows, latents, precision)
        end
        for optimizer in (:full_em, :anemone)
            fit(circuit, x; optimizer, epochs = 1, precision)
        end
        show(devnull, MIME"text/plain"(), expected_counts(circuit, x; precision))
        sample(circuit, 1; evidence = Int32[-1; 0;;], seed = 1, precision)
        posteriors(circuit, x, "z"; precision)
        mpe(circuit, x)
        show(devnull, MIME"text/plain"(), circuit)
    end
    bundle = patch_bundle([0, 1], 2, 2, 2; seed = 1)
    fit(bundle, UInt8[0 1; 1 0; 0 1; 1 1]; epochs = 1, precision)
    return nothing
end

@compile_workload foreach(run_workload, (Float32, Float64))
