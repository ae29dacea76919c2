using JuiceBridge: owns_params, layer_params

@testset "to Juice and back: $name" for (name, (circuit, root)) in circuits_for_juice()
    x = random_rows(max.(num_categories(circuit), 1), 40, 11)
    x[:, 1] .= MISSING
    pc = to_juice(circuit; root)
    logs = juice_logs(pc, x)
    brute = [log(root_values(circuit, Int.(row))[root]) for row in eachcol(x)]
    @test agree(logs, brute)
    @test agree(log_likelihood(circuit, x)[root, :], logs)
    rows = Matrix(juice_rows(x))
    @test agree([Juice.loglikelihood(pc, rows, n) for n = 1:5], brute[1:5])

    again = from_juice(pc; circuit.num_vars)
    @test length(again.roots) == 1 && again.num_vars == circuit.num_vars
    @test agree(log_likelihood(again, x)[1, :], brute)
    double = from_juice(pc; circuit.num_vars, precision = Float64)
    @test all(p -> p isa Array{Float64}, filter(!isnothing, layer_params.(double.layers)))
end

"The columns of all parameters, each once, in a fixed order."
parameter_columns(circuit) = sort!([
    (length(column), column...) for layer in circuit.layers if owns_params(layer) for
    column in eachcol(reshape(layer_params(layer), size(layer_params(layer), 1), :))
])

@testset "a hidden tree comes back as a hidden tree" begin
    circuit = hclt(random_tree(9, 4), 4, 5; seed = 8)
    again = from_juice(to_juice(circuit))
    found, expected = parameter_columns(again), parameter_columns(circuit)
    @test length(found) == length(expected)
    @test all(maximum(abs, a .- b) < 1e-6 for (a, b) in zip(found, expected))
    @test all(width in (1, 4) for width in again.widths)
    products = [layer for layer in again.layers if layer isa ProductLayer]
    @test all(layer.kind === :hadamard for layer in products)
    @test count(==(1), again.widths) == 1
end

@testset "Kronecker products and heads of clusters come back" begin
    again = from_juice(to_juice(mixture(4, 3, 4)))
    kinds = [layer.kind for layer in again.layers if layer isa ProductLayer]
    @test kinds == [:hadamard, :kronecker]
    glued = last(circuits_for_juice()[7])[1]
    found = from_juice(to_juice(glued))
    heads = [
        layer for layer in found.layers if layer isa ProductLayer && layer.kind === :concat
    ]
    @test sum(num_blocks, heads) == 2 && all(length(layer.children) == 3 for layer in heads)
end

@testset "Juice's HCLT with $input_type leaves" for (input_type, values) in (
    (Juice.Categorical, 3),
    (Juice.Literal, 2),
    (Juice.Binomial, 3),
)
    x = random_rows(fill(values, 6), 60, 12; missing_share = 0)
    pc = Juice.hclt(permutedims(x), 4; num_cats = values, input_type)
    Juice.init_parameters(pc; perturbation = 0.4)
    count = input_type === Juice.Binomial ? values + 1 : values
    circuit = from_juice(pc)
    @test agree(vec(log_likelihood(circuit, x)), juice_logs(pc, x))
    @test num_categories(circuit) == fill(count, 6)
    @test circuit.widths[1] == 4 && all(width in (1, 4) for width in circuit.widths)
    x[1:4:end] .= MISSING
    @test agree(vec(log_likelihood(circuit, x)), juice_logs(pc, x))
    # Juice's sums list the same products anew; here each is there once.
    edges =
        sum(length(layer.children) for layer in circuit.layers if !(layer isa InputLayer))
    @test edges <= 3 * 6
    @test agree(juice_logs(to_juice(circuit), x), juice_logs(pc, x))
end

@testset "Juice's HCLT over bits" begin
    x = random_rows(fill(4, 3), 50, 13; missing_share = 0)
    pc = Juice.hclt(permutedims(x), 3; num_cats = 4, input_type = Juice.Literal)
    Juice.init_parameters(pc; perturbation = 0.4)
    circuit = from_juice(pc)
    bits = reduce(hcat, collect.(all_rows(fill(2, 6))))
    @test num_categories(circuit) == fill(2, 6)
    @test agree(vec(log_likelihood(circuit, bits)), juice_logs(pc, bits))
end

