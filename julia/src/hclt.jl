# Hidden Chow-Liu trees.
#
# Layout, the same for every builder of trees: all hidden variables of one depth form one
# level, deepest first; a level is one product layer and one sum layer, both in
# breadth-first order, so that siblings are neighbours; input blocks come in the order of
# the products that consume them. There is one input layer per distinct number of
# categories.

"""
    hclt(parents, latents, categories; seed = default_rng())

A hidden Chow-Liu tree with Dirichlet(1) parameters: a tree of hidden variables, each with
one observed child (Liu & Van den Broeck, *Tractable Regularization of Probabilistic
Circuits*, NeurIPS 2021).

- `parents`: `[n]`, the tree parent of each variable, 0 at the root;
- `latents`: values of every hidden variable; every variable has its own, tree leaves too;
- `categories`: values of every observed variable, one number or `[n]`;
- `seed`: of the random columns, a number or a generator.

Variable `i` has the product block of its input block and the sum blocks of its tree
children; its sum block, p(H_i | H_parent), is what the parent's product consumes.
`latents["z"]` lists the product block of each variable: its node `j` means H_i = `j - 1`.

```jldoctest
julia> hclt([0, 1, 1], 2, 3; seed = 1)
Circuit(3 variables, 5 layers, 9 blocks, 28 parameters, 1 root)
  1  input     3 blocks × 2  3 values        18 parameters (Float32)
  2  hadamard  2 blocks × 2  2 factors
  3  sum       2 blocks × 2  mixing 2 nodes  8 parameters (Float32)
  4  hadamard  1 block × 2   3 factors
  5  sum       1 block × 1   mixing 2 nodes  2 parameters (Float32)
  latent z: 3 positions
  latent_states: 2
  structure: hclt
```
"""
function hclt(parents, latents::Integer, categories; seed = default_rng())
    circuit, products = tree_copies(parents, 1, latents, categories, generator(seed))
    return Circuit(
        circuit.num_vars,
        circuit.layers,
        circuit.roots;
        latents = Dict("z" => products[1, :]),
        meta = Dict{String,Any}("structure" => "hclt", "latent_states" => Int(latents)),
    )
end

"""
    tree_copies(parents, copies, latents, categories, rng)

Disjoint HCLTs of one tree in the same layers, each with its own parameters and root, and
their product blocks `[copies, n]`. Copy `j` reads the variables `(j - 1) * n + 1` to `j *
n`. Inside a layer blocks are ordered by tree node, then copy.
"""
function tree_copies(parents, copies, latents, categories, rng)
    tree = check_parents(parents)
    levels = reverse(tree_levels(tree))
    copies >= 1 && latents >= 1 || refuse("latents and clusters must be at least 1.")
    own, layers = tree_leaves(levels, copies, latents, categories, rng)
    products = similar(own)
    total = length(own)
    below, sums = Int32[], 0
    for level in levels
        blocks = length(level) * copies
        products[:, level] = total .+ reshape(1:blocks, copies, :)
        push!(layers, tree_products(level, own, below, tree, sums))
        width = tree[level[1]] == 0 ? 1 : latents
        weights = dirichlet_columns(rng, latents, width, blocks)
        children = vec(products[:, level])
        push!(layers, SumLayer(1:(blocks+1), children, 1:blocks, weights))
        below, sums = level, total + blocks
        total += 2 * blocks
    end
    roots = (total-copies+1):total
    return Circuit(length(tree) * copies, layers, roots), products
end

"The input block of each variable of each copy, `[copies, n]`, and the input layers."
function tree_leaves(levels, copies, latents, categories, rng)
    order = reduce(vcat, levels)
    n = length(order)
    sizes = category_vector(categories, n)
    own = Matrix{Int32}(undef, copies, n)
    layers = Layer[]
    total = 0
    for number in sort!(unique(sizes))
        nodes = filter(node -> sizes[node] == number, order)
        blocks = length(nodes) * copies
        own[:, nodes] = total .+ reshape(1:blocks, copies, :)
        variables = vec([node + n * (instance - 1) for instance = 1:copies, node in nodes])
        params = dirichlet_columns(rng, number, latents, blocks)
        push!(layers, InputLayer(variables, 1:blocks, params))
        total += blocks
    end
    return own, layers
end

"Per node, its input block times its sum blocks of the level `below`, after block `sums`."
function tree_products(level, own, below, tree, sums)
    copies = size(own, 1)
    offsets, children = Int32[1], Int32[]
    at = 0
    for node in level
        total = 0
        while at + total < length(below) && tree[below[at+total+1]] == node
            total += 1
        end
        for instance = 1:copies
            push!(children, own[instance, node])
            for child = at:(at+total-1)
                push!(children, sums + child * copies + instance)
            end
            push!(offsets, length(children) + 1)
        end
        at += total
    end
    return ProductLayer(:hadamard, offsets, children)
end
