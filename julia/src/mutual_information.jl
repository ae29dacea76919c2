# Pairwise mutual information of binned values, from exact joint counts.

"Most entries of the joint tables that are counted together; they should stay in cache."
const TABLE_CELLS = 1 << 15

"Most variables whose joint tables with one other variable are counted together."
const TABLE_WIDTH = 8

"""
    mutual_information(x, categories; bins = 16, pseudocount = 1.0)

Mutual information of every pair of variables in nats: `[n, n]`, symmetric, rounded to 1e-6,
zero on the diagonal. The same numbers as Python's `pyjuice_bridge.circuit.chow_liu` gives.

- `x`: `[n, rows]` integers, -1 where a value is missing; a pair counts the rows where both
  are present;
- `categories`: number of values of each variable, one number or `[n]`;
- `bins`: most bins per variable. A variable with more values is binned: going through its
  values in order, a bin is closed when it holds its share of the rows not yet binned. Bins
  join neighbouring values: for values without an order, such as cluster ids, let `bins` be
  the number of categories;
- `pseudocount`: rows of the uniform distribution mixed into each joint table.

Uses all threads of Julia.
"""
function mutual_information(
    x::AbstractMatrix{<:Integer},
    categories;
    bins::Integer = 16,
    pseudocount::Real = 1.0,
)
    isempty(x) && refuse("x must be a non-empty matrix of [variables, rows].")
    bins >= 1 && pseudocount >= 0 ||
        refuse("bins must be at least 1 and pseudocount at least 0.")
    sizes = category_vector(categories, size(x, 1))
    counts = value_counts(x, sizes)
    bin_of, used = bin_borders(counts, sizes, bins)
    slots = maximum(used .+ (view(counts, 1, :) .> 0))
    codes = Array{slots <= 256 ? UInt8 : UInt32}(undef, reverse(size(x)))
    fill_codes!(codes, x, bin_of)
    return pairwise_information(codes, used, slots, Float64(pseudocount))
end

"`[values + 1, n]`: how often -1, 0, 1, … occur in each variable."
function value_counts(x, sizes)
    counts = zeros(Int, maximum(sizes) + 1, length(sizes))
    for column in eachcol(x), (variable, value) in enumerate(column)
        if !(MISSING <= value < sizes[variable])
            refuse(
                "x holds values outside 0..$(sizes[variable] - 1) (or -1, missing) " *
                "for variable $variable.",
            )
        end
        counts[value+2, variable] += 1
    end
    return counts
end

"""
The bin of every value, `[values + 1, n]` like `counts`, and how many bins each variable
has. Bins count from zero, and a missing value has the bin after the last.
"""
function bin_borders(counts, sizes, bins)
    bin_of = Matrix{Int}(undef, size(counts))
    used = copy(sizes)
    for (variable, held) in enumerate(eachcol(counts))
        bin_of[2:end, variable] .= 0:(length(held)-2)
        if sizes[variable] > bins
            left = sum(view(held, 2:length(held)))
            bin = filled = 0
            for value = 2:length(held)
                bin_of[value, variable] = bin
                filled += held[value]
                if filled > 0 && filled * (bins - bin) >= left && left > filled
                    left -= filled
                    filled = 0
                    bin += 1
                end
            end
            used[variable] = bin + 1
        end
        bin_of[1, variable] = used[variable]
    end
    return bin_of, used
end

function fill_codes!(codes, x, bin_of)
    for row in axes(x, 2), variable in axes(x, 1)
        codes[row, variable] = bin_of[x[variable, row]+2, variable]
    end
end

