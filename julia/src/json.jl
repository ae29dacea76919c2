# JSON text (RFC 8259) to plain values and back: region graphs and the worker's messages.

"""
    JsonError(message, position)

The text is not JSON; `position` counts bytes from one.
"""
struct JsonError <: Exception
    message::String
    position::Int
end

Base.showerror(io::IO, error::JsonError) =
    print(io, error.message, " at byte ", error.position)

mutable struct JsonReader
    const text::String
    at::Int
end

const JSON_DEPTH = 500

"""
    parse_json(text)

The value of a JSON text: `Dict{String,Any}`, `Vector{Any}`, `String`, `Int`, `Float64`,
`Bool` or `nothing`. Of equal keys in an object the last one counts. Throws
[`JsonError`](@ref).
"""
function parse_json(text::AbstractString)
    reader = JsonReader(String(text), 1)
    isvalid(reader.text) || throw(JsonError("invalid UTF-8", 1))
    value = json_value(reader, 0)
    peek_byte(reader) === nothing || json_fail(reader, "text goes on after the value")
    return value
end

json_fail(reader, message) = throw(JsonError(message, reader.at))

"The next byte that is no white space, `nothing` at the end; the reader then stands on it."
function peek_byte(reader)
    while reader.at <= ncodeunits(reader.text)
        byte = codeunit(reader.text, reader.at)
        byte in (0x20, 0x09, 0x0a, 0x0d) || return byte
        reader.at += 1
    end
    return nothing
end

function take_byte!(reader, byte::Char)
    peek_byte(reader) == UInt8(byte) || json_fail(reader, "expected '$byte'")
    return reader.at += 1
end

function json_value(reader, depth)
    depth <= JSON_DEPTH || json_fail(reader, "nested too deeply")
    byte = peek_byte(reader)
    byte === nothing && json_fail(reader, "the text ends too early")
    byte == UInt8('{') && return json_object(reader, depth)
    byte == UInt8('[') && return json_array(reader, depth)
    byte == UInt8('"') && return json_string(reader)
    for (word, value) in ("true" => true, "false" => false, "null" => nothing)
        if startswith(SubString(reader.text, reader.at), word)
            reader.at += length(word)
            return value
        end
    end
    return json_number(reader)
end

function json_object(reader, depth)
    object = Dict{String,Any}()
    take_byte!(reader, '{')
    while peek_byte(reader) != UInt8('}')
        isempty(object) || take_byte!(reader, ',')
        peek_byte(reader) == UInt8('"') || json_fail(reader, "expected a key in quotes")
        key = json_string(reader)
        take_byte!(reader, ':')
        object[key] = json_value(reader, depth + 1)
    end
    take_byte!(reader, '}')
    return object
end

function json_array(reader, depth)
    array = Any[]
    take_byte!(reader, '[')
    while peek_byte(reader) != UInt8(']')
        isempty(array) || take_byte!(reader, ',')
        push!(array, json_value(reader, depth + 1))
    end
    take_byte!(reader, ']')
    return array
end

const JSON_NUMBER = r"\G-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"

function json_number(reader)
    found = match(JSON_NUMBER, reader.text, reader.at)
    found === nothing && json_fail(reader, "expected a value")
    whole = found[1] === nothing && found[2] === nothing
    value = tryparse(whole ? Int : Float64, found.match)
    value === nothing && json_fail(reader, "the number is too large")
    reader.at += ncodeunits(found.match)
    return value
end

const JSON_ESCAPES = Dict(
    '"' => '"',
    '\\' => '\\',
    '/' => '/',
    'b' => '\b',
    'f' => '\f',
    'n' => '\n',
    'r' => '\r',
    't' => '\t',
)

function json_string(reader)
    take_byte!(reader, '"')
    out = IOBuffer()
    while reader.at <= ncodeunits(reader.text)
        char = reader.text[reader.at]
        char < ' ' && json_fail(reader, "control character in text")
        reader.at += ncodeunits(char)
        char == '"' && return String(take!(out))
        print(out, char == '\\' ? json_escape(reader) : char)
    end
    return json_fail(reader, "text without closing quotes")
end

function json_escape(reader)
    reader.at <= ncodeunits(reader.text) || json_fail(reader, "the text ends too early")
    char = reader.text[reader.at]
    reader.at += ncodeunits(char)
    haskey(JSON_ESCAPES, char) && return JSON_ESCAPES[char]
    char == 'u' || json_fail(reader, "unknown escape")
    code = json_unit(reader)
    if 0xd800 <= code < 0xdc00 && startswith(SubString(reader.text, reader.at), "\\u")
        reader.at += 2
        low = json_unit(reader)
        0xdc00 <= low < 0xe000 || json_fail(reader, "half a surrogate pair")
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00)
    end
    0xd800 <= code < 0xe000 && json_fail(reader, "half a surrogate pair")
    return Char(code)
end

function json_unit(reader)
    digits = match(r"\G[0-9a-fA-F]{4}", reader.text, reader.at)
    digits === nothing && json_fail(reader, "expected four hexadecimal digits")
    reader.at += 4
    return parse(UInt32, digits.match; base = 16)
end

"""
    json_text(value)

`value` (dictionary, named tuple, array, tuple, text, symbol, number, boolean, `nothing`) as
JSON on one line. NaN and infinite numbers become `null`.
"""
json_text(value) = sprint(write_json, value)

write_json(io::IO, ::Nothing) = print(io, "null")
write_json(io::IO, value::Union{Bool,Integer}) = print(io, value)
write_json(io::IO, value::AbstractFloat) =
    isfinite(value) ? print(io, Float64(value)) : print(io, "null")
write_json(io::IO, value::Symbol) = write_json(io, String(value))

function write_json(io::IO, text::AbstractString)
    print(io, '"')
    for char in text
        if char in ('"', '\\')
            print(io, '\\', char)
        elseif char < ' ' || char == '\x7f' || !isvalid(char)
            code = isvalid(char) ? UInt32(char) : 0xfffd
            print(io, "\\u", string(code; base = 16, pad = 4))
        else
            print(io, char)
        end
    end
    return print(io, '"')
end

function write_json(io::IO, values::Union{AbstractVector,Tuple})
    print(io, '[')
    for (i, value) in enumerate(values)
        i > 1 && print(io, ',')
        write_json(io, value)
    end
    return print(io, ']')
end

function write_json(io::IO, values::Union{AbstractDict,NamedTuple})
    print(io, '{')
    for (i, (key, value)) in enumerate(pairs(values))
        i > 1 && print(io, ',')
        write_json(io, string(key))
        print(io, ':')
        write_json(io, value)
    end
    return print(io, '}')
end
