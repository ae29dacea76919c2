"""What the upward kernels of product layers have in common, the sum layers above them included."""

from __future__ import annotations

from pyjuice_bridge.engines.torch.fused.gemm import gemm
from pyjuice_bridge.engines.torch.fused.memory import (
    SIZE,
    doubles,
    extremes,
    floats,
    inline,
    longs,
    power_of_two,
)
from pyjuice_bridge.engines.torch.fused.threads import frame_type

SUM, PRODUCT = -1, -2
"""What stands in place of a variable for a factor that is no input."""
LIFT = 60
"""The exponent to which rows are raised, where nothing but kernels reads them: with the largest
value near 2^60, numbers down to 1e-56 of it have a place.  Two such rows have a product in
float32; with a third one, the product is lowered first."""

UP = frame_type(
    *("blocks", "batch", "width", "chunk", "lift"),
    *("offsets", "sources", "variables", "widths", "scales", "errors"),
    *("above", "num_above", "rows", "tile", "scale", "error", "lost"),
    *("gemm", "weights", "sums", "sum_width", "sum_error", "sum_lost", "faint"),
    reals=("limit", "floor"),
)
"""Frame of the upward kernels; a task is ``chunk`` samples of a block.

Read: ``offsets`` int64 [blocks + 1] into int64 arrays with an entry per factor: ``sources``, the
address of its values, of an input's the table; ``variables``, an input's variable, else ``SUM`` or
``PRODUCT``; ``widths``; ``scales`` and ``errors``, addresses of its log-scales and error bounds, 0
for none.  Errors are looked at when one of the flags is set at the addresses ``above`` int64
[num_above].  ``rows`` int32 [variables, batch]: the rows of tables to read.  Written: ``tile``
[blocks, batch, width]; ``scale`` and ``error`` float64 [blocks, batch]; the flag at ``lost``, when
some error is not 0.

The largest value of a row is brought to 2^``lift`` or just below.

If ``gemm`` is not 0, products with ``weights`` (int64 [blocks], addresses) go to ``sums`` [blocks,
batch, sum_width].  If ``sum_error`` is not 0 these are the values of sums with one edge each, and
``sum_error`` and the flag at ``sum_lost`` are written: where the flag at ``faint`` is set, values
below ``limit`` may have lost ``floor``.
"""


@inline
def factors_of(f):  # type: ignore[no-untyped-def]
    """Offsets, sources, variables, widths, scales and errors."""
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    return (
        offsets,
        longs(f.sources, edges),
        longs(f.variables, edges),
        longs(f.widths, edges),
        longs(f.scales, edges),
        longs(f.errors, edges),
    )


@inline
def portion(f, task):  # type: ignore[no-untyped-def]
    """Return the block and the samples of a task."""
    chunks = (f.batch + f.chunk - 1) // f.chunk
    block = task // chunks
    start = (task - block * chunks) * f.chunk
    return block, start, min(f.batch, start + f.chunk)


@inline
def any_set(flags, count):  # type: ignore[no-untyped-def]
    """Whether one of the flags at some addresses is set."""
    found = False
    places = longs(flags, count)
    for i in range(count):
        found = found or longs(places[i], 1)[0] != 0
    return found


@inline
def scale(place, exponent, width):  # type: ignore[no-untyped-def]
    """Multiply a row by 2^exponent."""
    factor = power_of_two(exponent)
    out = floats(place, width)
    for k in range(width):
        out[k] *= factor


@inline
def set_down(f, place, sample, begin, end, scales, log_top, bound):  # type: ignore[no-untyped-def]
    """Write the scale and the error bound of a row."""
    if bound > 0:
        longs(f.lost, 1)[0] = 1
    doubles(f.error, f.blocks * f.batch)[place] = bound
    for e in range(begin, end):
        if scales[e] != 0:
            log_top += doubles(scales[e], f.batch)[sample]
    doubles(f.scale, f.blocks * f.batch)[place] = log_top


@inline
def sums_above(f, block, start, stop, tracked):  # type: ignore[no-untyped-def]
    """Multiply the rows that have just been made by the matrix."""
    if f.gemm == 0:
        return
    place = block * f.batch + start
    at = f.sums + place * f.sum_width * SIZE
    values, weights = f.tile + place * f.width * SIZE, longs(f.weights, f.blocks)[block]
    gemm(f.gemm, 0, 1, stop - start, f.sum_width, f.width,
        values, f.width, weights, f.width, 0, at, f.sum_width,
    )  # fmt: skip
    if f.sum_error == 0:
        return
    errors = doubles(f.sum_error, f.blocks * f.batch)
    inherited = doubles(f.error, f.blocks * f.batch)
    looked_at = tracked or longs(f.faint, 1)[0] != 0
    for i in range(stop - start):
        bound = inherited[place + i]
        if looked_at or bound > 0:
            low, _ = extremes(at + i * f.sum_width * SIZE, f.sum_width)
            if low < f.limit:
                bound += f.floor
            if bound > 0:
                longs(f.sum_lost, 1)[0] = 1
        errors[place + i] = bound
