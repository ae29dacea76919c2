# A Juice circuit as numbered nodes, children first, without what distributions do not need:
# sums and products of a single node, products that occur twice, sums over indicators of one
# variable.

"How far from one the sum of probabilities may be; they are normalised."
const JUICE_TOLERANCE = 1e-3

"""
Nodes bottom-up. `numbers` are the probabilities of an input node's values, or the weights
of a sum; `variables` is 0 except at input nodes; `prints` are fingerprints of scopes. Two
nodes with one entry in `families` are of one kind, and either sums over the same nodes, or
products of factors with the same scopes, or leaves of the same variable.
"""
struct Graph
    kinds::Vector{Symbol}
    children::Vector{Vector{Int}}
    numbers::Vector{Vector{Float64}}
    variables::Vector{Int}
    prints::Vector{UInt64}
    families::Vector{Int}
    known::Dict{Any,Int}
end

Graph() = Graph(
    Symbol[],
    Vector{Int}[],
    Vector{Float64}[],
    Int[],
    UInt64[],
    Int[],
    Dict{Any,Int}(),
)

function add_node!(graph, kind, family, children, numbers, variable, scope_print)
    push!(graph.kinds, kind)
    push!(graph.children, children)
    push!(graph.numbers, numbers)
    push!(graph.variables, variable)
    push!(graph.prints, scope_print)
    push!(graph.families, number_of!(graph, (kind, family)))
    return length(graph.kinds)
end

"The number of a key, a new one where it is new."
number_of!(graph, key) = get!(graph.known, key, length(graph.known) + 1)

"The graph of `pc` and the number of its root; `sizes` are the numbers of categories."
function graph_of(pc, sizes)
    graph = Graph()
    place = IdDict{Juice.ProbCircuit,Int}()
    indicators = BitSet()
    products = Dict{Vector{Int},Int}()
    for node in Juice.linearize(pc, Juice.ProbCircuit)
        place[node] = if Juice.isinput(node)
            added = add_input!(graph, node, sizes)
            Juice.dist(node) isa Juice.Indicator && push!(indicators, added)
            added
        elseif Juice.ismul(node)
            add_product!(graph, products, [place[child] for child in Juice.inputs(node)])
        else
            add_sum!(graph, indicators, [place[child] for child in Juice.inputs(node)], node)
        end
    end
    return graph, place[pc]
end

function add_input!(graph, node, sizes)
    variable = only_variable(node)
    table = normalised(probabilities(Juice.dist(node), sizes[variable]), "an input node")
    return add_leaf!(graph, table, variable)
end

add_leaf!(graph, table, variable) =
    add_node!(graph, :input, variable, Int[], table, variable, fingerprint(variable))

function add_product!(graph, products, children)
    length(children) == 1 && return only(children)
    return get!(products, sort(children)) do
        scopes = graph.prints[children]
        add_node!(graph, :product, sort(scopes), children, Float64[], 0, sum(scopes))
    end
end

function add_sum!(graph, indicators, factors, node)
    weights = normalised(exp.(Float64.(Juice.params(node))), "a sum node")
    children = unique(factors)
    length(children) == 1 && return only(children)
    if length(children) < length(factors)
        weights = [sum(weights[factors.==child]) for child in children]
    end
    variable = graph.variables[children[1]]
    if all(in(indicators), children) && all(==(variable), graph.variables[children])
        return add_leaf!(graph, sum(weights .* graph.numbers[children]), variable)
    end
    scope_print = graph.prints[children[1]]
    return add_node!(graph, :sum, sort(children), children, weights, 0, scope_print)
end

function normalised(numbers, item)
    total = sum(numbers)
    all(>=(0), numbers) && abs(total - 1) <= JUICE_TOLERANCE && return numbers ./ total
    found = round(total; sigdigits = 6)
    throw(
        BridgeError(
            "The probabilities of $item of the Juice circuit sum to $found, not to 1.",
        ),
    )
end

"The variable of an input node."
function only_variable(node)
    variables = Juice.randvars(node)
    length(variables) == 1 && first(variables) >= 1 && return first(variables)
    throw(
        BridgeError(
            "An input node of the Juice circuit is about the variables $(collect(variables)); " *
            "it must be about one, from 1 on.",
        ),
    )
end

"The number of values that a distribution knows of."
num_values(d::Juice.Categorical) = length(d.logps)
num_values(d::Juice.Binomial) = Int(d.N) + 1
num_values(::Juice.Literal) = 2
function num_values(d::Juice.Indicator)
    value = d.value
    value isa Integer && 0 <= value < ID_LIMIT && return Int(value) + 1
    throw(
        BridgeError(
            "An indicator of the Juice circuit is of $value, which is no category.",
        ),
    )
end
function num_values(d)
    throw(
        BridgeError(
            "An input node of the Juice circuit is a $(nameof(typeof(d))); only Categorical, " *
            "Indicator, Literal and Binomial can be converted.",
        ),
    )
end

"The probabilities of the values from zero to `number - 1`."
function probabilities(d::Juice.Categorical, number)
    return [exp.(Float64.(d.logps)); zeros(number - length(d.logps))]
end
probabilities(d::Juice.Indicator, number) = Float64.(0:(number-1) .== d.value)
function probabilities(d::Juice.Binomial, number)
    N, p = Int(d.N), Float64(d.p)
    p in (0, 1) && return Float64.(0:(number-1) .== N * p)
    logs = cumsum([N * log1p(-p); [log((N - k + 1) / k) + log(p) - log1p(-p) for k = 1:N]])
    return [exp.(logs); zeros(number - N - 1)]
end
