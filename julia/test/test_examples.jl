# The examples of docstrings and of the package's own pages, marked `jldoctest`, print what they say.

"The examples in some text: what stands between a fence of `jldoctest` and the next."
examples(text) = [m[1] for m in eachmatch(r"^```jldoctest\n(.*?)^```$"ms, text)]

"The inputs of an example, each with what is printed below it."
function exchanges(example)
    prompt, indent = "julia> ", " "^7
    return map(split(example, Regex("^$prompt", "m"); keepempty = false)) do exchange
        lines = split(exchange, '\n')
        after = findfirst(!startswith(indent), lines[2:end])
        return join(lines[1:after], '\n'), rstrip(join(lines[(after+1):end], '\n'))
    end
end

"Whether the REPL keeps the value of some code for itself."
is_silent(code) = endswith(rstrip(first(split(code, '#'))), ';')

"The inputs of an example that print something else: each with what it says and what it is."
function mismatches(example)
    space = Module(:Example)
    Core.eval(space, :(using JuiceBridge))
    found = Tuple{String,String,String}[]
    for (code, expected) in exchanges(example)
        answer = printed(space, is_silent(code) ? "$code\nnothing" : code)
        answer == expected || push!(found, (code, expected, answer))
    end
    return found
end

@testset "a wrong example is found" begin
    right = "julia> x = 1;  # one\n\njulia> [x,\n        2]\n2-element Vector{Int64}:\n 1\n 2\n"
    @test exchanges(right)[2] == ("[x,\n        2]", "2-element Vector{Int64}:\n 1\n 2")
    @test isempty(mismatches(right))
    @test mismatches("julia> 1 + 1\n3\n") == [("1 + 1", "3", "2")]
    @test mismatches("julia> print(1 + 1);\n") == [("print(1 + 1);", "", "2")]
    @test mismatches("julia> 2;\n2\n") == [("2;", "2", "")]
end

@testset "examples in $(basename(path))" for path in [
    source_files("src", "ext")
    filter(endswith(".md"), readdir(joinpath(@__DIR__, "..", "docs", "src"); join = true))
]
    text = read(path, String)
    @test length(examples(text)) == count("```jldoctest", text)
    for example in examples(text)
        @test mismatches(example) == []
    end
end

@test sum(path -> length(examples(read(path, String))), source_files("src")) > 10
