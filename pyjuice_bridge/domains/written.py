"""``data.kind: written``: what a causal language model writes, an endless source of text.

GeLaTo (Zhang et al., ICML 2023) and Ctrl-G (Zhang et al., arXiv 2406.13892) steer a language model
by a hidden Markov model of what it writes.  Rows are sequences of its token ids, filled up with the
token that ends a text where it has one (``distill.language``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.types import MISSING, IntArray
from pyjuice_bridge.codecs.text import FILE as TOKENS
from pyjuice_bridge.codecs.text import TextCodec, Vocabulary
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.data.text_tokenizers import WordPieces
from pyjuice_bridge.domains.base import (
    Arm,
    Context,
    Domain,
    Prepared,
    Samples,
    Shape,
    Tools,
    Written,
    no_check,
)
from pyjuice_bridge.domains.text import show_text
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import BatchSize, KindSection, at_most
from pyjuice_bridge.stages.store import Artifact, fingerprint

_SHARE = 10
"""One sequence of so many is for validation, and as many for testing."""

_Token = Annotated[int, Field(ge=0), at_most(10**9, "no vocabulary is that large")]


class WrittenSection(KindSection):
    """Which language model writes, how much, and how it is sampled.

    ``name`` is the folder of a causal model of ``transformers`` or its name on the hub, there at
    ``revision``.  ``sequences`` of at most ``length`` tokens are drawn, ``batch`` at a time, with
    logits divided by ``temperature``.  ``prompt`` lists ids that every sequence continues and that
    are not part of it, by default the token that begins a text; ``end`` is the id that ends one, by
    default the model's own.
    """

    kind: Literal["written"]
    name: str
    revision: str | None = None
    sequences: Annotated[int, Field(ge=30), at_most(10**9, "all of them are kept")] = 10_000
    length: Annotated[int, Field(ge=2), at_most(65_536, "the circuit has a layer for each")] = 32
    prompt: Annotated[list[_Token], Field(min_length=1, max_length=65_536)] | None = None
    end: _Token | None = None
    temperature: Annotated[float, Field(gt=0), at_most(1000, "every token is then alike")] = 1.0
    layer: Annotated[int, Field(ge=-1000), at_most(1000, "no model has so many")] = -1
    batch: BatchSize = 64


@dataclass(frozen=True, eq=False)
class WrittenData(Prepared):
    """Sequences of a language model, int32 [N, length]."""

    section: WrittenSection
    sequences: str
    tokens: Mapping[str, int]

    def facts(self) -> dict[str, Any]:
        counts = {split: len(rows) for split, rows in self.rows.items()}
        return {
            "dataset": self.name,
            "token": WordPieces.unit,
            "vocabulary": int(self.categories[0]),
            "window": self.section.length,
            "stride": self.section.length,
            "joined": False,
            "tokens": dict(self.tokens),
            "documents": counts,
            "windows": counts,
            "tokenizer": self.section.name,
            "fingerprint": self.sequences,
        }


def _section(config: Settings) -> WrittenSection:
    assert isinstance(config.data, WrittenSection)
    return config.data


def _load(tools: Tools, model: Any) -> WrittenData:
    import torch

    from pyjuice_bridge.teachers.public import borrowed
    from pyjuice_bridge.teachers.text_model import load_model, resolve_precision

    section, device = _section(tools.config), tools.engine.device
    if model is not None and not isinstance(model, str | Path | torch.nn.Module):
        raise UserError("model: give a causal model of transformers, its folder or its name")
    with tools.reporter.task("loading the language model"):
        head = load_model(
            section.name if model is None else model,
            causal=True,
            device=device,
            precision=resolve_precision("auto", device),
            revision=section.revision,
        )
    with borrowed(head, device):
        ends = _ends(head, section)
        sampled = _sampled(tools, section, head, ends)
    size = int(head.get_input_embeddings().weight.shape[0])
    source = str(getattr(head, "name_or_path", "")) or type(head).__name__
    return _prepare(section, sampled, ends, size, source)


def _ends(model: Any, section: WrittenSection) -> list[int]:
    """Return the ids that end a text."""
    from pyjuice_bridge.teachers.text_sample import own_ends

    last = int(model.get_input_embeddings().weight.shape[0]) - 1
    ends = own_ends(model) if section.end is None else [section.end]
    for end in ends:
        if not 0 <= end <= last:
            raise UserError(f"'data.end' must be an id of the model, 0 … {last}, got {end}")
    return ends


def _sampled(tools: Tools, section: WrittenSection, model: Any, ends: Sequence[int]) -> Artifact:
    """Sample sequences and keep the state of every token."""
    from pyjuice_bridge.teachers.public import weights_hash
    from pyjuice_bridge.teachers.text_sample import sample_sequences

    settings = section.model_dump(include={"prompt", "temperature", "layer", "batch"})
    inputs = {
        "weights": weights_hash(model),
        "sequences": section.sequences,
        "length": section.length,
        "seed": tools.config.seed,
        "ends": list(ends),
        "device": tools.engine.device,
        **settings,
    }

    def build(folder: Path) -> None:
        with tools.reporter.task(f"sampling {section.sequences:,} sequences") as tick:
            sample_sequences(
                model,
                section.sequences,
                section.length,
                folder,
                seed=tools.config.seed,
                end=section.end,
                device=tools.engine.device,
                on_progress=tick,
                **settings,
            )

    return tools.store.stage("sequences", 3, inputs, build)


def _prepare(
    section: WrittenSection, sampled: Artifact, ends: Sequence[int], size: int, source: str
) -> WrittenData:
    """Divide the sequences, which are drawn independently, in their order."""
    from pyjuice_bridge.teachers.text_features import Cut
    from pyjuice_bridge.teachers.text_sample import read_sequences

    every = read_sequences(sampled.path)
    end = ends[0] if ends else None
    x = one_end(every, ends)
    parts = _parts(len(x))
    lengths = (x != MISSING).sum(1)
    starts = np.cumsum(lengths) - lengths
    own = np.maximum(lengths - (0 if end is None else (x == end).sum(1)), 1)
    documents = np.append(starts, lengths.sum())
    key = fingerprint({"sequences": sampled.id, "end": end})
    latent = ("train", "valid")
    return WrittenData(
        rows={split: fill_up(x[part], end) for split, part in parts.items()},
        codec=_codec(section, size, source, end),
        name=f"samples of {source}",
        observed={split: float(lengths[part].mean()) for split, part in parts.items()},
        correction=dict.fromkeys(SPLITS, 0.0),
        key=key,
        shape=_shape_of(section, size),
        samples=Samples(
            {split: x[parts[split]] for split in latent},
            key,
            "sequences",
            lengths={split: own[parts[split]] for split in latent},
            written=Written(
                sampled,
                {
                    split: Cut(starts[part], section.length, own[part], documents)
                    for split, part in parts.items()
                    if split in latent
                },
            ),
        ),
        section=section,
        sequences=sampled.id,
        tokens={split: int(lengths[part].sum()) for split, part in parts.items()},
    )


def one_end(x: NDArray[Any], ends: Sequence[int]) -> NDArray[np.int32]:
    """Replace every end token in texts int [N, T] by the first of ``ends``; -1 stays."""
    out = np.asarray(x, np.int32).copy()
    if ends:
        out[np.isin(out, ends)] = ends[0]
    return out


def fill_up(x: NDArray[np.int32], end: int | None) -> NDArray[np.int32]:
    """Replace the -1 after the end of texts by ``end``; None leaves them."""
    return x if end is None else np.where(x == MISSING, np.int32(end), x)


def _parts(count: int) -> dict[str, slice]:
    test_size = max(1, count // _SHARE)
    bounds = (0, count - 2 * test_size, count - test_size, count)
    return {split: slice(*bounds[i : i + 2]) for i, split in enumerate(SPLITS)}


def _codec(section: WrittenSection, size: int, source: str, end: int | None) -> TextCodec:
    vocabulary = vocabulary_of(source, size)
    return TextCodec(
        size,
        section.length,
        section.length,
        joined=False,
        unit=WordPieces.unit,
        tokenizer=None if vocabulary is None else vocabulary.tokenizer,
        end=end,
        vocabulary=vocabulary,
    )


def vocabulary_of(source: str, size: int) -> Vocabulary | None:
    """Return the strings of the model's ids, where it has a fast tokenizer."""
    try:
        pieces = WordPieces(source)
    except UserError:
        return None
    words = pieces.vocabulary()[:size]
    words += [f"[no token {i}]" for i in range(len(words), size)]
    place = str(Path(source).absolute()) if Path(source).is_dir() else source
    return Vocabulary(tuple(words), place, str(pieces.facts["sha256"]))