"""
Mutual information of all pairs from the bin ids `codes [rows, n]`.

The rows in a variable's commonest bin are left out of its joint tables and follow from the
margins, which saves most of the work on images with a flat background. Variables with the
commonest of those come first.
"""
function pairwise_information(codes, used, slots, pseudocount)
    rows, n = size(codes)
    margins = zeros(Int, slots, n)
    for variable = 1:n, row = 1:rows
        margins[codes[row, variable]+1, variable] += 1
    end
    order = sortperm(vec(maximum(margins; dims = 1)); rev = true)
    width = clamp(TABLE_CELLS ÷ slots^2, 1, TABLE_WIDTH)
    tiles = code_tiles(codes, order, width)
    result = zeros(n, n)
    next = Threads.Atomic{Int}(1)
    @sync for _ = 1:min(n, Threads.nthreads())
        Threads.@spawn begin
            work = TableWork(rows, slots, width)
            while (i = Threads.atomic_add!(next, 1)) <= n
                information_of!(
                    result,
                    i,
                    order,
                    codes,
                    tiles,
                    margins,
                    used,
                    pseudocount,
                    work,
                )
            end
        end
    end
    return result
end

"`[width, rows, tiles]`: the codes in `order`, tiles of neighbouring variables row by row."
function code_tiles(codes, order, width)
    rows, n = size(codes)
    tiles = zeros(eltype(codes), width, rows, cld(n, width))
    for (i, variable) in enumerate(order)
        tile, k = fldmod1(i, width)
        view(tiles, k, :, tile) .= view(codes, :, variable)
    end
    return tiles
end

"What one task needs to count joint tables `[slots, width, slots]`."
struct TableWork
    rare::Vector{Int32}
    first::Vector{Int32}
    table::Array{Int32,3}

    TableWork(rows, slots, width) =
        new(zeros(Int32, rows), zeros(Int32, rows), zeros(Int32, slots, width, slots))
end

"Fills in the pairs of variable `order[i]` with those after it in `order`."
function information_of!(result, i, order, codes, tiles, margins, used, pseudocount, work)
    width, n = size(tiles, 1), length(order)
    variable = order[i]
    mode = argmax(view(margins, :, variable))
    found = rare_rows!(work, view(codes, :, variable), mode - 1)
    for tile = fld1(i, width):size(tiles, 3)
        count_tables!(work, view(tiles, :, :, tile), found, Val(width))
        for k = 1:width
            j = (tile - 1) * width + k
            i < j <= n || continue
            other = order[j]
            joint = view(work.table, :, k, :)
            restore_mode!(view(joint, :, mode), joint, view(margins, :, other))
            bins = (used[other], used[variable])
            result[other, variable] =
                result[variable, other] = information(joint, bins..., pseudocount)
        end
    end
end

"The rows where the variable is not in its commonest bin, and where its bin's tables begin."
function rare_rows!(work, codes, mode)
    block_size = size(work.table, 1) * size(work.table, 2)
    found = 0
    for (row, code) in enumerate(codes)
        code == mode && continue
        found += 1
        work.rare[found] = row
        work.first[found] = code * block_size
    end
    return found
end

function count_tables!(work, codes, found, ::Val{W}) where {W}
    table = fill!(work.table, 0)
    slots = size(table, 1)
    @inbounds for r = 1:found
        row, offset = work.rare[r], work.first[r]
        for k = 1:W
            table[offset+(k-1)*slots+codes[k, row]+1] += Int32(1)
        end
    end
end

function restore_mode!(column, joint, margins)
    for slot in eachindex(column)
        column[slot] = margins[slot] - sum(view(joint, slot, :))
    end
end

"Mutual information of the smoothed table `joint[1:rows, 1:columns]`, rounded."
function information(joint, rows, columns, pseudocount)
    extra = pseudocount / (rows * columns)
    of_none = x_log_x(extra)
    cells = margins = total = 0.0
    for column = 1:columns
        sum_here = 0.0
        for row = 1:rows
            found = joint[row, column]
            value = found + extra
            cells += found == 0 ? of_none : x_log_x(value)
            sum_here += value
        end
        margins += x_log_x(sum_here)
        total += sum_here
    end
    for row = 1:rows
        margins += x_log_x(sum(view(joint, row, 1:columns)) + columns * extra)
    end
    total > 0 || return 0.0
    return round(max(0.0, (cells - margins + x_log_x(total)) / total) * 1e6) / 1e6
end

x_log_x(x) = x > 0 ? x * log(x) : zero(x)
