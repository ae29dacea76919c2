"""Samples of a model as a picture, lines of text or an array, drawn part by part."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pyjuice_bridge.query.model import Model

_VALUES = 1 << 22
"""Values drawn at once."""
_MOST_IN_PICTURE = 10_000


def write_samples(model: Model, n: int, out: Path | None, seed: int) -> Path | None:
    """Write n samples to ``out``; return the file, None for the screen.

    An array where the name ends in .npy; else a picture of images, lines of text, a table as csv.

    Raises:
        UserError: the file cannot be written, or the samples do not fit its kind.
    """
    if out is not None and out.suffix.lower() == ".npy":
        _save(out, lambda file: _write_array(file, model, n, seed))
    elif model.codec.domain == "images":
        out = out or Path("samples.png")
        if n > _MOST_IN_PICTURE:
            raise UserError(
                f"a picture holds at most {_MOST_IN_PICTURE:,} images; for more give --out a name "
                "that ends in .npy"
            )
        write_grid(out, model.sample(n, seed=seed), math.ceil(math.sqrt(n)), white_of(model))
    else:
        lines = _lines(model, n, seed)
        if out is None:
            for line in lines:
                click.echo(line, nl=False)
        else:
            _save(out, lambda file: file.writelines(line.encode() for line in lines))
    return out


def write_grid(out: Path, images: NDArray[np.uint8], columns: int, white: int) -> None:
    """Write images as one picture.

    Raises:
        UserError: the name does not end in .png, or the file cannot be written.
    """
    from pyjuice_bridge.report.images import grid_png

    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: pictures are written as PNG, so give a name that ends in .png")
    scale = max(1, 56 // images.shape[1])
    _save(out, lambda file: file.write(grid_png(images, columns, scale, white=white)))


def white_of(model: Model) -> int:
    """Return the value of a full-brightness pixel: below 255 for data with few grey levels."""
    most = int(model.circuit.categories.max()) - 1
    return most if most < 64 else 255


def one_line(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split()) + "\n"


def _save(out: Path, fill: Callable[[IO[bytes]], object]) -> None:
    from pyjuice_bridge.files import atomic_file

    try:
        with atomic_file(out) as file:
            fill(file)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from None


def _parts(model: Model, n: int, seed: int) -> Iterator[Any]:
    """Draw n samples in parts, the first from the seed itself, with a bar on a terminal."""
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    step = max(1, _VALUES // model.circuit.num_vars)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=n <= step or not _live()) as bar:
        task = bar.add_task("samples", total=n)
        for start in range(0, n, step):
            part = seed
            if start:
                state = np.random.SeedSequence([seed, start]).generate_state(1, np.uint64)
                part = int(state[0] >> np.uint64(1))
            count = min(step, n - start)
            yield model.sample(count, seed=part)
            bar.advance(task, count)


def _live() -> bool:
    return sys.stderr.isatty()


def _write_array(file: IO[bytes], model: Model, n: int, seed: int) -> None:
    """Write a ``.npy`` file: images, structured rows, or ids of tokens."""
    from dataclasses import replace

    import numpy as np

    from pyjuice_bridge.codecs import TextCodec
    from pyjuice_bridge.query.model import Model

    if isinstance(model.codec, TextCodec):
        ids = replace(model.codec, vocabulary=None)
        model = Model(model.circuit, model.engine, codec=ids)
    for i, part in enumerate(_parts(model, n, seed)):
        if part.dtype.hasobject:
            raise UserError("columns with strings and numbers mixed cannot be an array; write csv")
        if not i:
            header = {
                "descr": np.lib.format.dtype_to_descr(part.dtype),
                "fortran_order": False,
                "shape": (n, *part.shape[1:]),
            }
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(part).tobytes())


def _lines(model: Model, n: int, seed: int) -> Iterator[str]:
    """Yield lines: texts, or a table's names and rows."""
    named = False
    for part in _parts(model, n, seed):
        if isinstance(part, list):
            yield from map(one_line, part)
            continue
        if part.dtype.names and not named:
            yield _csv(part.dtype.names)
            named = True
        yield from map(_csv, part.tolist())


def _csv(values: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()
