"""``evaluate``, ``sample`` and ``inpaint``: questions to a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])

_DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
_SEED = click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
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
@_DEVICE
def evaluate(
    model: Path,
    data: str,
    split: str | None,
    root: Path | None,
    limit: int | None,
    device: str,
) -> None:
    """Score images under MODEL in bits per dimension, or a text by its perplexity.

    MODEL is a model file or a run's folder; DATA is the name of a set or a path.
    """
    from pyjuice_bridge.pipeline.api import load
    from pyjuice_bridge.pipeline.splits import images_for
    from pyjuice_bridge.pipeline.text_models import is_text, of_model, stream_for

    opened = load(model, device=device)
    if is_text(opened.circuit.meta):
        text = of_model(opened, model)
        stream, part = stream_for(model, text, data, split, root)
        figure, count = text.perplexity(stream, limit)
        of = f"the {part} split of {data}" if part else data
        click.echo(
            f"perplexity {figure:.2f} on {_windows(count)} of {min(text.window, len(stream))} "
            f"{text.token} of {of} (stride {text.stride}, no context across windows)"
        )
        return
    found, name = images_for(model, opened.circuit.meta, data, split, root)
    images = found[:limit]
    bits = opened.bits_per_dim(images)
    some = f"{len(images):,} {name}" if name else f"{len(images):,} of the {len(found):,}"
    if not name and len(images) == len(found):
        some = f"all {len(found):,}"
    click.echo(f"{bits:.4f} bits/dim on {some} images of {data}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--n", type=click.IntRange(1), default=25, show_default=True, help="How many.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: samples.png for images, the screen for text.",
)
@_SEED
@_DEVICE
def sample(model: Path, n: int, out: Path | None, seed: int, device: str) -> None:
    """Draw images from MODEL into a PNG, or texts, one a line.

    MODEL is a model file or a run's folder.
    """
    from pyjuice_bridge.pipeline.api import load
    from pyjuice_bridge.pipeline.text_models import is_text, of_model

    opened = load(model, device=device)
    if is_text(opened.circuit.meta):
        _write_lines(out, of_model(opened, model).sample(n, seed=seed))
        return
    if opened.image_shape is None:
        raise UserError(f"{model} does not model images, so there is nothing to draw as PNG")
    out = out or Path("samples.png")
    _write_grid(out, opened.sample(n, seed=seed), math.ceil(math.sqrt(n)), _white(opened))


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
@click.option("--n", type=click.IntRange(1), default=8, show_default=True, help="How many.")
@click.option("--out", type=click.Path(path_type=Path), default="inpainted.png", show_default=True)
@_SEED
@_DEVICE
def inpaint(
    model: Path,
    data: str,
    split: str | None,
    root: Path | None,
    mask: str,
    n: int,
    out: Path,
    seed: int,
    device: str,
) -> None:
    """Hide parts of images and let MODEL fill them in.

    MODEL is a model file or a run's folder.  What is hidden is sampled given the rest.  The PNG has
    three rows: the images, what the model saw, what it filled in.
    """
    import numpy as np

    from pyjuice_bridge.pipeline.api import load
    from pyjuice_bridge.pipeline.figures import make_masks
    from pyjuice_bridge.pipeline.splits import images_for
    from pyjuice_bridge.report.images import brighten, paint_hidden

    opened = load(model, device=device)
    if opened.image_shape is None:
        raise UserError(
            f"{model} does not model images; for gaps in a text there is the command 'infill'"
        )
    images = images_for(model, opened.circuit.meta, data, split, root)[0][:n]
    hidden = make_masks(len(images), images.shape[1:3], np.random.default_rng(seed))[mask]
    filled = opened.inpaint(images, hidden, seed=seed)
    white = _white(opened)
    painted = paint_hidden(images, hidden, white=white)
    shown = [brighten(part, white) for part in (images, filled)]
    grey = [np.broadcast_to(part, painted.shape) for part in shown]
    _write_grid(out, np.concatenate([grey[0], painted, grey[1]]), len(images), 255)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("text")
@click.option("--n", type=click.IntRange(1), default=3, show_default=True, help="How many draws.")
@_SEED
@_DEVICE
def infill(model: Path, text: str, n: int, seed: int, device: str) -> None:
    """Fill in the gaps of TEXT, a line for every draw.

    MODEL is a run on text or one of its model files; every [MASK] in TEXT is one missing token.
    All gaps are drawn together, exactly given the rest; the last line is the likeliest completion
    with its states (Viterbi).
    """
    from pyjuice_bridge.pipeline.text_models import open_text

    opened = open_text(model, device=device)
    _write_lines(None, [*opened.infill(text, n, seed=seed), f"Viterbi: {opened.viterbi(text)}"])


def _windows(count: int) -> str:
    return "1 window" if count == 1 else f"{count:,} windows"


def _write_lines(out: Path | None, texts: list[str]) -> None:
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    if out is None:
        click.echo(lines, nl=False)
        return
    from pyjuice_bridge.files import write_text

    try:
        write_text(out, lines)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from None
    click.echo(f"wrote {out}")


def _white(model: Any) -> int:
    """The value of a full-brightness pixel: less than 255 for data with few grey levels."""
    most = int(model.circuit.categories.max()) - 1
    return most if most < 64 else 255


def _write_grid(out: Path, images: NDArray[np.uint8], columns: int, white: int) -> None:
    from pyjuice_bridge.files import write_bytes
    from pyjuice_bridge.report.images import grid_png

    if out.suffix.lower() != ".png":
        raise UserError(f"{out}: pictures are written as PNG, so give a name that ends in .png")
    scale = max(1, 56 // images.shape[1])
    try:
        write_bytes(out, grid_png(images, columns, scale, white=white))
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from None
    click.echo(f"wrote {out}")
