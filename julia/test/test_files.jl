using HDF5

same(a::AbstractArray, b::AbstractArray) = a == b && eltype(a) == eltype(b)
same(a, b) = a == b
same(a::T, b::T) where {T<:Layer} =
    all(same(getfield(a, name), getfield(b, name)) for name in fieldnames(T))
same(a::Circuit, b::Circuit) =
    all(same(a.layers[i], b.layers[i]) for i in eachindex(a.layers)) && all(
        getfield(a, name) == getfield(b, name) for
        name in (:num_vars, :roots, :latents, :meta)
    )

"The message of the [`BridgeError`](@ref) that `f` must throw."
function message(f)
    error = try
        f()
    catch error
        error
    end
    return error isa BridgeError ? error.message : "no BridgeError: $error"
end

"`change(file)` on a valid circuit file, then the message of loading it."
function spoiled(change, circuit = hclt([0, 1, 1], 2, 3; seed = 1))
    mktempdir() do folder
        path = joinpath(folder, "spoiled.h5")
        save_circuit(circuit, path)
        h5open(change, path, "r+")
        text = message(() -> load_circuit(path))
        @test startswith(text, path) && endswith(text, '.') && !occursin('\n', text)
        return text
    end
end

function put(file, name, value)
    delete_object(file, name)
    return file[name] = value
end

function set_attribute(item, name, value)
    delete_attribute(item, name)
    return attributes(item)[name] = value
end

@testset "circuits come back as they were" begin
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        for circuit in (
            mixture(4, 3, 1),
            hclt(random_tree(7, 1), 3, [2, 3, 2, 4, 2, 2, 3]; seed = 1),
            random_hmm(3, 4, 5; seed = 1),
            hmm([0.25, 0.75], [0.5 0.1; 0.5 0.9], [0.3 1.0; 0.7 0.0], 3),
            patch_bundle(random_tree(3, 2), 4, 2, 3; seed = 1),
        )
            save_circuit(circuit, path)
            @test same(load_circuit(path), circuit)
            @test readdir(folder) == ["circuit.h5"]
        end
        save_circuit(random_hmm(3, 4, 5; seed = 1), path)
        chain = load_circuit(path)
        @test chain.layers[5].weights === chain.layers[3].weights
        @test chain.layers[5].tied_to == 3
    end
end

@testset "what is in the file" begin
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        circuit = random_hmm(2, 3, 4; seed = 1)
        save_circuit(circuit, path)
        h5open(path) do file
            @test read_attribute(file, "format") == "juice-bridge-circuit"
            @test read_attribute(file, "version") == 1
            @test read_attribute(file, "num_vars") == 4
            @test sort(keys(file["layers"]); by = name -> parse(Int, name)) == string.(0:8)
            @test read(file["layers/0/variables"]) == Int32[0, 1, 2, 3]
            @test read(file["layers/3/children"]) == circuit.layers[4].children .- 1
            @test read(file["layers/0/params"]) == circuit.layers[1].params
            @test keys(file["layers/4"]) == ["children", "groups", "offsets"]
            @test read_attribute(file["layers/4"], "tied_to") == 2
            @test read_attribute(file["layers/4"], "kind") == "sum"
            type = HDF5.datatype(attributes(file)["format"])
            @test !HDF5.API.h5t_is_variable_str(type)
            @test HDF5.API.h5t_get_cset(type) == HDF5.API.H5T_CSET_UTF8
            @test HDF5.API.h5t_get_strpad(type) == HDF5.API.H5T_STR_NULLPAD
        end
    end
end

@testset "provenance" begin
    meta = Dict{String,Any}(
        "text" => "Größe ∞",
        "empty" => "",
        "low" => typemin(Int64),
        "float" => 0.1,
        "inf" => Inf,
    )
    tree = hclt([0], 2, 2; seed = 1)
    circuit = Circuit(1, tree.layers, tree.roots; meta)
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        save_circuit(circuit, path)
        @test load_circuit(path).meta == meta
        h5open(path, "r+") do file
            group = file["meta"]
            type = HDF5.Datatype(HDF5.API.h5t_copy(HDF5.API.H5T_C_S1))
            HDF5.API.h5t_set_size(type, HDF5.API.H5T_VARIABLE)
            HDF5.API.h5t_set_cset(type, HDF5.API.H5T_CSET_UTF8)
            for (name, text) in ("variable" => "wörds", "nothing" => "")
                attribute = create_attribute(group, name, type, HDF5.dataspace(0))
                write_attribute(attribute, type, text)
                close(attribute)
            end
            attributes(group)["small"] = Int8(-3)
            attributes(group)["single"] = 0.5f0
        end
        found = load_circuit(path).meta
        @test found["variable"] == "wörds" && found["nothing"] == ""
        @test found["small"] == -3 && found["single"] === 0.5
    end
