# Circuit and assignment files, version 1 of the formats that `docs/format.md` specifies.

const CIRCUIT_FORMAT = "juice-bridge-circuit"
const ASSIGNMENTS_FORMAT = "juice-bridge-assignments"
const FORMAT_VERSION = 1

"""
    save_circuit(circuit, path)

Write `circuit` to an HDF5 file, atomically; what [`load_circuit`](@ref) returns is the same
bit for bit. Throws a [`BridgeError`](@ref) if `circuit` does not pass [`check`](@ref) or
the file cannot be written.
"""
function save_circuit(circuit::Circuit, path::AbstractString)
    check(circuit, "circuit for $path")
    return atomic_h5(path, Base.summarysize(circuit)) do file
        write_attribute(file, "format", CIRCUIT_FORMAT)
        write_attribute(file, "version", FORMAT_VERSION)
        write_attribute(file, "num_vars", circuit.num_vars)
        layers = HDF5.create_group(file, "layers")
        for (i, layer) in enumerate(circuit.layers)
            write_layer(HDF5.create_group(layers, string(i - 1)), layer)
        end
        write_array(file, "roots", to_file(circuit.roots))
        latents = HDF5.create_group(file, "latents")
        for name in sort!(collect(keys(circuit.latents)))
            write_array(latents, name, to_file(circuit.latents[name]))
        end
        write_attributes(HDF5.create_group(file, "meta"), circuit.meta)
    end
end

"Ids count from one here and from zero in files."
to_file(ids) = ids .- Int32(1)
from_file(ids) = ids .+ Int32(1)

function write_attributes(group, vals)
    for name in sort!(collect(keys(vals)))
        write_attribute(group, name, vals[name])
    end
end

function write_layer(group, layer::InputLayer)
    write_attribute(group, "kind", "input")
    write_family(group, layer.family)
    write_array(group, "variables", to_file(layer.variables))
    write_array(group, "groups", to_file(layer.groups))
    return write_array(group, "params", layer.params)
end

function write_layer(group, layer::ProductLayer)
    write_attribute(group, "kind", String(layer.kind))
    write_array(group, "offsets", to_file(layer.offsets))
    return write_array(group, "children", to_file(layer.children))
end

function write_layer(group, layer::SumLayer)
    write_attribute(group, "kind", "sum")
    write_array(group, "offsets", to_file(layer.offsets))
    write_array(group, "children", to_file(layer.children))
    write_array(group, "groups", to_file(layer.groups))
    layer.tied_to == 0 && return write_array(group, "weights", layer.weights)
    return write_attribute(group, "tied_to", layer.tied_to - 1)
end

"""
    load_circuit(path)

Read a circuit file. Throws a [`BridgeError`](@ref), one sentence that names the file and
the dataset at fault, if it is not a valid circuit.
"""
function load_circuit(path::AbstractString)
    circuit = open_checked(path, CIRCUIT_FORMAT, FORMAT_VERSION) do file
        num_vars = whole_attribute(file, "num_vars")
        layers = Layer[]
        with_group(file, "layers") do groups
            labels = keys(groups)
            issetequal(labels, string.(0:(length(labels)-1))) || throw(
                BridgeError(
                    "$path: /layers: must hold the groups 0, 1, 2 … without a gap.",
                ),
            )
            for i in eachindex(labels)
                push!(layers, with_group(g -> read_layer(g, layers), groups, string(i - 1)))
            end
        end
        roots = read_ids(file, "roots")
        latents = Dict{String,Vector{Int32}}()
        haskey(file, "latents") && with_group(file, "latents") do group
            for name in keys(group)
                latents[name] = read_ids(group, name)
            end
        end
        return Circuit(
            num_vars,
            layers,
            roots;
            latents,
            meta = group_attributes(file, "meta"),
        )
    end
    check(circuit, path)
    return circuit
end

read_ids(group, name) = from_file(read_array(group, name, (Int32,), 1))
read_floats(group, name) = read_array(group, name, (Float32, Float64), 3)

function read_layer(group, earlier)
    kind = text_attribute(group, "kind")
    if kind == "input"
        family = read_family(group)
        variables, groups = read_ids(group, "variables"), read_ids(group, "groups")
        return InputLayer(variables, groups, read_floats(group, "params"), family)
    elseif kind in ("hadamard", "kronecker", "concat")
        offsets, children = read_ids(group, "offsets"), read_ids(group, "children")
        return ProductLayer(Symbol(kind), offsets, children)
    elseif kind == "sum"
        offsets, children = read_ids(group, "offsets"), read_ids(group, "children")
        weights, owner = read_weights(group, earlier)
        return SumLayer(offsets, children, read_ids(group, "groups"), weights, owner)
    end
    known = "input, sum, hadamard, kronecker, concat"
    throw(
        BridgeError(
            "$(item_place(group)): kind '$kind' is unknown, must be one of $known.",
        ),
    )
