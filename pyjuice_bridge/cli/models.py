"""``evaluate``, ``sample``, ``inpaint`` and ``infill``: questions to a trained model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyjuice_bridge.cli.options import DEVICE, ENGINE, JSON, SEED
from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    from pyjuice_bridge.query.model import Model

_Measured = tuple[float, Any, str, str]

_SPLIT = click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    help="Which part of DATA; that of the run's own splits, if DATA is what it saw.  "
    "Default: test, or all of a path that has no test split.",
)
_ROOT = click.option(
    "--root", type=click.Path(path_type=Path), help="Where DATA is, if it is known by name."
)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@_SPLIT
@_ROOT
@click.option("--limit", type=click.IntRange(1), help="Use at most this many images or windows.")
@JSON
@ENGINE
@DEVICE
def evaluate(
    model: Path,
    data: str,
    split: str | None,
    root: Path | None,
    limit: int | None,
    as_json: bool,
    engine: str,
    device: str,
) -> None:
    """Score DATA under MODEL.

    Images in bits per dimension, a text by its perplexity, a table in bits per row.

    MODEL is a model file or a run's folder; DATA is the name of a set or a path.
    """
    from pyjuice_bridge.query.model import load

    opened = load(model, engine=engine, device=device)
    measured = {"text": _text_figure, "images": _image_figure}.get(
        opened.codec.domain, _table_figure
    )
    figure, rows, name, line = measured(opened, model, data, split, root, limit)
    impossible = 0
    if not math.isfinite(figure):
        asked = opened.text if opened.codec.domain == "text" else opened
        impossible = int((asked.log_likelihood(rows) == -math.inf).sum())
        line += f"; {opened.codec.measure.impossible(impossible, len(rows))}"
    if as_json:
        from pyjuice_bridge.files import finite

        answer = {
            "value": figure,
            "unit": opened.codec.measure.unit,
            "rows": len(rows),
            "impossible": impossible,
            "split": name or None,
            "data": data,
            "model": str(model),
            "engine": opened.engine.name,
            "device": opened.engine.device,
        }
        line = json.dumps(finite(answer))
    click.echo(line)


def _text_figure(
    opened: Model, model: Path, data: str, split: str | None, root: Path | None, limit: int | None
) -> _Measured:
    """Return the figure of a text, its windows, the split and a line with all of them."""
    from pyjuice_bridge.codecs import TextCodec
    from pyjuice_bridge.runner.splits import stream_for

    codec = opened.codec
    assert isinstance(codec, TextCodec)
    stream, part = stream_for(model, codec.strings, data, split, root)
    rows = codec.windows(stream)[:limit]
    figure = opened.text.perplexity(rows)
    of = f"the {part} split of {data}" if part else data
    return (
        figure,
        rows,
        part,
        f"perplexity {figure:.2f} on {_windows(len(rows))} of {rows.shape[1]} {codec.unit} of "
        f"{of}, by {_engine(opened)} (stride {codec.stride}, no context across windows)",
    )


def _image_figure(
    opened: Model, model: Path, data: str, split: str | None, root: Path | None, limit: int | None
) -> _Measured:
    """Return the figure of images, these, the split and a line with all of them."""
    from pyjuice_bridge.runner.splits import images_for

    found, name = images_for(model, opened, data, split, root)
    images = found[:limit]
    bits = opened.bits_per_dim(images)
    some = _some(len(images), len(found), name)
    line = f"{bits:.4f} bits/dim on {some} images of {data}, by {_engine(opened)}"
    return bits, images, name, line


def _table_figure(
    opened: Model, model: Path, data: str, split: str | None, root: Path | None, limit: int | None
) -> _Measured:
    """Return the figure of a table, its rows, the split and a line with all of them."""
    from pyjuice_bridge.runner.splits import table_for

    found, name = table_for(model, opened, data, split, root)
    rows = found[:limit]
    bits = opened.evaluate(rows)
    nats = bits * math.log(2)
    some = _some(len(rows), len(found), name)
    line = f"{bits:.4f} bits/row ({nats:.4f} nats) on {some} rows of {data}, by {_engine(opened)}"
    return bits, rows, name, line


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--n", type=click.IntRange(1, 10**9), default=25, show_default=True, help="How many.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A name that ends in .npy gets an array.  Default: samples.png for images, the screen "
    "for text and tables.",
)
@SEED
@ENGINE
@DEVICE
def sample(
    model: Path, n: int, out: Path | None, seed: int | None, engine: str, device: str
) -> None:
    """Draw from MODEL: images into a PNG, texts or rows of a table one a line.

    MODEL is a model file or a run's folder.
    """
    from pyjuice_bridge.cli.samples import write_samples
    from pyjuice_bridge.query.draws import seed_of
    from pyjuice_bridge.query.model import load

    opened = load(model, engine=engine, device=device)
    number = seed_of(seed)
    _wrote(opened, write_samples(opened, n, out, number), number)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", required=True, help="Images to hide parts of: a set's name or a path.")
@_SPLIT
@_ROOT
@click.option(
    "--mask",
    type=click.Choice(["lower_half", "squares"]),
    default="lower_half",
    show_default=True,
    help="What is hidden.",
)
@click.option("--n", type=click.IntRange(1, 1000), default=8, show_default=True, help="How many.")
@click.option("--out", type=click.Path(path_type=Path), default="inpainted.png", show_default=True)
@SEED
@ENGINE
@DEVICE
def inpaint(
    model: Path,
    data: str,
    split: str | None,
    root: Path | None,
    mask: str,
    n: int,
    out: Path,
    seed: int | None,
    engine: str,
    device: str,
) -> None:
    """Hide parts of images, picked at random, and let MODEL fill them in.

    MODEL is a model file or a run's folder.  What is hidden is sampled given the rest.  The PNG has
    three rows: the images, what the model saw, what it filled in.
    """
    import numpy as np

    from pyjuice_bridge.cli.samples import white_of, write_grid
    from pyjuice_bridge.domains.images import make_masks
    from pyjuice_bridge.query.draws import seed_of
    from pyjuice_bridge.query.model import load
    from pyjuice_bridge.report.images import brighten, paint
    from pyjuice_bridge.runner.splits import images_for

    opened = load(model, engine=engine, device=device)
    if opened.image_shape is None:
        raise UserError(f"{model} does not model images; use 'infill' for gaps in a text")
    number = seed_of(seed)
    rng = np.random.default_rng(number)
    every = images_for(model, opened, data, split, root)[0]
    images = every[np.sort(rng.choice(len(every), min(n, len(every)), replace=False))]
    hidden = make_masks(len(images), images.shape[1:3], rng)[mask]
    filled = opened.inpaint(images, hidden, seed=number)
    white = white_of(opened)
    painted = paint(images, hidden, white=white)
    shown = [brighten(part, white) for part in (images, filled)]
    grey = [np.broadcast_to(part, painted.shape) for part in shown]
    write_grid(out, np.concatenate([grey[0], painted, grey[1]]), len(images), 255)
    _wrote(opened, out, number)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text")
@click.option(
    "--n", type=click.IntRange(1, 10**6), default=3, show_default=True, help="How many draws."
)
@SEED
@ENGINE
@DEVICE
def infill(model: Path, text: str, n: int, seed: int | None, engine: str, device: str) -> None:
    """Fill in the gaps of TEXT, a line for every draw.

    MODEL is a run on text or one of its model files; every [MASK] in TEXT is one missing token.
    All gaps are drawn together, exactly given the rest; the last line is the likeliest completion
    with its states (Viterbi).
    """
    from pyjuice_bridge.cli.samples import one_line
    from pyjuice_bridge.query.draws import seed_of
    from pyjuice_bridge.query.model import load

    opened = load(model, engine=engine, device=device)
    number = seed_of(seed)
    drawn = opened.text.infill(text, n, seed=number)
    for line in (*drawn, f"Viterbi: {opened.text.viterbi(text)[0]}"):
        click.echo(one_line(line), nl=False)
    _wrote(opened, None, number)


def _some(count: int, whole: int, split: str) -> str:
    """Describe a number of samples: of a split, of all, or all."""
    if split:
        return f"{count:,} {split}"
    return f"all {count:,}" if count == whole else f"{count:,} of the {whole:,}"


def _windows(count: int) -> str:
    return "1 window" if count == 1 else f"{count:,} windows"


def _engine(opened: Model) -> str:
    return f"{opened.engine.name} on {opened.engine.device}"


def _wrote(opened: Model, out: Path | None, seed: int) -> None:
    """Name seed and engine, on stderr where stdout holds the samples."""
    facts = f"seed {seed}, {_engine(opened)}"
    click.echo(facts if out is None else f"wrote {out} ({facts})", err=out is None)
