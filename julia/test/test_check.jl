"The same circuit with layer `i` changed: keyword arguments replace its fields."
function changed(circuit, i; fields...)
    layer = circuit.layers[i]
    kind = Base.typename(typeof(layer)).wrapper
    values = (get(fields, name, getfield(layer, name)) for name in fieldnames(kind))
    layers = copy(circuit.layers)
    layers[i] = kind(values...)
    (; num_vars, roots, latents, meta) = circuit
    return Circuit(num_vars, layers, roots; latents, meta)
end

@testset "check accepts every kind of circuit" begin
    for circuit in (
        mixture(4, 3, 1),
        hclt(random_tree(7, 1), 3, [2, 3, 2, 4, 2, 2, 3]; seed = 1),
        random_hmm(3, 4, 5; seed = 1),
        random_hmm(3, 4, 1; seed = 1),
        patch_bundle(random_tree(3, 2), 4, 2, 3; seed = 1),
    )
        @test check(circuit) === nothing
    end
end

@testset "check names the array at fault" begin
    tree = hclt([0, 1, 1], 2, 2; seed = 1)
    mixed = mixture(4, 3, 1)
    chain = random_hmm(3, 4, 4; seed = 1)
    weights = copy(tree.layers[3].weights)
    weights[1, 1, 1] = NaN
    params = copy(tree.layers[1].params)
    params[2, 1, 3] += 0.1f0
    negative = copy(params)
    negative[1, 2, 2] = -0.5
    (; num_vars, layers, roots, latents, meta) = tree
    cases = [
        Circuit(0, layers, roots) => "num_vars is 0",
        Circuit(3, Layer[], roots) => "/layers: there is no layer",
        Circuit(3, layers[2:3], roots) => "/layers: there is no input layer",
        Circuit(2, layers, roots) => "/layers/0/variables: names variable 2",
        Circuit(3, layers, [1]) => "/roots: block 0 has width 2",
        Circuit(3, layers, [99]) => "/roots: names block 98",
        Circuit(3, layers, Int[]) => "/roots: must hold",
        Circuit(
            3,
            layers,
            roots;
            latents = Dict("z" => [0]),
        ) => "/latents/z: names block -1",
        Circuit(3, layers, roots; latents = Dict("a/b" => [1])) => "must not be",
        Circuit(
            3,
            layers,
            roots;
            meta = Dict{String,Any}("a" => nothing),
        ) => "/meta: \"a\"",
        Circuit(3, layers, roots; meta = Dict{String,Any}("a\0" => 1)) => "without NUL",
        changed(tree, 1; params) => "/layers/0/params: row 0 of group 2",
        changed(tree, 1; params = negative) => "/layers/0/params: holds -0.5 at [1, 1, 0]",
        changed(tree, 1; params = ones(2, 2, 4) ./ 2) => "group 3 is used by no block",
        changed(tree, 1; params = Float16.(params)) => "has type Float16",
        changed(tree, 1; groups = [1, 2]) => "/layers/0/groups: has 2 entries",
        changed(tree, 1; groups = [1, 2, 9]) => "/layers/0/groups: names group 8",
        changed(tree, 2; kind = :sum) => "/layers/1: kind 'sum' is unknown",
        changed(tree, 2; offsets = [1, 2, 2]) => "/layers/1/offsets: must rise",
        changed(tree, 2; offsets = Int[]) => "/layers/1/offsets: must rise",
        changed(tree, 2; children = [1, 9]) => "/layers/1/children: names block 8",
        changed(tree, 2; children = [1, -9]) => "/layers/1/children: names block -10",
        changed(tree, 2; kind = :kronecker) => "/layers/1/offsets: every kronecker",
        changed(tree, 3; weights) => "/layers/2/weights: holds NaN at [0, 0, 0]",
        changed(tree, 4; children = [3, 6, 6]) => "block 7 is not decomposable: variable 1",
        changed(tree, 5; weights = ones(3, 1, 1) ./ 3) => "another width than the 3",
        changed(
            mixed,
            4;
            groups = [1, 1, 2],
            weights = ones(4, 1, 2) ./ 4,
        ) => "block 14 names group 0 twice",
        changed(
            mixed,
            4;
            groups = [1, 2, 2],
            weights = ones(4, 1, 2) ./ 4,
        ) => "blocks 14 and 15 share group 1",
        changed(mixed, 5; children = [15, 1]) => "not smooth",
        changed(chain, 5; tied_to = 5) => "/layers/4/tied_to: names layer 4",
        changed(chain, 5; tied_to = 2) => "/layers/4/tied_to: names layer 1",
        changed(
            chain,
            5;
            weights = copy(chain.layers[3].weights),
        ) => "must be the very array",
    ]
    for (circuit, message) in cases
        error = try
            check(circuit, "here")
        catch error
            error
        end
        @test error isa BridgeError
        @test startswith(error.message, "here")
        @test occursin(message, error.message)
        @test endswith(error.message, ".") && !occursin('\n', error.message)
    end
end

@testset "a tied layer takes whole lists of its owner's groups" begin
    rng = Xoshiro(3)
    inputs = InputLayer([1, 1, 2, 2], 1:4, columns(rng, 2, 2, 4))
    weights = reshape(columns(rng, 4, 2), 2, 2, 2)
    weights = permutedims(reshape(weights, 2, 2, 2), (1, 3, 2))
    owner = SumLayer([1, 3], [1, 2], [1, 2], weights)
    tied(groups) = SumLayer([1, 3], [3, 4], groups, weights, 2)
    both = ProductLayer(:hadamard, [1, 3], [5, 6])
    top = SumLayer([1, 2], [7], [1], columns(rng, 2, 1, 1))
    circuit(groups) = Circuit(2, Layer[inputs, owner, tied(groups), both, top], [8])
    @test check(circuit([1, 2])) === nothing
    @test num_parameters(circuit([1, 2])) == 16 + 8 + 2
    for groups in ([2, 1], [1, 1])
        @test_throws "layer 1, to which this layer is tied" check(circuit(groups))
    end
    other = with_params(circuit([1, 2]), [nothing, weights .* 1, nothing, nothing, nothing])
    @test other.layers[3].weights === other.layers[2].weights
end
