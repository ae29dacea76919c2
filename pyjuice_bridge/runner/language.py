"""``distill_language_model``: a run on what a language model writes, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pyjuice_bridge.circuit.formats.ctrlg import save_ctrlg
from pyjuice_bridge.engines.base import Schedule
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.runner.api import run

CTRLG = "ctrlg"


@dataclass(frozen=True)
class Sampling:
    """How sequences are drawn from the language model.

    Attributes:
        prompt: ids that every sequence continues and that are not part of it, such as an
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
    progress: bool = True,
    console: Console | None = None,
) -> TextModel:
    """Distill a causal language model into an HMM over the same token ids.

    This is ``run`` with ``data.kind: written`` and the arm ``lvd`` alone: sequences are sampled
    from the model, the states that their tokens were generated from are clustered, the HMM is
    counted and then trained by EM, the best pass on validation being kept.  A config of that kind
    has the random start beside it, several sizes and several processes.

    Args:
        model: a causal model of transformers, which is as before afterwards, the folder of one, or
            its name on the hub.
        states: of the HMM.
        sequences: to sample; a tenth each is for validation and testing.
        length: tokens of a sequence, at most.
        out: the run's folder.
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
        progress: whether to report it.
        console: where to report progress; default: standard error.

    Returns:
        The HMM, with the model's strings where it has a fast tokenizer.

    Raises:
        UserError: a setting does not fit the model, or a package is missing, in one sentence.
    """
    drawn = asdict(sampling or Sampling())
    drawn["prompt"] = None if drawn["prompt"] is None else [int(i) for i in drawn["prompt"]]
    named = str(model) if isinstance(model, str | Path) else "model"
    steps = asdict(step_size or Schedule(0.2, 0.01))
    config = {
        "name": "language-model",
        "seed": seed,
        "engine": engine,
        "device": device,
        "data": {
            "kind": "written",
            "name": named,
            "revision": revision,
            "sequences": sequences,
            "length": length,
            **drawn,
        },
        "circuit": {
            "kind": "hmm",
            "states": states,
            "pseudocount": pseudocount,
            "smoothing": smoothing,
        },
        "train": {
            "epochs": epochs + 1,
            "batch_size": batch_size,
            "step_size": steps,
            "pseudocount": pseudocount,
        },
        "arms": ["lvd"],
    }
    result = run(config, writer=model, out=out, fresh=fresh, progress=progress, console=console)
    text_model = result.model.text
    if ctrlg:
        end = text_model.codec.end if text_model.codec is not None else None
        if end is None:
            raise UserError("Ctrl-G's files name the token that ends a text; give sampling.end")
        save_ctrlg(text_model.hmm, Path(out) / CTRLG, eos_token_id=end)
    return text_model