@testset "random circuits" begin
    x = reduce(hcat, collect.(all_rows(fill(4, 4)))) .- 1
    x = x[:, shuffle(Xoshiro(1), axes(x, 2))[1:100]]
    for seed = 1:60
        pc = random_juice(4, seed)
        circuit = from_juice(pc; num_vars = 4, categories = 3)
        @test agree(vec(log_likelihood(circuit, x)), juice_logs(pc, x))
        @test agree(juice_logs(to_juice(circuit), x), juice_logs(pc, x))
    end
end

@testset "expected counts of converted circuits" begin
    circuit = hclt(random_tree(4, 2), 2, 3; seed = 3)
    x = random_rows(fill(3, 4), 30, 4)
    again = from_juice(to_juice(circuit))
    totals(c) = [sum(n) for n in expected_counts(c, x).layers if !isnothing(n)]
    @test sum(totals(again)) ≈ sum(totals(circuit)) rtol = 1e-4
    fitted = fit(again, x, FitOptions(; optimizer = :full_em, epochs = 3))
    same = fit(circuit, x, FitOptions(; optimizer = :full_em, epochs = 3))
    @test [e.train for e in fitted.history] ≈ [e.train for e in same.history] rtol = 1e-5
end

@testset "rows for Juice" begin
    x = UInt8[1 2 3; 0 0 1]
    @test juice_rows(x) isa Matrix{UInt8} && juice_rows(x) == permutedims(x)
    y = juice_rows(Int8[1 -1; 0 2])
    @test isequal(y, [1 0; missing 2]) && nonmissingtype(eltype(y)) === Int8
end

@testset "what cannot be converted" begin
    leaf(variable, dist) = Juice.PlainInputNode(variable, dist)
    die(variable) = leaf(variable, Juice.Categorical(3))
    both = Juice.multiply(die(1), die(2))
    cases = [
        "sum to 2.0, not to 1" => Juice.PlainSumNode([die(1), die(1)], Float32[0, 0]),
        "about the variables [1, 2]" => leaf([1, 2], Juice.Categorical(3)),
        "no category" => leaf(1, Juice.Indicator(-1)),
        "no category" => leaf(1, Juice.Indicator(0.5)),
        "not smooth" => Juice.summate(both, Juice.multiply(die(1), die(3))),
        "not decomposable" => Juice.multiply(die(1), die(1)),
    ]
    for (message, pc) in cases
        error = try
            from_juice(pc)
        catch error
            error
        end
        @test error isa BridgeError && occursin(message, error.message)
    end
    @test_throws BridgeError from_juice(both; num_vars = 1)
    @test_throws BridgeError from_juice(both; categories = 2)
    @test_throws ArgumentError to_juice(hclt(Int32[0], 2, 2; seed = 1); root = 2)
    @test_throws MethodError from_juice(3)
    @test num_categories(from_juice(both; num_vars = 3, categories = 5)) == [5, 5, 0]
end

@testset "Juice's form for its GPU kernels: $name" for (name, (circuit, root)) in
                                                       circuits_for_juice()
    pc = to_juice(circuit; root)
    x = random_rows(max.(num_categories(circuit), 1), 10, 5)
    logs = juice_logs(pc, x)
    bits = Juice.BitsProbCircuit(pc)
    foreach(node -> node.params .= 0, Juice.sumnodes(pc))
    Juice.update_parameters(bits)
    @test agree(juice_logs(pc, x), logs)
end

@testset "Juice's EM" begin
    taken = Base.kwarg_decl(only(methods(Juice.mini_batch_em)))
    @test issubset(
        (:batch_size, :pseudocount, :param_inertia, :param_inertia_end, :verbose),
        taken,
    )
    circuit = hclt(random_tree(4, 2), 2, 3; seed = 3)
    x = random_rows(fill(3, 4), 64, 4)
    if Juice.CUDA.functional()
        before = sum(log_likelihood(circuit, x))
        trained = juice_em(circuit, x; epochs = 5, batch_size = 32, inertia = 0.5)
        @test sum(log_likelihood(from_juice(trained.pc), x)) > before
        @test length(trained.log_likelihoods) == 5 && trained.seconds > 0
        @test_throws BridgeError juice_em(circuit, x; batch_size = 65)
    else
        message = "Juice's EM runs on CUDA only, and CUDA is not functional on this machine."
        @test_throws BridgeError(message) juice_em(circuit, x)
    end
end
