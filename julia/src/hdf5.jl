# HDF5 files that appear whole or not at all, and that are read with checks. A damaged or
# foreign file ends in one sentence instead of wrong numbers.

"No deflate stream unpacks to more than 1,032 times its size."
const DEFLATE_RATIO = 1100

"What the files of this package need beyond their arrays, in bytes."
const FILE_OVERHEAD = 1 << 20

"""
    atomic_file(writer, path, bytes)

Write a file that appears under `path` only when it is complete: `writer(temporary)` makes a
temporary file in the same folder, which is then renamed. If it throws, `path` stays as it
was. `bytes` is what is written: libhdf5 can crash when a disk fills up, so the room is looked
at before.
"""
function atomic_file(writer, path, bytes)
    folder = dirname(abspath(path))
    isdir(folder) ||
        throw(BridgeError("$path: the folder $folder does not exist; create it first."))
    diskstat(folder).available >= bytes + FILE_OVERHEAD ||
        throw(BridgeError("$path: cannot be written (no space left on the disk)."))
    ending = randstring(RandomDevice(), 8)
    temporary = joinpath(folder, ".$(basename(path)).$ending.tmp")
    try
        writer(temporary)
        open(sync_to_disk, temporary, "r+")
        rename_over(temporary, path)
    catch err
        ours(err) && rethrow()
        throw(BridgeError("$path: cannot be written ($(reason(err)))."))
    finally
        rm(temporary; force = true)
    end
    return nothing
end

"Write an HDF5 file, `writer(file)`, atomically."
function atomic_h5(writer, path, bytes)
    return atomic_file(path, bytes) do temporary
        return HDF5.h5open(writer, temporary, "w"; libver_bounds = (v"1.10", v"1.10"))
    end
end

"Rename a file, atomically, over one that may exist; `mv` would delete that first."
function rename_over(from, to)
    code = ccall(:jl_fs_rename, Int32, (Cstring, Cstring), from, to)
    return code < 0 && Base.uv_error("rename", code)
end

sync_to_disk(file) = Sys.isunix() && @ccall fsync(fd(file)::Cint)::Cint

"Errors that are passed on as they are."
ours(err) = err isa Union{BridgeError,InterruptException}

reason(err::API.H5Error) = rstrip(err.msg, '.')
reason(err) = rstrip(first(split(sprint(showerror, err), '\n')), '.')

"Run `f`; whatever goes wrong in it becomes one sentence about `item`."
function guarded(f, item)
    try
        return f()
    catch err
        ours(err) && rethrow()
        throw(BridgeError("$item: damaged ($(reason(err)))."))
    end
end

"""
    open_checked(f, path, kind, version)

`f(file)` on an HDF5 file opened for reading, once its root attributes `format` and
`version` are what is needed and every link in it is a hard link.
"""
function open_checked(f, path, kind, version)
    isfile(path) || throw(BridgeError("$path: there is no such file."))
    readable = guarded(() -> HDF5.ishdf5(path), path)
    readable || throw(BridgeError("$path: not an HDF5 file, or its beginning is damaged."))
    file = try
        HDF5.h5open(path, "r")
    catch err
        ours(err) && rethrow()
        throw(BridgeError("$path: truncated or damaged ($(reason(err)))."))
    end
    try
        found = text_attribute(file, "format")
        found == kind ||
            throw(BridgeError("$path: format is '$found', but '$kind' is needed here."))
        number = whole_attribute(file, "version")
        number == version || throw(
            BridgeError(
                "$path: version $number of $kind, but this program reads version $version.",
            ),
        )
        refuse_links(file)
        return f(file)
    finally
        close(file)
    end
end

"Walk every group once and accept hard links only."
function refuse_links(file)
    waiting, seen = HDF5.Group[HDF5.root(file)], Set{UInt64}()
    while !isempty(waiting)
        group = pop!(waiting)
        guarded(item_place(group)) do
            for name in keys(group)
                info = API.h5l_get_info(group, name, API.H5P_DEFAULT)
                if info.linktype != API.H5L_TYPE_HARD
                    kind = info.linktype == API.H5L_TYPE_SOFT ? "a soft" : "an external"
                    place = item_place(group, name)
                    throw(
                        BridgeError("$place: is $kind link; store the data itself there."),
                    )
                end
                info.u in seen && continue
                push!(seen, info.u)
                item = group[name]
                item isa HDF5.Group ? push!(waiting, item) : close(item)
            end
        end
        close(group)
    end
