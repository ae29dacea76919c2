"""From a causal language model to a hidden Markov model of what it writes.

GeLaTo (Zhang et al., ICML 2023) and Ctrl-G (Zhang et al., arXiv 2406.13892) steer a language model
by such an HMM; its start comes from the language model's own states.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pyjuice_bridge import processes
from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.codecs.text import FILE as TOKENS
from pyjuice_bridge.codecs.text import TextCodec, Vocabulary
from pyjuice_bridge.data.text_tokenizers import WordPieces
from pyjuice_bridge.distill.ctrlg import save_ctrlg
from pyjuice_bridge.distill.language import one_end
from pyjuice_bridge.engines import choose_engine, get_engine
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import copy_file
from pyjuice_bridge.pipeline import record
from pyjuice_bridge.pipeline.arms import CIRCUIT
from pyjuice_bridge.pipeline.text_writing import (
    Sampling,
    Writing,
    count_stage,
    sample_stage,
    train_stage,
)
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.stages.progress import Reporter
from pyjuice_bridge.stages.store import Store
from pyjuice_bridge.teachers.public import borrowed
from pyjuice_bridge.teachers.text_model import load_model, resolve_precision
from pyjuice_bridge.teachers.text_sample import own_ends, read_sequences

MODEL = "model.h5"
CTRLG = "ctrlg"
_HELD_OUT = 10
"""One sequence of so many is for validation."""


def distill_language_model(
    model: Any,
    states: int,
    *,
    sequences: int,
    length: int,
    out: str | Path,
    epochs: int = 10,
    seed: int = 0,
    sampling: Sampling | None = None,
    batch_size: int = 256,
    step_size: Schedule | None = None,
    pseudocount: float = 0.1,
    smoothing: float = 0.1,
    ctrlg: bool = False,
    engine: str = "auto",
    device: str = "auto",
    fresh: bool = False,
    revision: str | None = None,
    console: Console | None = None,
) -> TextModel:
    """Distill a causal language model into an HMM over the same token ids.

    Sequences are sampled from the model; the states that their tokens were generated from are
    clustered; the HMM is counted and then trained by EM on nine tenths of the sequences, the best
    pass on the last tenth being kept.  The last state is that of the end of a text: see
    ``distill.language``.  Where the model has no end of a text, all states are ordinary ones.

    Stages are kept in ``artifacts`` beside ``out``, as those of runs: called again, it continues
    where it was stopped, or reuses what is finished.

    Args:
        model: a causal model of transformers, which is as before afterwards, the folder of one, or
            its name on the hub.
        states: of the HMM.
        sequences: to sample.
        length: tokens of a sequence, at most.
        out: folder for ``model.h5``, ``log.txt`` and, where the model has a fast tokenizer,
            ``tokens.json``, with which ``load(out)`` opens the HMM again.
        epochs: passes of EM.
        seed: of samples, clusters and mini-batches.
        sampling: prompt, end, temperature, layer.
        batch_size: sequences per step of EM.
        step_size: of EM; default from 0.2 to 0.01.
        pseudocount: of counting and of every step of EM, shared by the entries of a row.
        smoothing: share of a counted row that is given to overall frequencies.
        ctrlg: whether to write Ctrl-G's files too, to ``out/ctrlg``.
        engine: "auto", "torch" or "julia".
        device: "auto", "cpu" or "cuda".
        fresh: compute every stage anew.
        revision: of a model on the hub, a branch, tag or commit.
        console: where to report progress; None is silent.

    Returns:
        The HMM, with the model's strings where it has a fast tokenizer.

    Raises:
        UserError: a setting does not fit the model, or a package is missing, in one sentence.
    """
    sampling = sampling or Sampling()
    _check(states, sequences, length, epochs, batch_size, pseudocount, smoothing)
    folder = Path(out)
    record.open_folder(folder)
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} is a run's folder; give another one for the HMM")
    options = FitOptions(
        epochs=epochs,
        batch_size=batch_size,
        step_size=step_size or Schedule(0.2, 0.01),
        pseudocount=pseudocount,
        seed=seed,
    )
    if not isinstance(model, str | Path | torch.nn.Module):
        raise UserError("model: give a causal model of transformers, its folder or its name")
    with Reporter(console, folder / "log.txt") as reporter:
        try:
            choice = choose_engine(engine, device)
            reporter.say(choice.reason)
            runs = get_engine(choice.name, choice.device)
            with reporter.task("loading the language model"):
                kind = resolve_precision("auto", runs.device)
                head = load_model(
                    model, causal=True, device=runs.device, precision=kind, revision=revision
                )
            ends = _ends(head, sampling)
            if ctrlg and not ends:
                raise UserError("Ctrl-G's files name the token that ends a text; give sampling.end")
            ledger = folder / record.ARTIFACTS
            artifacts = folder.absolute().parent / "artifacts"
            store = Store(artifacts, fresh=fresh, reporter=reporter, ledger=ledger)
            work = Writing(
                model=head,
                states=states,
                sequences=sequences,
                length=length,
                sampling=sampling,
                ends=ends,
                options=options,
                smoothing=smoothing,
                engine=runs,
                store=store,
                reporter=reporter,
            )
            with borrowed(head, runs.device):
                return _distill(work, folder, ctrlg)
        except (UserError, KeyboardInterrupt) as error:
            reporter.note(f"stopped: {str(error) or 'interrupted'}")
            raise
        except Exception:
            reporter.note(traceback.format_exc())
            raise


def _check(
    states: int,
    sequences: int,
    length: int,
    epochs: int,
    batch_size: int,
    pseudocount: float,
    smoothing: float,
) -> None:
    least = {
        "states": (states, 2),
        "sequences": (sequences, 2),
        "length": (length, 2),
        "epochs": (epochs, 1),
        "batch_size": (batch_size, 1),
    }
    for name, (value, low) in least.items():
        if value < low:
            raise UserError(f"{name}: must be at least {low}, got {value}")
    if pseudocount < 0:
        raise UserError(f"pseudocount: must be at least 0, got {pseudocount}")
    if not 0 <= smoothing <= 1:
        raise UserError(f"smoothing: must be from 0 to 1, got {smoothing}")
    if processes.started() > 1:
        raise UserError("a language model is distilled in one process; start it without torchrun")


def _ends(model: Any, sampling: Sampling) -> list[int]:
    """The ids that end a text."""
    if sampling.end is None:
        return own_ends(model)
    last = int(model.get_input_embeddings().weight.shape[0]) - 1
    if not 0 <= sampling.end <= last:
        raise UserError(f"sampling.end: must be an id of the model, 0 … {last}, got {sampling.end}")
    return [sampling.end]


def _distill(work: Writing, folder: Path, ctrlg: bool) -> TextModel:
    sampled = sample_stage(work)
    x = one_end(read_sequences(sampled.path), work.ends)
    held = max(1, len(x) // _HELD_OUT)
    trained = train_stage(work, count_stage(work, sampled, x[:-held]), x[:-held], x[-held:])
    copy_file(trained.path / CIRCUIT, folder / MODEL)
    circuit = hdf5.load(folder / MODEL)
    hmm = Hmm.of(circuit)
    vocabulary = _vocabulary(work)
    if vocabulary is not None:
        vocabulary.save(folder / TOKENS)
    if ctrlg and work.end is not None:
        save_ctrlg(hmm, folder / CTRLG, eos_token_id=work.end)
    found = f"validation perplexity {trained.info['perplexity']:.2f}"
    work.reporter.say(f"{found} on {held:,} sequences{' (reused)' if trained.reused else ''}")
    return TextModel(hmm, work.engine, replace(TextCodec.of(circuit), vocabulary=vocabulary))


def _vocabulary(work: Writing) -> Vocabulary | None:
    """Return the strings of the model's ids, where it has a fast tokenizer."""
    source = str(getattr(work.model, "name_or_path", ""))
    if not source:
        return None
    try:
        pieces = WordPieces(source)
    except UserError:
        return None
    words = pieces.vocabulary()[: work.vocabulary]
    words += [f"[no token {i}]" for i in range(len(words), work.vocabulary)]
    place = str(Path(source).absolute()) if Path(source).is_dir() else source
    return Vocabulary(tuple(words), place, str(pieces.facts["sha256"]))
