# A circuit compiled for tiles: who reads what, as index vectors on the device.
#
# A tile is (width, batch, blocks). A block's number within its layer is its *place*. Of an
# input layer's parameters the engine keeps a table (width, 1 + categories, groups) whose
# first column is all ones: the column a missing value reads, so that marginalisation needs
# no mask.

"""
Pairs of a reader (a block or an edge of the layer that has the link) and the child it
reads.

- `layer`: the layer of the children;
- `low`: how many nodes of the reader come before the child's (`:concat`);
- `slot`: whether the child is its reader's first, second, …;
- `readers`, `children`: places.
"""
struct Link{V}
    layer::Int
    low::Int
    slot::Int
    readers::V
    children::V
end

"""
What an input layer reads.

- `variables`: of each block; `bases`: the table's columns before those of the block's
  group;
- `apart`: no two blocks share a group, so that blocks can be counted side by side;
- `tiled`: someone reads the layer as a tile, not only as a factor of a `:hadamard` product;
- `family`: of the leaves.
"""
Base.@kwdef struct InputPlan{V}
    layer::Int
    width::Int
    blocks::Int
    variables::V
    bases::V
    apart::Bool
    tiled::Bool
    family::Family
end

"""
A product layer's children.

- `offsets`, `sources`, `places`, `lows`: of each block's children, their layers, places and
  the nodes before them, on the host; inputs come last among the factors of a `:hadamard`
  product;
- `reads`: the same as links in which no reader occurs twice, those of inputs last;
- `pushes`: the children that are handed a flow, as links in which no child occurs twice;
- `in_place`: each block has one reader, an edge of a direct sum layer, which leaves the
  flow where the value was;
- `lifts`: the exponent to which the largest value of a block's column is raised (see
  [`HIGHEST`](@ref)); `spills`: by that of what the other factors may raise what two of them
  have lost;
- `mixer`: the direct sum layer that reads all blocks in their order, 0 where there is
  none;
- `counts_along`: a thread that has the flow of one block may count its leaves at once,
  since no other block shares them.
"""
Base.@kwdef struct ProductPlan{V}
    layer::Int
    kind::Symbol
    width::Int
    blocks::Int
    offsets::Vector{Int32}
    sources::Vector{Int32}
    places::Vector{Int32}
    lows::Vector{Int32}
    below::Vector{Int}
    reads::Vector{Link{V}}
    pushes::Vector{Link{V}}
    lifts::V
    spills::V
    in_place::Bool
    mixer::Int
    counts_along::Bool
end

"""
A sum layer's edges.

- `owner`: the layer that keeps the weights; `sharers`: how many layers have them;
- `direct`: one edge per block, to consecutive products of one layer, the first after
  `before` others: their tile is read where it is; otherwise a tile of edges is gathered and
  rescaled;
- `single`: one edge per block; `apart`: no two edges share a group; `major`: edges are
  group after group, equally many each;
- `by_slot`: (block, edge) links in which no block occurs twice; `by_group`: (group, edge)
  likewise;
- `group_offsets`, `group_edges`: the edges of each group, on the host;
- `flow_owner`, `flow_blocks`: where each block is the factor of exactly one product, all in
  the layer `flow_owner`, its flow is that product's and is read there; 0 otherwise.
"""
Base.@kwdef struct SumPlan{V}
    layer::Int
    owner::Int
    sharers::Int
    width::Int
    width_in::Int
    blocks::Int
    edges::Int
    offsets::Vector{Int32}
    sources::Vector{Int32}
    places::Vector{Int32}
    groups::Vector{Int32}
    groups_there::V
    blocks_there::V
    below::Vector{Int}
    direct::Bool
    before::Int
    single::Bool
    apart::Bool
    major::Bool
    reads::Vector{Link{V}}
    pushes::Vector{Link{V}}
    by_slot::Vector{Link{V}}
    by_group::Vector{Link{V}}
    group_offsets::Vector{Int32}
    group_edges::Vector{Int32}
    flow_owner::Int
    flow_blocks::V
    terms::Int
end

"""
Groups of a sum layer whose rows share one total, because a block has all of them.

- `family`: of each group, empty where every group stands alone;
- `members`: (family, group) links in which no family occurs twice;
- `siblings`: per group, the entries that share a total.
"""
struct Families{V}
    family::Vector{Int32}
    family_there::V
    count::Int
    members::Vector{Link{V}}
    siblings::Vector{Int}
end

"Positions of a latent whose blocks are in one layer, none of them twice."
struct LatentSite{V}
    name::String
    positions::V
    places::V
end

const LayerPlan{V} = Union{InputPlan{V},ProductPlan{V},SumPlan{V}}

"""
The static side of a circuit, or of a part of one, on a device; parameters are held apart.

`variables` are the rows of data that it reads, in the order of its codes.
"""
struct Program{V}
    plans::Vector{LayerPlan{V}}
    families::Vector{Families{V}}
    sites::Vector{Vector{LatentSite{V}}}
    roots::Vector{Link{V}}
    num_roots::Int
    variables::Vector{Int}
end

"""
Values per column that a layer keeps; none for an input layer that is read where it is used.
"""
kept_values(plan::InputPlan) = plan.tiled ? plan.width * plan.blocks : 0
kept_values(plan::ProductPlan) = plan.width * plan.blocks
function kept_values(plan::SumPlan)
    return plan.width * plan.blocks + (plan.direct ? 0 : plan.width_in * plan.edges)
end

"Values per column of the widest layer, at least one."
largest_tile(program::Program) = maximum(kept_values, program.plans; init = 1)