end

"""
    read_array(group, name, types, rank)

The dataset `name` of `group`, of one of the element `types` (`Int32`, `Float32`,
`Float64`). Shape, type and stored size are looked at before anything is allocated. The
dimensions are in Julia's order, the reverse of the file's.
"""
function read_array(group, name, types, rank)
    place = item_place(group, name)
    return guarded(place) do
        dataset = haskey(group, name) ? group[name] : nothing
        dataset isa HDF5.Dataset || throw(BridgeError("$place: the dataset is missing."))
        try
            T = element_type(dataset, types, place)
            return read_dataset(dataset, T, rank, place)
        finally
            close(dataset)
        end
    end
end

function read_dataset(dataset, T, rank, place)
    space = HDF5.dataspace(dataset)
    simple = API.h5s_get_simple_extent_type(space) == API.H5S_SIMPLE
    dims = simple ? size(space) : ()
    length(dims) == rank || throw(
        BridgeError("$place: has shape $(reverse(dims)), must have $rank dimension(s)."),
    )
    properties = HDF5.get_create_properties(dataset)
    if API.h5p_get_layout(properties) == API.H5D_VIRTUAL ||
       API.h5p_get_external_count(properties) > 0
        throw(BridgeError("$place: its data lies in another file; store it in this one."))
    end
    ratio = API.h5p_get_nfilters(properties) > 0 ? DEFLATE_RATIO : 1
    needed = prod(Int128, dims) * sizeof(T)
    needed <= Int128(ratio) * API.h5d_get_storage_size(dataset) || throw(
        BridgeError(
            "$place: shape $(reverse(dims)) needs more bytes than the file holds for it.",
        ),
    )
    array = Array{T}(undef, dims)
    type = HDF5.datatype(T)
    isempty(array) ||
        API.h5d_read(dataset, type, API.H5S_ALL, API.H5S_ALL, API.H5P_DEFAULT, array)
    return array
end

"The file's little-endian number types that are accepted."
stored_type(::Type{Int32}) = API.H5T_STD_I32LE
stored_type(::Type{Float32}) = API.H5T_IEEE_F32LE
stored_type(::Type{Float64}) = API.H5T_IEEE_F64LE

function element_type(dataset, types, place)
    found = HDF5.datatype(dataset)
    for T in types
        API.h5t_equal(found, stored_type(T)) && return T
    end
    kinds = join((lowercase(string(T)) for T in types), " or ")
    throw(
        BridgeError("$place: has type $(type_name(found)), must be little-endian $kinds."),
    )
end

function type_name(type)
    class, bits = API.h5t_get_class(type), 8 * API.h5t_get_size(type)
    class in (API.H5T_INTEGER, API.H5T_FLOAT) || return "no number"
    order = API.h5t_get_order(type) == API.H5T_ORDER_BE ? "big-endian " : ""
    class == API.H5T_FLOAT && return "$(order)float$bits"
    return "$order$(API.h5t_get_sign(type) == 0 ? "u" : "")int$bits"
end

"Add a dataset; its dimensions in the file are the reverse of Julia's."
write_array(group, name, array) = HDF5.write_dataset(group, name, convert(Array, array))

"`f` on the group `name` of `file`; it must be there."
function with_group(f, file, name)
    place = item_place(file, name)
    group = guarded(() -> haskey(file, name) ? file[name] : nothing, place)
    group isa HDF5.Group || throw(BridgeError("$place: the group is missing."))
    try
        return f(group)
    finally
        close(group)
    end
end

"`file: /path/of/the/item` for a message."
function item_place(item, name = "")
    path = rstrip(rstrip(HDF5.name(item), '/') * "/$name", '/')
    return isempty(path) ? HDF5.filename(item) : "$(HDF5.filename(item)): $path"
end
