"""Text sampled from a causal language model, with the states it was generated from.

This is what hidden Markov models are distilled from in GeLaTo (Zhang et al., ICML 2023) and
Ctrl-G (Zhang et al., NeurIPS 2024): a model's own sequences, and its own hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import COUNTS, SEEDS, real, whole
from pyjuice_bridge.teachers.base import Progress
from pyjuice_bridge.teachers.public import borrowed
from pyjuice_bridge.teachers.store import Blocks
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_model import Precision, computing, load_model, resolve_precision
from pyjuice_bridge.teachers.text_states import TokenStates

NAME = "sequences"
_BLOCK = 4096
"""Sequences per file, about."""


@dataclass(frozen=True, eq=False)
class SampledText:
    """Sequences as a stream, as other texts are.

    Attributes:
        tokens: int32 [n], all sequences one after the other.
        documents: int64 [sequences + 1], the first token of every sequence, then n.
        states: of every token; ``PrefixFeatures(states, documents[:-1], length,
            np.diff(documents), documents=documents)`` are those it was generated from.
    """

    tokens: NDArray[np.int32]
    documents: NDArray[np.int64]
    states: TokenStates


def sample_sequences(
    model: Any,
    n: int,
    length: int,
    folder: Path | str,
    *,
    seed: int = 0,
    prompt: Sequence[int] | None = None,
    end: int | None = None,
    temperature: float = 1.0,
    layer: int = -1,
    batch: int = 64,
    precision: Precision = "auto",
    device: str = "cpu",
    revision: str | None = None,
    on_progress: Progress | None = None,
) -> SampledText:
    """Sample ``n`` sequences of at most ``length`` tokens, and store the states behind them.

    Sequences are sampled batch by batch, each with a seed of its own, and then read once more
    all at a time, which gives the states they were sampled from (up to rounding).  Both are kept
    in ``folder``: an interrupted run continues after the last whole file, with the same result.

    Args:
        model: a causal model of transformers, which is as before afterwards, the local folder of
            one, or its name on the hub (never fetched while HF_HUB_OFFLINE is set).
        n: sequences.
        length: tokens of a sequence, at most.
        folder: made when missing; files of other settings in it are replaced.
        seed: of the samples.
        prompt: ids that every sequence continues and that are not part of it; by default the
            token of the beginning of a text.
        end: the id that ends a sequence (it is its last token); by default the model's own.
        temperature: that the model's logits are divided by.
        layer: of the states that are kept, as in `TextTeacher`.
        batch: sequences that are sampled together.
        precision: as in `TextTeacher`.
        device: "cpu" or "cuda".
        revision: of a model of the hub, a branch, tag or commit.
        on_progress: called with sequences done (sampled, then read) and twice their number.

    Raises:
        UserError: no such causal model, a setting that does not fit it, or a folder that cannot
            be written.
    """
    counts = {"n": n, "length": length, "batch": batch}
    n, length, batch = (whole(name, value, COUNTS) for name, value in counts.items())
    seed = whole("seed", seed, SEEDS)
    temperature = real("temperature", temperature, Interval(gt=0))
    kind = resolve_precision(precision, device)
    head = load_model(model, causal=True, device=device, precision=kind, revision=revision)
    with borrowed(head, device):
        settings = {"layer": layer, "prompt": prompt, "precision": precision, "device": device}
        teacher, before = _reader(head, length, settings)
        ends = own_ends(head) if end is None else [end]
        key = {
            **{name: value for name, value in teacher.describe().items() if name != "layer"},
            **{"n": n, "length": length, "seed": seed, "ends": ends},
            **{"temperature": temperature, "batch": batch},
        }

        def make(number: int, rows: int) -> NDArray[np.int32]:
            generator = torch.Generator(device).manual_seed(_seed(seed, number))
            with torch.inference_mode(), computing(device, kind):
                return _sample(head, before, rows, length, ends, temperature, generator)

        def progress(done: int) -> None:
            if on_progress:
                on_progress(done, 2 * n)

        sequences = _stored(Path(folder), key, (n, length, batch), make, progress)
        inside = sequences >= 0
        tokens, documents = sequences[inside], np.append(0, np.cumsum(inside.sum(1)))
        states = teacher.store(
            tokens,
            Path(folder),
            documents=documents,
            on_progress=lambda done, total: progress(n + n * done // total),
        )
    return SampledText(tokens, documents, states)


def read_sequences(folder: Path | str) -> NDArray[np.int32]:
    """Return the finished sequences in ``folder``, int32 [n, length], -1 after their end.

    Raises:
        UserError: they are missing, unfinished or damaged.
    """
    return np.concatenate(Blocks.open(folder, NAME).arrays())


def _stored(
    folder: Path,
    key: Mapping[str, Any],
    sizes: tuple[int, int, int],
    make: Callable[[int, int], NDArray[np.int32]],
    progress: Callable[[int], None],
) -> NDArray[np.int32]:
    """Sample blocks of whole batches, as far as they are not in ``folder``; return them all.

    Args:
        folder: for the blocks.
        key: what they depend on.
        sizes: sequences, their length, and sequences of a batch.
        make: called with the number and the rows of a batch.
        progress: called with the sequences done.
    """
    n, length, batch = sizes
    rows = batch * max(1, _BLOCK // batch)
    bounds = [*range(0, n, rows), n]

    def block(index: int) -> NDArray[np.int32]:
        start, stop = bounds[index : index + 2]
        firsts = range(start, stop, batch)
        return np.concatenate([make(i // batch, min(batch, stop - i)) for i in firsts])

    for done in Blocks(folder, NAME, bounds, (-1, length), "int32").fill(key, block):
        progress(done)
    return read_sequences(folder)


def _reader(
    model: Any, length: int, settings: Mapping[str, Any]
) -> tuple[TextTeacher, Sequence[int]]:
    """Return a reader of each sequence as one context, and the ids before it."""
    prompt = settings["prompt"]
    teacher = TextTeacher(model, context=length + len(prompt or [0]), **settings)
    if not teacher.causal:
        raise UserError("only causal models can be sampled from; this one looks ahead")
    before: list[int] = teacher.describe()["special"][0]
    if not before:
        raise UserError("the model has no token to begin a text with; give a prompt")
    if teacher.context < length + len(before):
        raise UserError(
            f"the model reads {teacher.context} tokens at once, "
            f"too few for a prompt of {len(before)} and sequences of {length}"
        )
    return teacher, before


def own_ends(model: Any) -> list[int]:
    """List the ids that the model itself ends a text with; some have several."""
    ends = model.config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or [])


def _seed(seed: int, number: int) -> int:
    """Return the seed of a batch."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def _sample(
    model: Any,
    prompt: Sequence[int],
    rows: int,
    length: int,
    ends: Sequence[int],
    temperature: float,
    generator: torch.Generator,
) -> NDArray[np.int32]:
    """Sample sequences int32 [rows, length], -1 after their end."""
    ids = torch.tensor([list(prompt)] * rows, device=generator.device)
    out = torch.full((rows, length), -1, dtype=torch.int32, device=generator.device)
    open_ = torch.ones(rows, dtype=torch.bool, device=generator.device)
    cache = None
    for t in range(length):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        chances = (output.logits[:, -1].float() / temperature).softmax(-1)
        ids = torch.multinomial(chances, 1, generator=generator)
        out[open_, t] = ids[open_, 0].int()
        for end in ends:
            open_ &= ids[:, 0] != end
        if not bool(open_.any()):
            break
    result: NDArray[np.int32] = out.cpu().numpy()
    return result
