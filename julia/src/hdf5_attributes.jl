# Scalar attributes of HDF5 files: texts and numbers.

"The scalar attribute `name` as text; it must be there."
function text_attribute(item, name)
    value = scalar_attribute(item, name)
    value isa String && return value
    return fail_attribute(item, name, value, "text")
end

"The scalar attribute `name` as a whole number; it must be there."
function whole_attribute(item, name)
    value = scalar_attribute(item, name)
    value isa Integer && return value
    return fail_attribute(item, name, value, "a whole number")
end

function fail_attribute(item, name, value, wanted)
    problem = value === nothing ? "is missing" : "is $(repr(value))"
    throw(BridgeError("$(item_place(item)): attribute '$name' $problem, must be $wanted."))
end

"All attributes of the group `name` of `file`, which may be absent."
function group_attributes(file, name)
    vals = Dict{String,Any}()
    haskey(file, name) || return vals
    return with_group(file, name) do group
        for key in guarded(() -> keys(HDF5.attributes(group)), item_place(group))
            vals[key] = scalar_attribute(group, key)
        end
        return vals
    end
end

"An attribute that is one text or number; `nothing` if there is no such attribute."
function scalar_attribute(item, name)
    place = item_place(item)
    return guarded("$place: attribute '$name'") do
        API.h5a_exists(item, name) || return nothing
        attribute = HDF5.open_attribute(item, name)
        try
            return scalar_value(attribute, "$place: attribute '$name'")
        finally
            close(attribute)
        end
    end
end

function scalar_value(attribute, place)
    type = HDF5.datatype(attribute)
    class = API.h5t_get_class(type)
    scalar = API.h5s_get_simple_extent_type(HDF5.dataspace(attribute)) == API.H5S_SCALAR
    if scalar && class == API.H5T_STRING
        text =
            API.h5t_is_variable_str(type) ? variable_text(attribute, type) :
            fixed_text(attribute, type)
        isvalid(text) && return text
    elseif scalar && class in (API.H5T_INTEGER, API.H5T_FLOAT, API.H5T_ENUM)
        value = read(attribute)
        return value isa AbstractFloat ? Float64(value) : value
    end
    throw(BridgeError("$place must be one text or number."))
end

function fixed_text(attribute, type)
    bytes = Vector{UInt8}(undef, API.h5t_get_size(type))
    API.h5a_read(attribute, type, bytes)
    if API.h5t_get_strpad(type) == API.H5T_STR_NULLTERM
        resize!(bytes, something(findfirst(iszero, bytes), length(bytes) + 1) - 1)
    end
    return String(rstrip(String(bytes), '\0'))
end

function variable_text(attribute, type)
    buffer = Ref{Ptr{UInt8}}(C_NULL)
    API.h5a_read(attribute, type, buffer)
    buffer[] == C_NULL && return ""
    text = unsafe_string(buffer[])
    API.h5d_vlen_reclaim(type, HDF5.dataspace(attribute), API.H5P_DEFAULT, buffer)
    return text
end

"Set a scalar attribute; text becomes fixed-length UTF-8, which the file's checksums cover."
function write_attribute(item, name, text::AbstractString)
    bytes = Vector{UInt8}(String(text))
    isempty(bytes) && push!(bytes, 0x00)
    type = API.h5t_copy(API.H5T_C_S1)
    API.h5t_set_size(type, length(bytes))
    API.h5t_set_strpad(type, API.H5T_STR_NULLPAD)
    API.h5t_set_cset(type, API.H5T_CSET_UTF8)
    datatype = HDF5.Datatype(type)
    attribute = HDF5.create_attribute(item, name, datatype, HDF5.dataspace(0))
    try
        API.h5a_write(attribute, datatype, bytes)
    finally
        close(attribute)
        close(datatype)
    end
end

write_attribute(item, name, value::Integer) = HDF5.write_attribute(item, name, Int64(value))
write_attribute(item, name, value::AbstractFloat) =
    HDF5.write_attribute(item, name, Float64(value))