end

function write_family(group, family)
    write_attribute(group, "family", family_name(family))
    for option in fieldnames(typeof(family))
        write_attribute(group, string(option), getfield(family, option))
    end
end

"The family of a layer; options that the file does not have keep their defaults."
function read_family(group)
    name = text_attribute(group, "family")
    F = get(FAMILIES, name, nothing)
    known = join(sort!(collect(keys(FAMILIES))), ", ")
    isnothing(F) && throw(
        BridgeError(
            "$(item_place(group)): family '$name' is unknown, must be one of $known.",
        ),
    )
    given = [scalar_attribute(group, string(option)) for option in fieldnames(F)]
    any(isnothing, given) && return F()
    try
        return F(given...)
    catch err
        err isa Union{ArgumentError,MethodError} || rethrow()
        throw(BridgeError("$(item_place(group)): bad options of the family '$name'."))
    end
end

"The weights of a sum layer, and 0 or the layer that owns them."
function read_weights(group, earlier)
    API.h5a_exists(group, "tied_to") || return read_floats(group, "weights"), 0
    number = whole_attribute(group, "tied_to")
    owner = 0 <= number < length(earlier) ? earlier[number+1] : nothing
    owner isa SumLayer || throw(
        BridgeError(
            "$(item_place(group)): tied_to is $number, must be an earlier sum layer.",
        ),
    )
    return owner.weights, Int(number) + 1
end

"""
    Assignments(z, clusters; centroids = nothing, attributes = Dict())

Latent values made by clustering, checked when made.

- `z`: per split (`"train"`, `"valid"`, `"test"`) `[positions, rows]`, clusters from 0 to
  `clusters - 1`;
- `centroids`: `[dim, clusters, positions or 1]`, the means in the space of the features;
- `attributes`: facts about the teacher and the clustering (text, integers, floats).
"""
struct Assignments
    z::Dict{String,Matrix{Int32}}
    clusters::Int
    centroids::Union{Nothing,Array{Float32,3}}
    attributes::Dict{String,Any}

    function Assignments(
        z,
        clusters::Integer;
        centroids = nothing,
        attributes = Dict{String,Any}(),
        place = "assignments",
    )
        check_assignments(z, clusters, centroids, place)
        return new(z, clusters, centroids, attributes)
    end
end

function check_assignments(z, clusters, centroids, place)
    isempty(z) && fail("$place: /z", "there is no split")
    clusters >= 1 || fail(place, "clusters must be at least 1, found $clusters")
    for (part, ids) in z
        isempty(ids) && continue
        low, high = extrema(ids)
        0 <= low <= high < clusters || fail(
            "$place: /z/$part",
            "holds ids from $low to $high, must lie in 0..$(clusters - 1)",
        )
    end
    positions = unique(size(ids, 1) for ids in values(z))
    length(positions) == 1 ||
        fail("$place: /z", "the splits differ in their number of positions")
    centroids === nothing && return
    sets = unique!([1, positions[1]])
    if size(centroids, 2) != clusters || size(centroids, 3) ∉ sets
        fail(
            "$place: /centroids",
            "has shape $(reverse(size(centroids))), must have ($(join(sets, " or ")), " *
            "$clusters, dim)",
        )
    end
    all(isfinite, centroids) || fail("$place: /centroids", "holds NaN or infinite values")
end

"""
    save_assignments(assignments, path)

Write an assignment file, atomically.
"""
function save_assignments(assignments::Assignments, path::AbstractString)
    return atomic_h5(path, Base.summarysize(assignments)) do file
        write_attribute(file, "format", ASSIGNMENTS_FORMAT)
        write_attribute(file, "version", FORMAT_VERSION)
        write_attribute(file, "clusters", assignments.clusters)
        group = HDF5.create_group(file, "z")
        for part in sort!(collect(keys(assignments.z)))
            write_array(group, part, assignments.z[part])
        end
        centroids = assignments.centroids
        centroids === nothing || write_array(file, "centroids", centroids)
        write_attributes(HDF5.create_group(file, "attributes"), assignments.attributes)
    end
end

"""
    load_assignments(path)

Read an assignment file into [`Assignments`](@ref). Throws a [`BridgeError`](@ref) if the
file is missing, damaged or something else.
"""
function load_assignments(path::AbstractString)
    return open_checked(path, ASSIGNMENTS_FORMAT, FORMAT_VERSION) do file
        z = Dict{String,Matrix{Int32}}()
        with_group(file, "z") do group
            for part in keys(group)
                z[part] = read_array(group, part, (Int32,), 2)
            end
        end
        centroids =
            haskey(file, "centroids") ? Float32.(read_floats(file, "centroids")) : nothing
        clusters = whole_attribute(file, "clusters")
        attributes = group_attributes(file, "attributes")
        return Assignments(z, clusters; centroids, attributes, place = path)
    end
end
