# A circuit of layers from the nodes of Juice.

function from_juice(
    pc::Juice.ProbCircuit;
    num_vars::Union{Nothing,Integer} = nothing,
    categories = nothing,
    precision::Type{<:Union{Float32,Float64}} = Float32,
)
    needed = values_needed(pc)
    highest = maximum(keys(needed))
    number = something(num_vars, highest)
    number >= highest || throw(
        BridgeError(
            "num_vars is $number, but the Juice circuit has the variable $highest.",
        ),
    )
    graph, root = graph_of(pc, category_sizes(needed, categories, number))
    circuit = assemble(group_nodes(graph, root), number, precision)
    check(circuit, "the circuit from Juice")
    return circuit
end

"By variable: the least number of categories that its input nodes make sense with."
function values_needed(pc)
    needed = Dict{Int,Int}()
    for node in Juice.inputnodes(pc)
        variable, vals = only_variable(node), num_values(Juice.dist(node))
        needed[variable] = max(get(needed, variable, 1), vals)
    end
    return needed
end

function category_sizes(needed, categories, number)
    categories === nothing && return needed
    sizes = category_vector(categories, number)
    for (variable, least) in needed
        sizes[variable] >= least || throw(
            BridgeError(
                "categories has $(sizes[variable]) for variable $variable, but the Juice " *
                "circuit knows $least values of it.",
            ),
        )
    end
    return sizes
end