end

@testset "compressed and chunked arrays are read" begin
    circuit = hclt([0, 1, 1], 2, 3; seed = 1)
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        save_circuit(circuit, path)
        params = circuit.layers[1].params
        h5open(path, "r+") do file
            delete_object(file, "layers/0/params")
            file["layers/0/params", chunk = (2, 2, 1), shuffle = true, deflate = 5] = params
        end
        @test load_circuit(path).layers[1].params == params
    end
end

@testset "files that are no circuits" begin
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        @test message(() -> load_circuit(path)) == "$path: there is no such file."
        write(path, "text")
        @test occursin("not an HDF5 file", message(() -> load_circuit(path)))
        save_circuit(hclt([0, 1], 2, 3; seed = 1), path)
        bytes = read(path)
        write(path, bytes[1:(end÷2)])
        @test occursin("truncated or damaged", message(() -> load_circuit(path)))
        save_assignments(Assignments(Dict("train" => zeros(Int32, 2, 3)), 1), path)
        @test occursin(
            "'juice-bridge-circuit' is needed",
            message(() -> load_circuit(path)),
        )
        nowhere = joinpath(folder, "no", "circuit.h5")
        circuit = hclt([0, 1], 2, 3; seed = 1)
        @test occursin("does not exist", message(() -> save_circuit(circuit, nowhere)))
        @test occursin("cannot be written", message(() -> save_circuit(circuit, folder)))
    end
end

@testset "a failed save leaves the old file" begin
    mktempdir() do folder
        path = joinpath(folder, "circuit.h5")
        save_circuit(hclt([0, 1], 2, 3; seed = 1), path)
        before = read(path)
        bad = Circuit(2, hclt([0, 1], 2, 3; seed = 1).layers, [1])
        @test occursin("/roots", message(() -> save_circuit(bad, path)))
        broken = () -> JuiceBridge.atomic_h5(_ -> error("no\nluck"), path, 0)
        @test message(broken) == "$path: cannot be written (no)."
        full = () -> JuiceBridge.atomic_h5(identity, path, typemax(Int) ÷ 2)
        @test occursin("no space left", message(full))
        @test read(path) == before && readdir(folder) == ["circuit.h5"]
    end
end

function put_big_endian(file)
    delete_object(file, "layers/0/params")
    type = HDF5.Datatype(HDF5.API.h5t_copy(HDF5.API.H5T_IEEE_F32BE))
    return create_dataset(file, "layers/0/params", type, dataspace((3, 2, 3)))
end

soft_link(file, name, target) =
    HDF5.API.h5l_create_soft(target, file, name, HDF5.API.H5P_DEFAULT, HDF5.API.H5P_DEFAULT)

function external_link(file)
    HDF5.API.h5l_create_external(
        "other.h5",
        "/roots",
        file,
        "meta/out",
        HDF5.API.H5P_DEFAULT,
        HDF5.API.H5P_DEFAULT,
    )
end

function external_storage(file)
    delete_object(file, "roots")
    properties = HDF5.init!(HDF5.DatasetCreateProperties())
    HDF5.API.h5p_set_external(properties, "/etc/hostname", 0, 4)
    space = dataspace((1,))
    type = HDF5.datatype(Int32)
    id = HDF5.API.h5d_create(
        file,
        "roots",
        type,
        space,
        HDF5.API.H5P_DEFAULT,
        properties,
        HDF5.API.H5P_DEFAULT,
    )
    return HDF5.API.h5d_close(id)
end

function virtual_dataset(file)
    delete_object(file, "roots")
    properties = HDF5.init!(HDF5.DatasetCreateProperties())
    HDF5.API.h5p_set_virtual(
        properties,
        dataspace((1,)),
        "other.h5",
        "roots",
        dataspace((1,)),
    )
    type = HDF5.datatype(Int32)
    id = HDF5.API.h5d_create(
        file,
        "roots",
        type,
        dataspace((1,)),
        HDF5.API.H5P_DEFAULT,
        properties,
        HDF5.API.H5P_DEFAULT,
    )
    return HDF5.API.h5d_close(id)
end

