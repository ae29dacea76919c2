# Region graphs of images: every region is a rectangle of pixels with all their channels, and
# rectangles that different cuts lead to are one region. Variables are numbered as the columns of
# images are: row by row, pixel by pixel, channels fastest.

"First row, first column, and the row and column after the last ones, counted from zero."
const Rectangle = NTuple{4,Int}

const MOST_PARTITIONS = 1_000_000

"""
    quad_tree(sides; splits = 4)

The region graph that cuts an image into quarters, those into quarters, and so on down to
pixels.

- `sides`: height, width and channels of the image;
- `splits`: 4 cuts a rectangle both ways at once; 2 halves its longer side, so that there is a
  region for the halves, too. Halves of odd sides differ by one.

```jldoctest
julia> quad_tree((28, 28, 1))
RegionGraph(784 variables, 1,109 regions, 325 partitions)
```
"""
function quad_tree(sides; splits::Integer = 4)
    splits in (2, 4) || refuse("splits is $splits; it must be 2 or 4.")
    return rectangle_graph(sides) do rectangle
        top, left, bottom, right = rectangle
        splits == 2 && return [halved(rectangle, bottom - top >= right - left ? 1 : 2)]
        return [between(halves(rectangle, 1), halves(rectangle, 2))]
    end
end

"""
    quad_graph(sides)

The region graph that cuts every square both ways: into upper and lower halves, and into left
and right halves. Each half splits into its two quarters, which are squares again; a quarter
that is one pixel wide or high has one way to be cut. `sides` are those of
[`quad_tree`](@ref).
"""
function quad_graph(sides)
    axis_of = Dict{Rectangle,Int}()
    return rectangle_graph(sides) do rectangle
        haskey(axis_of, rectangle) && return [halved(rectangle, axis_of[rectangle])]
        ways = [axis => halved(rectangle, axis) for axis = 1:2]
        filter!(way -> length(last(way)) == 2, ways)
        if length(ways) == 2
            for (axis, parts) in ways, part in parts
                axis_of[part] = 3 - axis
            end
        end
        return last.(ways)
    end
end

"""
    poon_domingos(sides, steps)

The region graph that cuts an image at every multiple of a step, one partition for each cut.

Cuts are at `ceil(i * step)`, i = 1, 2, …, along both axes; a rectangle takes the largest step
that cuts it and is a leaf when none does.

- `sides`: height, width and channels of the image;
- `steps`: in pixels, at least 1 each.
"""
function poon_domingos(sides, steps)
    !isempty(steps) && all(pixels -> 1 <= pixels < Inf, steps) ||
        refuse("steps are $steps; they must be one or more numbers from 1 on.")
    return rectangle_graph(sides) do (top, left, bottom, right)
        for pixels in sort(collect(steps); rev = true)
            rows = [
                between((top, cut, bottom), (left, right)) for
                cut in multiples(pixels, top, bottom)
            ]
            columns = [
                between((top, bottom), (left, cut, right)) for
                cut in multiples(pixels, left, right)
            ]
            isempty(rows) && isempty(columns) || return [rows; columns]
        end
        return Vector{Rectangle}[]
    end
end

"""
    congruent(graph, sides)

`[regions]`: numbers of the regions' shapes, equal where a shift makes regions equal, with all
the cuts below them: the `shapes` of [`region_circuit`](@ref). `sides` are those of the image.
"""
function congruent(graph::RegionGraph, sides)
    boxes = bounding_boxes(graph, sides)
    _, width, channels = sides
    known = Dict{Any,Int}()
    shapes = zeros(Int, length(graph.scopes))
    leaves = region_leaves(graph)
    for region in sortperm(length.(graph.scopes))
        top, left = boxes[region]
        first_variable = (top * width + left) * channels + 1
        below = map(graph.splits[region]) do children
            return [
                (shapes[child], boxes[child][1] - top, boxes[child][2] - left) for
                child in children
            ]
        end
        key = (sort(leaves[region]) .- first_variable, below)
        shapes[region] = get!(known, key, length(known) + 1)
    end
    return shapes
end

"The smallest [`Rectangle`](@ref) around every region."
function bounding_boxes(graph::RegionGraph, sides)
    height, width, channels = sides
    graph.num_vars == height * width * channels || refuse(
        "The region graph has $(graph.num_vars) variables, images of $height×$width with " *
        "$channels channels have $(height * width * channels).",
    )
    return map(graph.scopes) do scope
        pixels = (scope .- 1) .÷ channels
        top, bottom = extrema(pixels .÷ width)
        left, right = extrema(pixels .% width)
        return (top, left, bottom + 1, right + 1)
    end
end

"""
    rectangle_graph(cuts, sides)

Rectangles cut breadth first, beginning with the whole image: `cuts(rectangle)` are lists of
the parts of a rectangle, of which those with one part count for nothing.
"""
function rectangle_graph(cuts, sides)
    height, width, channels = sides
    minimum(sides) >= 1 || refuse("sides are $sides; they must be at least 1 each.")
    regions = Rectangle[(0, 0, height, width)]
    region_of = Dict(regions[1] => 1)
    partitions = Vector{Int}[]
    for rectangle in regions  # grows while it is gone through
        for parts in cuts(rectangle)
            length(parts) >= 2 || continue
            for part in parts
                haskey(region_of, part) && continue
                push!(regions, part)
                region_of[part] = length(regions)
            end
            push!(partitions, [region_of[rectangle]; [region_of[part] for part in parts]])
        end
        length(partitions) <= MOST_PARTITIONS || refuse(
            "The region graph has more than $(commas(MOST_PARTITIONS)) partitions; " *
            "cut more coarsely.",
        )
    end
    variables = reshape(1:(height*width*channels), channels, width, height)
    scopes = [
        vec(variables[:, (left+1):right, (top+1):bottom]) for
        (top, left, bottom, right) in regions
    ]
    return RegionGraph(height * width * channels, scopes, partitions)
end

"Where two halves of a side begin and end; a side of one pixel is not cut."
function halves(rectangle, axis)
    low, high = rectangle[axis], rectangle[axis+2]
    return high - low == 1 ? (low, high) : (low, (low + high) ÷ 2, high)
end

"A rectangle with one side cut in two."
function halved(rectangle, axis)
    top, left, bottom, right = rectangle
    axis == 1 && return between(halves(rectangle, 1), (left, right))
    return between((top, bottom), halves(rectangle, 2))
end

"The rectangles between the given rows and columns, row by row."
function between(rows, columns)
    return Rectangle[
        (rows[i], columns[j], rows[i+1], columns[j+1]) for i = 1:(length(rows)-1) for
        j = 1:(length(columns)-1)
    ]
end

"The different `ceil(i * pixels)` strictly between `low` and `high`."
function multiples(pixels, low, high)
    numbers = max(1, floor(Int, low / pixels)):(floor(Int, high / pixels)+1)
    return filter(cut -> low < cut < high, unique(ceil(Int, i * pixels) for i in numbers))
end
