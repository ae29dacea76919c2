"""``data.kind: text``: documents, whose rows are windows of token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.codecs.text import FILE as TOKENS
from pyjuice_bridge.codecs.text import TextCodec, Vocabulary
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.data import TextDataset, TokenStream, Windows, load_text, windows
from pyjuice_bridge.data.catalogue import known_set
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.domains.base import (
    Arm,
    Context,
    DataSection,
    Domain,
    Prepared,
    Samples,
    Shape,
    Stream,
    Tools,
    ancestor,
    copy_clusters,
)
from pyjuice_bridge.domains.text_examples import EXAMPLES, PICTURES, Decode, examples
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import copy_file
from pyjuice_bridge.sections import Count, Share, at_most
from pyjuice_bridge.stages.store import fingerprint

_BERT_PIECES = 30_522
_BERT = ("minilm", "bert-base-uncased", "google-bert/bert-base-uncased")
_PIECES_PER_WORD = 1.2


_Distinct = Annotated[int, Field(ge=2), at_most(10**7, "tables have a column for each")]


class TextSection(DataSection):
    """Which text, how it is cut into tokens and windows, and how it is split.

    ``name`` is a corpus (``data list`` names them), or the path of a text, WikiText or parquet file
    or of a folder of such.  ``pieces`` are those of the teacher's tokenizer, ``words`` what stands
    between spaces; ``vocabulary`` limits the latter to the most frequent.  ``valid`` and ``test``
    are shares of the documents, where the text has no such splits of its own; ``limit`` keeps at
    most that many tokens of every split.
    """

    kind: Literal["text"]
    tokens: Literal["pieces", "words"] = "pieces"
    vocabulary: _Distinct | None = None
    window: Annotated[int, Field(ge=2), at_most(65_536, "the circuit has a layer for each")] = 32
    stride: Count | None = None
    joined: bool = True
    valid: Share | None = None
    test: Share | None = None
    limit: Count | None = None

    @model_validator(mode="after")
    def _windows_and_words(self) -> TextSection:
        if self.stride is None:
            self.stride = self.window
        if self.stride > self.window:
            raise ValueError(
                f"'stride' is {self.stride}, more than the window of {self.window}, which would "
                "leave tokens out"
            )
        if self.vocabulary is not None and self.tokens != "words":
            raise ValueError("'vocabulary' limits 'tokens: words'; word pieces have their own")
        return self


@dataclass(frozen=True, eq=False)
class TextRows(Prepared):
    """Text: rows are windows, int32 [N, length], -1 after the end of a document.

    Attributes:
        dataset: the token streams.
        windows: per split where each row comes from; ``rows`` are their ``x``.
        section: how windows were cut.
    """

    dataset: TextDataset
    windows: Mapping[str, Windows]
    section: TextSection

    def facts(self) -> dict[str, Any]:
        dataset = self.dataset
        streams: dict[str, TokenStream] = {s: getattr(dataset, s) for s in SPLITS}
        variant = {key: dataset.meta[key] for key in ("variant",) if key in dataset.meta}
        return {
            "dataset": dataset.name,
            **variant,
            "token": dataset.unit,
            "vocabulary": len(dataset.vocabulary),
            "window": self.section.window,
            "stride": self.section.stride,
            "joined": self.section.joined,
            "tokens": {split: len(stream) for split, stream in streams.items()},
            "documents": {split: stream.document_count for split, stream in streams.items()},
            "windows": {split: len(self.rows[split]) for split in SPLITS},
            "tokenizer": str(dataset.tokenizer["source"]),
            "fingerprint": dataset.fingerprint,
        }


def _section(config: Settings) -> TextSection:
    assert isinstance(config.data, TextSection)
    return config.data


def tokenizer_of(config: Settings) -> str:
    """Return the tokenizer for ``load_text``: the teacher's pieces, or words."""
    if _section(config).tokens == "words":
        return "words"
    return str(getattr(config.teacher, "tokenizer", "words"))


def _check(config: Settings) -> None:
    if _section(config).tokens == "pieces" and not hasattr(config.teacher, "tokenizer"):
        raise ValueError(
            f"'data.tokens: pieces' are those of a language model, but 'teacher.kind' is "
            f"'{config.teacher.kind}'; use 'tokens: words'"
        )


def _split(config: Settings, source: Any, root: Path | None = None) -> TextDataset:
    """Load a text with the tokens and splits of a run's config."""
    section = _section(config)
    return load_text(
        source,
        tokenizer=tokenizer_of(config),
        vocabulary=section.vocabulary,
        root=root or section.root_of(source),
        valid=section.valid,
        test=section.test,
        seed=config.seed,
        limit=section.limit,
    )


def _load(tools: Tools, text: Any) -> TextRows:
    config = tools.config
    section = _section(config)
    with tools.reporter.task("tokens"):
        dataset = _split(config, section.name if text is None else text)
    data = prepare(dataset, section, tokenizer_of(config))
    facts = data.facts()
    counts = "/".join(f"{n:,}" for n in facts["tokens"].values())
    cut = "/".join(f"{n:,}" for n in facts["windows"].values())
    tools.reporter.say(
        f"data {dataset.name}: {counts} {dataset.unit}, {facts['vocabulary']:,} distinct, in "
        f"{cut} windows of {section.window} at a stride of {section.stride}"
    )
    tools.reporter.say(dataset.origins())
    return data


