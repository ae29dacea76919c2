# Files in Juice's formats, through Juice's own functions.

const READABLE = r"\.(jpc|spn|psdd)(\.gz)?$"
const WRITABLE = r"\.jpc(\.gz)?$"

function load_juice(path::AbstractString; keywords...)
    occursin(READABLE, path) || throw(
        BridgeError(
            "$path: the name must end in .jpc, .spn or .psdd, with or without .gz.",
        ),
    )
    isfile(path) || throw(BridgeError("$path: there is no such file."))
    pc = try
        read(path, Juice.ProbCircuit)
    catch err
        err isa InterruptException && rethrow()
        throw(BridgeError("$path: Juice.jl cannot read it ($(one_line(err)))."))
    end
    return from_juice(pc; keywords...)
end

function save_juice(circuit::Circuit, path::AbstractString; root::Integer = 1)
    found = match(WRITABLE, path)
    found === nothing && throw(BridgeError("$path: the name must end in .jpc or .jpc.gz."))
    pc = to_juice(circuit; root)
    temporary = joinpath(
        dirname(abspath(path)),
        ".$(randstring(RandomDevice(), 8)).tmp$(found.match)",
    )
    try
        write(temporary, pc)
        rename_over(temporary, path)
    catch err
        err isa InterruptException && rethrow()
        throw(BridgeError("$path: cannot be written ($(one_line(err)))."))
    finally
        rm(temporary; force = true)
    end
    return nothing
end

one_line(err) = rstrip(first(split(sprint(showerror, err), '\n')), '.')
