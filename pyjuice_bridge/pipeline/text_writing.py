"""The stages of distilling a language model: sequences, counts on clusters, EM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.codecs import TextCodec
from pyjuice_bridge.data.text_tokenizers import WordPieces
from pyjuice_bridge.distill.hmm import count_hmm, interpolate
from pyjuice_bridge.distill.language import fill_up, with_end_state
from pyjuice_bridge.engines.base import Engine, Epoch, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.arms import CIRCUIT
from pyjuice_bridge.pipeline.training import CHECKPOINT
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.report.words import seconds_text
from pyjuice_bridge.stages.progress import Reporter
from pyjuice_bridge.stages.store import Artifact, Store
from pyjuice_bridge.teachers.public import weights_hash
from pyjuice_bridge.teachers.text_features import PrefixFeatures
from pyjuice_bridge.teachers.text_model import resolve_precision
from pyjuice_bridge.teachers.text_sample import sample_sequences
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state
from pyjuice_bridge.teachers.text_states import TokenStates

_CLUSTERING = {"scope": "pooled", "iterations": 20, "restarts": 1, "points_per_centroid": 256}


@dataclass(frozen=True)
class Sampling:
    """How sequences are drawn from the language model.

    Attributes:
        prompt: ids that every sequence goes on from and that are not part of it, such as an
            instruction; None: the token of the beginning of a text.
        end: the id that ends a text; None: the model's own, or none where it has none.
        temperature: that logits are divided by.
        layer: of the states that are clustered, as in transformers' ``hidden_states``.
        batch: sequences drawn at once.
    """

    prompt: Sequence[int] | None = None
    end: int | None = None
    temperature: float = 1.0
    layer: int = -1
    batch: int = 64


@dataclass(frozen=True, eq=False)
class Writing:
    """A language model, what is asked of it, and the tools; ``ends`` are ids that end a text."""

    model: Any
    states: int
    sequences: int
    length: int
    sampling: Sampling
    ends: Sequence[int]
    options: FitOptions
    smoothing: float
    engine: Engine
    store: Store
    reporter: Reporter

    @property
    def vocabulary(self) -> int:
        """The number of the language model's ids."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def end(self) -> int | None:
        """The token of the last state."""
        return self.ends[0] if self.ends else None


def sample_stage(work: Writing) -> Artifact:
    """Sequences of the language model, and the state of every token."""
    sampling, device = work.sampling, work.engine.device
    settings = {**asdict(sampling), "end": None if sampling.end is None else work.end}
    inputs = {
        "weights": weights_hash(work.model),
        "sequences": work.sequences,
        "length": work.length,
        "seed": work.options.seed,
        "ends": list(work.ends),
        "device": device,
        "precision": resolve_precision("auto", device),
        **{**settings, "prompt": sampling.prompt and [int(i) for i in sampling.prompt]},
    }

    def build(folder: Path) -> None:
        with work.reporter.task(f"sampling {work.sequences:,} sequences") as tick:
            sample_sequences(
                work.model,
                work.sequences,
                work.length,
                folder,
                seed=work.options.seed,
                device=device,
                on_progress=tick,
                **settings,
            )

    return work.store.stage("sequences", 2, inputs, build)


def count_stage(work: Writing, sampled: Artifact, x: NDArray[np.int32]) -> Artifact:
    """The HMM counted on clusters of the states that tokens were generated from."""
    clusters = work.states - bool(work.ends)
    inputs = {
        "sequences": sampled.id,
        "rows": len(x),
        "states": work.states,
        "cluster": _CLUSTERING,
        "seed": work.options.seed,
        "pseudocount": work.options.pseudocount,
        "smoothing": work.smoothing,
    }

    def build(folder: Path) -> None:
        ended = np.zeros(x.shape, bool) if work.end is None else x == work.end
        own = (x != MISSING) & ~ended
        if own.sum() < clusters:
            raise UserError(
                f"the sequences hold {own.sum():,} tokens, which cannot fill {clusters:,} "
                "clusters; use fewer states, or sample more"
            )
        z = np.where(ended, np.int32(work.states - 1), np.int32(MISSING))
        with work.reporter.task(f"clusters ({clusters:,})") as tick:
            features = _features(sampled.path, x, own)
            found = cluster_embeddings(
                {"train": features},
                clusters,
                **_CLUSTERING,  # type: ignore[arg-type]
                seed=work.options.seed,
                device=work.engine.device,
                on_progress=tick,
            )
        rows = own.any(1)
        z[rows] = np.where(own[rows], found.z["train"], z[rows])
        hmm = count_hmm(x, z, work.states, work.vocabulary, work.options.pseudocount)
        hmm = interpolate(hmm, x, z, work.smoothing)
        hmm = hmm if work.end is None else with_end_state(hmm, work.end)
        hdf5.save(hmm.circuit(work.length), folder / CIRCUIT)

    return work.store.stage("counting", 1, inputs, build)


def _features(folder: Path, x: NDArray[np.int32], own: NDArray[np.bool_]) -> PrefixFeatures:
    """Of the sequences that have tokens of their own, in order."""
    states = TokenStates.open(folder)
    lengths = (x != MISSING).sum(1)
    starts = np.cumsum(lengths) - lengths
    rows = own.any(1)
    return PrefixFeatures(
        UnitStates(states, mean_state(states)),
        starts[rows],
        x.shape[1],
        own.sum(1)[rows],
        documents=starts,
    )


def train_stage(
    work: Writing, counted: Artifact, train: NDArray[np.int32], valid: NDArray[np.int32]
) -> Artifact:
    """EM on sequences filled up to one length; the end's state is set right afterwards."""
    engine, options = work.engine, work.options
    inputs = {
        "start": counted.id,
        "options": asdict(options),
        "engine": {"name": engine.name, "device": engine.device},
    }
    observed = (valid != MISSING).sum() / len(valid)

    spent = 0.0

    def report(epoch: Epoch) -> None:
        nonlocal spent
        assert epoch.valid is not None
        spent += epoch.seconds
        figure = f"validation perplexity {np.exp(-epoch.valid / observed):.2f}"
        work.reporter.say(f"pass {epoch.epoch + 1}: {figure} after {seconds_text(spent)}")

    def build(folder: Path) -> Mapping[str, Any]:
        passes = range(options.epochs)
        with work.reporter.task(f"training {work.states:,} states", passes) as tick:
            found = engine.fit(
                hdf5.load(counted.path / CIRCUIT),
                fill_up(train, work.end),
                options,
                valid=fill_up(valid, work.end),
                checkpoint=folder / CHECKPOINT,
                on_epoch=report,
                on_batch=tick,
            )
        hmm = Hmm.of(found.circuit)
        hmm = hmm if work.end is None else with_end_state(hmm, work.end)
        perplexity = TextModel(hmm, engine).perplexity(valid)
        circuit = hmm.circuit(work.length)
        hdf5.save(replace(circuit, meta={**circuit.meta, **_meta(work)}), folder / CIRCUIT)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        seconds = sum(epoch.seconds for epoch in found.history)
        return {"seconds": seconds, "perplexity": perplexity}

    return work.store.stage("train-language", 1, inputs, build)


def _meta(work: Writing) -> dict[str, str | int | float]:
    """What is needed to open the HMM as one of text."""
    source = str(getattr(work.model, "name_or_path", "")) or type(work.model).__name__
    codec = TextCodec(
        work.vocabulary, work.length, work.length, False, WordPieces.unit, end=work.end
    )
    return {
        "dataset": f"samples of {source}",
        "sequences": work.sequences,
        "seed": work.options.seed,
        **codec.meta(),
    }