"A dataset of 2^40 numbers of which none is stored."
function huge_dataset(file, chunk)
    delete_object(file, "roots")
    chunk === nothing && return create_dataset(file, "roots", Int32, (2^40,))
    return create_dataset(file, "roots", Int32, (2^40,); chunk, deflate = 1)
end

@testset "damage is named" begin
    cases = [
        "attribute 'version'" => file -> set_attribute(file, "version", "1"),
        "version 2 of" => file -> set_attribute(file, "version", 2),
        "format is 'x'" => file -> set_attribute(file, "format", "x"),
        "attribute 'num_vars' is missing" => file -> delete_attribute(file, "num_vars"),
        "must be one text or number" => file -> set_attribute(file, "num_vars", [3, 3]),
        "num_vars is 0" => file -> set_attribute(file, "num_vars", 0),
        "/layers: the group is missing" => file -> put(file, "layers", [1]),
        "/layers: must hold the groups" => file -> create_group(file, "layers/7"),
        "/layers: must hold the groups 0" => file -> delete_object(file, "layers/1"),
        "/layers/1: kind 'max'" =>
            file -> set_attribute(file["layers/1"], "kind", "max"),
        "/layers/0: family" =>
            file -> set_attribute(file["layers/0"], "family", "normal"),
        "/layers/0/params: the dataset is missing" =>
            file -> delete_object(file, "layers/0/params"),
        "/roots: has type int64" => file -> put(file, "roots", [8]),
        "/roots: has shape (1, 1)" => file -> put(file, "roots", Int32[8;;]),
        "/roots: names block 99" => file -> put(file, "roots", Int32[99]),
        "/latents/z: names block 2147483647" =>
            file -> put(file, "latents/z", Int32[typemax(Int32)]),
        "big-endian float32" => file -> put_big_endian(file),
        "has type uint16" =>
            file -> put(file, "layers/0/params", zeros(UInt16, 3, 2, 3)),
        "/layers/0/params: row 0 of group 0" =>
            file -> put(file, "layers/0/params", zeros(3, 2, 3)),
        "must be an earlier sum layer" =>
            file -> (attributes(file["layers/4"])["tied_to"] = 0),
        "must be an earlier sum layer" =>
            file -> (attributes(file["layers/4"])["tied_to"] = -1),
        "/layers/1/tied: is a soft link" =>
            file -> soft_link(file, "layers/1/tied", "/roots"),
        "/meta/out: is an external link" => file -> external_link(file),
        "data lies in another file" => file -> external_storage(file),
        "data lies in another file" => file -> virtual_dataset(file),
        "needs more bytes than the file holds" => file -> huge_dataset(file, nothing),
        "needs more bytes than the file holds" =>
            file -> huge_dataset(file, (1 << 20,)),
    ]
    for (text, change) in cases
        @test occursin(text, spoiled(change))
    end
end

@testset "assignments" begin
    z = Dict(
        "train" => rand(Xoshiro(1), Int32(0):Int32(4), 3, 20),
        "test" => zeros(Int32, 3, 0),
    )
    attributes = Dict{String,Any}("teacher" => "pixels", "seed" => 1, "inertia" => 0.5)
    mktempdir() do folder
        path = joinpath(folder, "assignments.h5")
        for centroids in (nothing, rand(Float32, 7, 5, 3), rand(Float32, 7, 5, 1))
            save_assignments(Assignments(z, 5; centroids, attributes), path)
            found = load_assignments(path)
            @test found.z == z && found.clusters == 5 && found.attributes == attributes
            @test found.centroids == centroids
        end
        h5open(file -> put(file, "z/train", fill(Int32(5), 3, 20)), path, "r+")
        text = message(() -> load_assignments(path))
        @test text == "$path: /z/train: holds ids from 5 to 5, must lie in 0..4."
    end
    rows = Dict("train" => zeros(Int32, 3, 2))
    uneven = Dict("a" => zeros(Int32, 3, 2), "b" => zeros(Int32, 2, 2))
    @test_throws "no split" Assignments(Dict{String,Matrix{Int32}}(), 2)
    @test_throws "at least 1" Assignments(rows, 0)
    @test_throws "differ" Assignments(uneven, 2)
    @test_throws "/centroids: has shape" Assignments(
        rows,
        2;
        centroids = zeros(Float32, 4, 2, 2),
    )
    @test_throws "NaN" Assignments(rows, 2; centroids = fill(NaN32, 4, 2, 3))
end
