"Whether a package of the tests is in this environment; says so if it is not."
function has_package(name)
    found = Base.find_package(name) !== nothing
    found || @info "What needs the package $name is skipped: it is not in this environment."
    return found
end

@testset "Aqua" begin
    if has_package("Aqua")
        @eval using Aqua
        Base.invokelatest(Aqua.test_all, JuiceBridge; persistent_tasks = false)
    else
        @test_skip "Aqua"
    end
end

@testset "every exported name has a docstring" begin
    for name in names(JuiceBridge)
        @test haskey(Base.Docs.meta(JuiceBridge), Base.Docs.Binding(JuiceBridge, name))
    end
end

@testset "the reference lists every exported name" begin
    listed = readlines(joinpath(@__DIR__, "..", "docs", "src", "reference.md"))
    @test issubset(string.(names(JuiceBridge)), listed)
end

@testset "formatting" begin
    if has_package("JuliaFormatter")
        @eval using JuliaFormatter
        for file in source_files("src", "ext", "test", "docs")
            @test Base.invokelatest(JuliaFormatter.format, file; overwrite = false)
        end
    else
        @test_skip "JuliaFormatter"
    end
end

"Functions and types of Base, and two names that keywords and variables may have, too."
const NAMES_OF_BASE = setdiff(
    filter(names(Base)) do name
        return isdefined(Base, name) && getfield(Base, name) isa Union{Function,Type}
    end,
    (:precision, :schedule),
)

"The names that an argument list or the left side of an assignment introduces."
introduced(name::Symbol) = [name]
introduced(other) = Symbol[]
function introduced(part::Expr)
    part.head in (:tuple, :parameters) &&
        return reduce(vcat, map(introduced, part.args); init = Symbol[])
    part.head === :(::) && length(part.args) == 1 && return Symbol[]
    part.head in (:(::), :kw, :..., :(=)) && return introduced(part.args[1])
    return Symbol[]
end

"Arguments of a function's signature, as far as it is one."
function arguments(signature)
    while signature isa Expr && signature.head in (:where, :(::))
        signature = signature.args[1]
    end
    signature isa Expr || return Symbol[]
    signature.head === :call || return introduced(signature)
    return reduce(vcat, map(introduced, signature.args[2:end]); init = Symbol[])
end

"Names of Base that code takes for something else."
shadowed!(found, _) = found
function shadowed!(found, code::Expr)
    if code.head === :(=) && Meta.isexpr(code.args[1], (:call, :where, :(::)))
        append!(found, arguments(code.args[1]))
    elseif code.head in (:(=), :catch)
        append!(found, introduced(code.args[1]))
    elseif code.head === :try && code.args[2] isa Symbol
        push!(found, code.args[2])
    elseif code.head in (:function, :->)
        append!(found, arguments(code.args[1]))
    end
    foreach(part -> shadowed!(found, part), code.args)
    return found
end

@testset "no name of Base means something else: $(basename(file))" for file in source_files(
    "src",
    "ext",
)
    code = Meta.parseall(read(file, String))
    @test intersect(shadowed!(Symbol[], code), NAMES_OF_BASE) == []
end
