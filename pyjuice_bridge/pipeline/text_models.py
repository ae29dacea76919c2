"""Questions in words to a trained model of text: perplexity of a text, samples, gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.config import TextData, load_config
from pyjuice_bridge.data import TextDataset, TokenStream, load_text, windows
from pyjuice_bridge.data.text_readers import own
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.files import read_json
from pyjuice_bridge.pipeline.text_codec import TextCodec
from pyjuice_bridge.pipeline.text_data import tokenizer_of
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text import TextModel

GAP = "[MASK]"
"""What stands for one missing token."""


@dataclass(frozen=True, eq=False)
class OpenedText:
    """A trained HMM with its tokens.

    Attributes:
        model: answers for token ids, texts of any length.
        codec: between text and token ids.
        window: tokens of the windows that it was trained on.
        stride: between the windows that its perplexity was measured on.
        joined: whether these may hold parts of several documents.
        token: what a token is, in words.
        end: the id that ends a text, None where texts do not end.
    """

    model: TextModel
    codec: TextCodec
    window: int
    stride: int
    joined: bool
    token: str
    end: int | None = None

    def perplexity(self, stream: TokenStream, limit: int | None = None) -> tuple[float, int]:
        """That of a text, as runs measure it, over its first windows; and how many they are.

        A text shorter than a window is one shorter window.
        """
        length = min(self.window, len(stream))
        cut = windows(stream, length, min(self.stride, length), joined=self.joined).x[:limit]
        return self.model.perplexity(cut), len(cut)

    def sample(self, n: int, *, seed: int = 0) -> list[str]:
        """Windows drawn from the model, as text, up to where a text ends."""
        blank = np.full((1, self.window), MISSING, np.int32)
        drawn = self.model.infill(blank, n, seed=seed)[0]
        if self.end is not None:
            drawn[np.cumsum(drawn == self.end, axis=1) > 0] = MISSING
        return [self.codec.decode(row) for row in drawn]

    def infill(self, text: str, n: int = 1, *, seed: int = 0) -> list[str]:
        """Fill in every ``[MASK]`` of a text: one exact draw of all gaps at once, ``n`` times.

        Raises:
            UserError: the text has no gap.
        """
        x = self._with_gaps(text)
        return [self.codec.decode(row) for row in self.model.infill(x, n, seed=seed)[0]]

    def viterbi(self, text: str) -> str:
        """Fill in every ``[MASK]`` by the likeliest tokens and states together."""
        return self.codec.decode(self.model.viterbi(self._with_gaps(text))[0][0])

    def _with_gaps(self, text: str) -> NDArray[np.int32]:
        first, *others = text.split(GAP)
        if not others:
            raise UserError(f"the text has no gap; write {GAP} for every missing token")
        parts = [self.codec.encode(first)]
        for part in others:
            parts += [np.array([MISSING], np.int32), self.codec.encode(part)]
        return np.concatenate(parts)[None]


def is_text(meta: Mapping[str, Any]) -> bool:
    """Whether a circuit's meta says that it models text."""
    return "token" in meta


def open_text(path: str | Path, *, engine: str = "auto", device: str = "auto") -> OpenedText:
    """Open a run on text (its best HMM) or one of its model files.

    Raises:
        UserError: it is no model of text, or its ``tokens.json`` is not beside it.
    """
    from pyjuice_bridge.pipeline.api import load

    return of_model(load(path, engine=engine, device=device), Path(path))


def of_model(model: Model, path: Path) -> OpenedText:
    """A loaded circuit with the tokens of the run's folder that it lies in."""
    meta = model.circuit.meta
    if not is_text(meta):
        raise UserError(f"{path} does not model text")
    codec = TextCodec.load(path)
    return OpenedText(
        TextModel.of(model, codec.vocabulary),
        codec,
        window=model.circuit.num_vars,
        stride=int(meta["stride"]),
        joined=bool(meta["joined"]),
        token=str(meta["token"]),
        end=int(meta["end"]) if "end" in meta else None,
    )


def stream_for(
    model: Path, opened: OpenedText, data: str, split: str | None, root: Path | None = None
) -> tuple[TokenStream, str]:
    """The tokens of ``data``'s split, and the split's name.

    Where ``data`` is what the model's run read, they are those of the run's own split.  Another
    text of the user's without splits is taken whole; the name is then empty.

    Args:
        model: a run's folder or a model file in it.
        opened: the model.
        data: a corpus' name or a path.
        split: "train", "valid" or "test"; None is "test", or everything where there are no splits.
        root: where ``data`` is, if it is known by name.

    Raises:
        UserError: nothing to read, or a split of a text that has none.
    """
    name = split or "test"
    mine = _own_splits(model if model.is_dir() else model.parent, data, root)
    if mine is not None:
        return getattr(mine, name), name
    path = Path(data).expanduser()
    if not path.exists():
        found = load_text(data, tokenizer=opened.codec.tokenizer, root=root)
        return opened.codec.translated(getattr(found, name), found.vocabulary), name
    parts = own(path).parts
    if "all" in parts:
        if split is not None:
            raise UserError(f"{data} has no {split} split: leave out --split to take all of it")
        return opened.codec.stream(path.stem, parts["all"]), ""
    if name not in parts:
        raise UserError(f"{data} has no {name} split, only {', '.join(parts)}; choose with --split")
    return opened.codec.stream(path.stem, parts[name]), name


def _own_splits(folder: Path, data: str, root: Path | None) -> TextDataset | None:
    """``data`` split as the run in ``folder`` split it; None if it is not that run's text."""
    try:
        fingerprint = read_json(folder / "results.json")[0]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    config = load_config(folder / "config.yaml")
    section, teacher = config.data, config.teacher
    if not isinstance(section, TextData):
        return None
    known = Path(section.root) if section.root and data == section.name else None
    try:
        found = load_text(
            data,
            tokenizer=tokenizer_of(section, teacher),
            vocabulary=section.vocabulary,
            root=root or known,
            valid=section.valid,
            test=section.test,
            seed=config.seed,
            limit=section.limit,
        )
    except UserError:
        # A text that the run's settings do not fit; what is wrong with it shows on loading it.
        return None
    return found if found.fingerprint == fingerprint else None
