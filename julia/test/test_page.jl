# The code of docs/julia.md, and after it that of docs/from_juice.md, runs and prints what the
# pages say.

const PAGE = joinpath(@__DIR__, "..", "..", "docs", "julia.md")
const FROM_JUICE = joinpath(dirname(PAGE), "from_juice.md")

"The tree of the run that the page looks at."
const DIGITS_TREE =
    parse.(
        Int32,
        split(
            "2 59 11 59 6 14 6 7 10 18 10 20 21 22 7 15 18 19 27 11 22 30 31 23 26 34 26 20 21 31 39 24 " *
            "1 42 34 44 36 39 47 1 42 43 0 43 37 47 45 56 50 51 59 44 45 62 47 63 1 2 3 4 62 55 62 63",
        ),
    )

"The files that the page starts from, with parameters and images by chance."
function write_digits(folder)
    circuit = hclt(DIGITS_TREE, 8, 17; seed = 3)
    merge!(circuit.meta, Dict("arm" => "lvd", "colour" => "rgb", "dataset" => "digits"))
    merge!(
        circuit.meta,
        Dict("image_height" => 8, "image_width" => 8, "image_channels" => 1),
    )
    circuit.meta["seed"] = 0
    mkpath(joinpath(folder, "runs", "digits"))
    save_circuit(circuit, joinpath(folder, "runs", "digits", "model.h5"))
    JuiceBridge.HDF5.h5open(joinpath(folder, "digits.h5"), "w") do file
        file["train"] = UInt8.(sample(circuit, 300; seed = 4))
        file["test"] = UInt8.(sample(circuit, 40; seed = 5))
    end
end

"The blocks of a page in some languages: language, line and text."
function code_blocks(page, languages)
    found = @NamedTuple{language::String, line::Int, text::String}[]
    language, start, lines = "", 0, String[]
    for (number, line) in enumerate(eachline(page))
        if !startswith(line, "```")
            push!(lines, line)
        elseif start == 0
            language, start, lines = line[4:end], number, String[]
        else
            language in languages &&
                push!(found, (; language, line = start, text = join(lines, '\n')))
            start = 0
        end
    end
    return found
end

"What code prints, followed by its value as a REPL shows it."
function printed(space, code)
    path = tempname()
    value = open(path, "w") do file
        redirect_stdout(() -> include_string(space, code, "julia.md"), file)
    end
    shown = isnothing(value) ? "" : repr("text/plain", value; context = :limit => true)
    return rstrip(read(path, String) * shown)
end

@testset "the pages about Julia" begin
    blocks = [
        code_blocks(PAGE, ("julia", "text"))
        code_blocks(FROM_JUICE, ("julia", "text"))
    ]
    with_juice = Base.find_package("ProbabilisticCircuits") !== nothing
    mktempdir() do folder
        write_digits(folder)
        cd(folder) do
            space = Module(:Page)
            for (k, block) in enumerate(blocks)
                block.language == "julia" || continue
                occursin("juice_em", block.text) && continue  # needs a GPU
                if !with_juice && occursin("import ProbabilisticCircuits", block.text)
                    @info "The rest of the pages is skipped: ProbabilisticCircuits is not here."
                    @test_skip "Juice.jl"
                    break
                end
                found = printed(space, block.text)
                expected = k < length(blocks) ? blocks[k+1] : block
                expected.language == "text" && @test found == rstrip(expected.text)
            end
            @test isfile("trained.h5")
        end
    end
    @test count(block -> block.language == "text", blocks) > 5
end

"The functions that some cells of the page for users of Juice.jl name."
function named_functions(column)
    rows = filter(startswith("| `"), readlines(FROM_JUICE))
    cells = [split(line, " | ")[column] for line in rows]
    return [
        Symbol(m[1]) for cell in cells for
        m in eachmatch(r"`(?:JuiceBridge\.)?(\w+)\(", cell)
    ]
end

@testset "the page for users of Juice.jl names functions that there are" begin
    @test length(named_functions(2)) >= 8
    for name in named_functions(2)
        @test isdefined(JuiceBridge, name)
    end
    if Base.find_package("ProbabilisticCircuits") === nothing
        @test_skip "Juice.jl"
    else
        for name in named_functions(1)
            @test isdefined(Juice, name)
        end
    end
end
