using JuiceBridge: JsonError, json_text, parse_json

@testset "JSON" begin
    text = """ {"a": [1, -2.5e3, true, false, null], "ü": "x\\n\\u00e9\\ud83d\\ude00\\"", "o": {}} """
    value = parse_json(text)
    @test value["a"] == Any[1, -2500.0, true, false, nothing]
    @test value["a"][1] isa Int && value["a"][2] isa Float64
    @test value["ü"] == "x\né😀\""
    @test value["o"] == Dict{String,Any}()
    @test parse_json(json_text(value)) == value
    @test parse_json(json_text((name = :a, list = (1, 2.5f0), none = nothing))) ==
          Dict{String,Any}("name" => "a", "list" => Any[1, 2.5], "none" => nothing)
    @test json_text(NaN) == "null"
    @test json_text("\e\x7f") == "\"\\u001b\\u007f\""

    wrong =
        ("", "[1,]", "{\"a\":1,}", "[1 2]", "01", "+1", ".5", "1.", "nul", "\"a", "\"\\q\"")
    more = (
        "\"\\ud800\"",
        "\"\\u12g4\"",
        "\"a\nb\"",
        "[1]]",
        "{a: 1}",
        "'a'",
        "1e999999999999",
    )
    for text in (wrong..., more..., "9"^30, "["^1000, "\"\\")
        @test_throws JsonError parse_json(text)
    end
    @test_throws "at byte 4" parse_json("[1 2]")
end
