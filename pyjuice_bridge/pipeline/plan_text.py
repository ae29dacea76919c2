"""What a run on text would take: parameters, memory and time of HMMs of every size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.config import Config, TextData
from pyjuice_bridge.data import load_text
from pyjuice_bridge.data.text_corpora import CORPORA
from pyjuice_bridge.engines.base import Engine, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.plan import ArmPlan, Plan
from pyjuice_bridge.pipeline.sizes import hmm_parameters, hmm_work
from pyjuice_bridge.pipeline.text_data import prepare_text, tokenizer_of
from pyjuice_bridge.teachers.base import TeacherSection

_GPUS = (8, 16, 24, 40, 80, 140)
"""Memory of usual GPUs in GiB."""
_SHORT, _LONG = 3, 24
"""Lengths of the windows that time is measured on."""
_ROWS = 128


@dataclass(frozen=True)
class KnownText:
    """A corpus that need not be there: its training tokens, and how many kinds there are."""

    tokens: int
    vocabulary: int
    about: bool = False


_BERT_PIECES = 30_522
_BERT = ("minilm", "bert-base-uncased", "google-bert/bert-base-uncased")
_PIECES_PER_WORD = 1.2


def plan_text(config: Config, engine: Engine) -> Plan:
    """Predict a run on text; trains nothing, needs no corpus that is only known by name."""
    section, teacher = config.data, config.teacher
    assert isinstance(section, TextData)
    known, rows = _known(config, section, teacher)
    batch = rows if config.train.optimizer == "full_em" else min(config.train.batch_size, rows)
    arms: list[ArmPlan] = []
    for size in config.sizes:
        states = size or config.circuit.states  # type: ignore[union-attr]
        parameters = hmm_parameters(known.vocabulary, states)
        memory = _memory(config, states, parameters, rows, batch, section.window)
        seconds = config.train.epochs * _pass_seconds(
            engine, known.vocabulary, states, rows, batch, section.window
        )
        arms += [
            ArmPlan(arm, parameters, config.train.epochs, memory, seconds, size)
            for arm in config.arms or []
        ]
    most = max(arm.memory_bytes for arm in arms)
    return Plan(config.name, tuple(arms), _note(known, rows, section, engine, most))


def _known(config: Config, section: TextData, teacher: TeacherSection) -> tuple[KnownText, int]:
    """What the text has, and its number of training windows."""
    length, stride = section.window, section.stride or section.window
    known = _published(section, teacher)
    if known is not None:
        tokens = min(known.tokens, section.limit or known.tokens)
        if tokens < length:
            raise UserError(f"'data.limit' is {tokens}, less than one window of {length}")
        size = min(known.vocabulary, section.vocabulary or known.vocabulary)
        return KnownText(tokens, size, known.about), (tokens - length) // stride + 1
    tokenizer = tokenizer_of(section, teacher)
    found = load_text(
        section.name,
        tokenizer=tokenizer,
        vocabulary=section.vocabulary,
        root=section.root,
        valid=section.valid,
        test=section.test,
        seed=config.seed,
        limit=section.limit,
    )
    rows = len(prepare_text(found, section, tokenizer).rows["train"])
    return KnownText(len(found.train), len(found.vocabulary)), rows


def _published(section: TextData, teacher: TeacherSection) -> KnownText | None:
    """What is known about a corpus that need not be there; word pieces are estimated."""
    corpus = CORPORA.get(section.name)
    if corpus is None or not corpus.published:
        return None
    words = corpus.published["train"]
    if section.tokens == "words":
        return KnownText(words, corpus.published["vocabulary"])
    if tokenizer_of(section, teacher) not in _BERT:
        return None
    return KnownText(int(round(words * _PIECES_PER_WORD, -5)), _BERT_PIECES, about=True)


def _memory(
    config: Config, states: int, parameters: int, rows: int, batch: int, window: int
) -> int:
    """Parameters, counts, best so far (and Anemone's averages), windows, one batch's values."""
    bytes_each = 8 if config.precision == "float64" else 4
    copies = 5 if config.train.optimizer == "anemone" else 3
    work = hmm_work(window, states)
    leaves = window * states
    activations = batch * ((work.activations + leaves) * bytes_each + 8 * work.blocks)
    return copies * parameters * bytes_each + rows * window * 4 + activations


def _pass_seconds(
    engine: Engine, vocabulary: int, states: int, rows: int, batch: int, window: int
) -> float:
    """Seconds of an EM pass: a step costs so much per position of a row, and so much at all."""
    some = min(batch, _ROWS)
    short, long = (_step_seconds(engine, vocabulary, states, some, n) for n in (_SHORT, _LONG))
    per_position = max(long - short, 0.0) / ((_LONG - _SHORT) * some)
    alone = max(short - _SHORT * some * per_position, 0.0)
    return rows * window * per_position + -(-rows // batch) * alone


def _step_seconds(engine: Engine, vocabulary: int, states: int, rows: int, length: int) -> float:
    """Seconds of a step on ``rows`` windows of noise, the fastest of a few."""
    circuit = random_hmm(states, vocabulary, 0).circuit(length)
    x = np.random.default_rng(0).integers(0, vocabulary, (rows, length)).astype(np.int32)
    found = engine.fit(circuit, x, FitOptions(epochs=3, batch_size=rows))
    return min(epoch.seconds for epoch in found.history)


def _note(known: KnownText, rows: int, section: TextData, engine: Engine, memory: int) -> str:
    about = "about " if known.about else ""
    fits = next((size for size in _GPUS if memory < 0.9 * size * 2**30), None)
    gpu = f"the largest fits a GPU of {fits} GiB" if fits else "no single GPU holds the largest"
    return (
        f"{about}{known.tokens:,} training tokens of {known.vocabulary:,} kinds in {rows:,} "
        f"windows of {section.window} at a stride of {section.stride}; time is that of the EM "
        f"passes, from steps tried on short windows on {engine.device}; the teacher, which reads "
        "every token once, and the clustering come on top; memory comes on top of PyTorch itself "
        "(some 300 MiB) and holds a whole batch, which the engine cuts where it does not fit: "
        f"{gpu}"
    )
