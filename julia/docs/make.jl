# Build the reference, examples checked: `julia --project=julia/docs julia/docs/make.jl`.

using Documenter
using JuiceBridge

DocMeta.setdocmeta!(JuiceBridge, :DocTestSetup, :(using JuiceBridge); recursive = true)

makedocs(;
    sitename = "JuiceBridge",
    modules = [JuiceBridge],
    pages = ["index.md", "reference.md"],
    checkdocs = :exports,
    remotes = nothing,
    format = Documenter.HTML(; prettyurls = false, edit_link = nothing, repolink = nothing),
)
