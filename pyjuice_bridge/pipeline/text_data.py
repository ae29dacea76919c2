"""Text as circuits read it: windows of token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyjuice_bridge.config import HmmCircuit, TextData
from pyjuice_bridge.data import TextDataset, TokenStream, Windows, windows
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import PERPLEXITY
from pyjuice_bridge.pipeline.context import Context, Prepared
from pyjuice_bridge.pipeline.store import fingerprint
from pyjuice_bridge.teachers.base import TeacherSection


@dataclass(frozen=True, eq=False)
class TextRows(Prepared):
    """Text: rows are windows, int32 [N, length], -1 after the end of a document.

    Attributes:
        dataset: the token streams.
        windows: per split where each row comes from; ``rows`` are their ``x``.
        section: how windows were cut.
        tokenizer: ``words``, or what word pieces are cut with: a teacher's source.
    """

    dataset: TextDataset
    windows: Mapping[str, Windows]
    section: TextData
    tokenizer: str

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

    def meta(self) -> dict[str, str | int | float]:
        return {
            "dataset": self.dataset.name,
            "token": self.dataset.unit,
            "tokenizer": self.tokenizer,
            "stride": self.section.stride or self.section.window,
            "joined": int(self.section.joined),
        }


@dataclass(frozen=True)
class TextContext(Context):
    """The settings and tools of a run on text."""

    data: TextRows

    @property
    def circuit(self) -> HmmCircuit:
        """The config's section; others do not model text."""
        section = self.config.circuit
        assert isinstance(section, HmmCircuit)
        return section


def tokenizer_of(section: TextData, teacher: TeacherSection) -> str:
    """Return what ``load_text`` cuts the text with: the teacher's pieces, or words."""
    return str(getattr(teacher, "tokenizer", "words")) if section.tokens == "pieces" else "words"


def prepare_text(dataset: TextDataset, section: TextData, tokenizer: str) -> TextRows:
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
    return TextRows(
        rows={split: found.x for split, found in cut.items()},
        categories=np.full(length, len(dataset.vocabulary), np.int32),
        measure=PERPLEXITY,
        observed={split: float(found.lengths.mean()) for split, found in cut.items()},
        correction=dict.fromkeys(SPLITS, 0.0),
        key=fingerprint({"text": dataset.fingerprint, **settings}),
        dataset=dataset,
        windows=cut,
        section=section,
        tokenizer=tokenizer,
    )