def prepare(dataset: TextDataset, section: TextSection, tokenizer: str) -> TextRows:
    """Cut every split into windows.

    Raises:
        UserError: a split is shorter than a window.
    """
    length, stride = section.window, section.stride or section.window
    cut: dict[str, Windows] = {}
    for split in SPLITS:
        try:
            cut[split] = windows(getattr(dataset, split), length, stride, joined=section.joined)
        except UserError as error:
            raise UserError(f"{dataset.name}, {split} split: {error}") from None
    settings = {"window": length, "stride": stride, "joined": section.joined}
    if Path(tokenizer).is_dir():
        # Models are opened again from elsewhere.
        tokenizer = str(Path(tokenizer).absolute())
    tokens = len(dataset.train), len(dataset.valid)
    known = len(cut["train"]), len(cut["valid"]), tokens, len(dataset.vocabulary)
    key = fingerprint({"text": dataset.fingerprint, **settings})
    vocabulary = Vocabulary.of(dataset, tokenizer)
    codec = TextCodec(
        len(vocabulary),
        length,
        stride,
        section.joined,
        dataset.unit,
        tokenizer,
        vocabulary=vocabulary,
    )
    return TextRows(
        rows={split: found.x for split, found in cut.items()},
        codec=codec,
        name=dataset.name,
        observed={split: float(found.lengths.mean()) for split, found in cut.items()},
        correction=dict.fromkeys(SPLITS, 0.0),
        key=key,
        shape=_shape_of(section, *known),
        samples=_samples(dataset, cut, key),
        dataset=dataset,
        windows=cut,
        section=section,
    )


def _samples(dataset: TextDataset, cut: Mapping[str, Windows], key: str) -> Samples:
    """Describe the splits with latents: counts are made on train, the bound on valid."""
    splits = ("train", "valid")
    words = dataset.vocabulary if dataset.unit == "words" else None
    streams = {}
    for split in splits:
        stream: TokenStream = getattr(dataset, split)
        name = f"{dataset.fingerprint} {split}"
        streams[split] = Stream(stream.tokens, stream.documents, cut[split].starts, words, name)
    return Samples(
        {split: cut[split].x for split in splits},
        key,
        "windows",
        lengths={split: cut[split].lengths for split in splits},
        vocabulary=dataset.vocabulary,
        streams=streams,
    )


def _shape_of(
    section: TextSection,
    rows: int,
    valid: int,
    tokens: tuple[int, int],
    vocabulary: int,
    about: str = "",
) -> Shape:
    """Describe windows of a text; ``tokens`` are those of the training and validation split."""
    note = (
        f"{about}{tokens[0]:,} training tokens, {vocabulary:,} distinct, in {rows:,} windows of "
        f"{section.window} at a stride of {section.stride}"
    )
    sizes = np.full(section.window, vocabulary, np.int32)
    pieces = _PIECES_PER_WORD if section.tokens == "words" else 1
    read = round(pieces * sum(tokens))
    return Shape(rows, valid, sizes, 4 * section.window, note, tokens=read)


def _shape(config: Settings) -> Shape:
    """Return the shape of the config's windows; published corpora need not be there."""
    section = _section(config)
    published = _published(config)
    if published is None:
        dataset = _split(config, section.name)
        return prepare(dataset, section, tokenizer_of(config)).shape
    known, vocabulary, about = published
    tokens = tuple(min(each, section.limit or each) for each in known)
    if tokens[0] < section.window:
        raise UserError(f"'data.limit' is {tokens[0]}, less than one window of {section.window}")
    stride = section.stride or section.window
    rows, valid = (max(0, (each - section.window) // stride + 1) for each in tokens)
    return _shape_of(section, rows, valid, (tokens[0], tokens[1]), vocabulary, about)


def _published(config: Settings) -> tuple[tuple[int, int], int, str] | None:
    """Return a published corpus' training and validation tokens and its vocabulary.

    Word pieces are estimated.
    """
    section = _section(config)
    corpus = known_set(section.name, "text")
    if corpus is None or not corpus.published:
        return None
    words = corpus.published["train"], corpus.published["valid"]
    if section.tokens == "words":
        size = corpus.published["vocabulary"]
        return words, min(size, section.vocabulary or size), ""
    if tokenizer_of(config) not in _BERT:
        return None
    train, valid = (int(round(count * _PIECES_PER_WORD, -5)) for count in words)
    return (train, valid), _BERT_PIECES, "about "


def _show(
    context: Context, folder: Path, arms: Sequence[Arm], best: Arm, _: IntArray | None
) -> None:
    """Leave examples, pictures, tokens and the best arm's clusters in the run's folder."""
    data = context.data
    assert isinstance(data, TextRows) and isinstance(data.codec, TextCodec)
    data.codec.strings.save(folder / TOKENS)
    dataset, lengths = data.dataset, data.windows["valid"].lengths
    show_text(context, folder, arms, best, dataset.vocabulary, dataset.decode, lengths)


def show_text(
    context: Context,
    folder: Path,
    arms: Sequence[Arm],
    best: Arm,
    vocabulary: Sequence[str],
    decode: Decode,
    lengths: NDArray[np.int64],
) -> None:
    """Leave examples, pictures and the best arm's clusters in the run's folder."""
    drawn = examples(context, arms, vocabulary, decode, lengths)
    for name in (EXAMPLES, PICTURES):
        copy_file(drawn.path / name, folder / name)
    copy_clusters(ancestor(best, "clusters"), folder)


DOMAIN = Domain(
    name="text",
    section=TextSection,
    teacher="text",
    circuit="hmm",
    check=_check,
    load=_load,
    split=_split,
    shape=_shape,
    show=_show,
)