def _shape_of(section: WrittenSection, size: int) -> Shape:
    counts = {s: part.stop - part.start for s, part in _parts(section.sequences).items()}
    rows = counts["train"]
    note = f"{rows:,} training sequences of {section.length} tokens, {size:,} distinct"
    sizes = np.full(section.length, size, np.int32)
    return Shape(rows, counts["valid"], sizes, 4 * section.length, note)


def _shape(config: Settings) -> Shape:
    from transformers import AutoConfig

    from pyjuice_bridge.teachers.public import from_pretrained

    section = _section(config)
    options = {} if section.revision is None else {"revision": section.revision}
    found = from_pretrained(AutoConfig, section.name, "a language model", **options)
    return _shape_of(section, int(found.vocab_size))


def _split(config: Settings, source: Any, root: Path | None = None) -> NoReturn:
    raise UserError(f"{source}: a run on what a language model writes reads no data")


def _show(
    context: Context, folder: Path, arms: Sequence[Arm], best: Arm, _: IntArray | None
) -> None:
    """Leave what ``domains.text`` does; ids without a tokenizer are shown as numbers."""
    codec, size = context.data.codec, int(context.data.categories[0])
    assert isinstance(codec, TextCodec)
    words: Sequence[str] = [str(i) for i in range(size)]
    if codec.vocabulary is not None:
        codec.vocabulary.save(folder / TOKENS)
        words = codec.vocabulary.words

    def decode(ids: Sequence[int] | NDArray[Any]) -> str:
        kept = [int(i) for i in ids if i >= 0 and i != codec.end]
        if codec.vocabulary is not None:
            return codec.vocabulary.decode(kept)
        return " ".join(map(str, kept))

    whole = np.full(len(context.data.rows["valid"]), len(context.data.categories))
    show_text(context, folder, arms, best, words, decode, whole)


DOMAIN = Domain(
    name="written",
    section=WrittenSection,
    teacher="writer",
    circuit="hmm",
    check=no_check,
    load=_load,
    split=_split,
    shape=_shape,
    show=_show,
)
