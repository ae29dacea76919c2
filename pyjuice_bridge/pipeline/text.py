"""A run on text: its data, its arms, what its report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyjuice_bridge.config import Config, TextData
from pyjuice_bridge.data import load_text
from pyjuice_bridge.data.text_load import Source
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.pipeline.arms import Start
from pyjuice_bridge.pipeline.files import copy_file
from pyjuice_bridge.pipeline.progress import Reporter
from pyjuice_bridge.pipeline.store import Store
from pyjuice_bridge.pipeline.text_arms import text_starts
from pyjuice_bridge.pipeline.text_codec import FILE as TOKENS
from pyjuice_bridge.pipeline.text_codec import TextCodec
from pyjuice_bridge.pipeline.text_data import TextContext, prepare_text, tokenizer_of
from pyjuice_bridge.pipeline.text_examples import EXAMPLES, PICTURES, examples
from pyjuice_bridge.pipeline.training import Trained


@dataclass(frozen=True)
class TextWork:
    """What is special about text, once the tokens are there."""

    context: TextContext
    teacher: object | None

    def starts(self) -> Sequence[Start]:
        """Every arm in every size, at its start."""
        return text_starts(self.context, self.teacher)

    def show(self, folder: Path, trained: Sequence[Trained], best: Trained) -> None:
        """Leave examples, pictures, tokens and the best arm's clusters in the run's folder."""
        data = self.context.data
        TextCodec.of(data.dataset, data.tokenizer).save(folder / TOKENS)
        shown = [arm for arm in trained if arm.start.states == best.start.states]
        drawn = examples(self.context, shown)
        for name in (EXAMPLES, PICTURES):
            copy_file(drawn.path / name, folder / name)
        if best.start.assignments is not None:
            copy_file(best.start.assignments, folder / best.start.assignments.name)


def text_work(
    config: Config,
    section: TextData,
    engine: Engine,
    store: Store,
    reporter: Reporter,
    text: Source | None,
    teacher: object | None,
) -> TextWork:
    """Load and cut the text, or take the user's own."""
    tokenizer = tokenizer_of(section, config.teacher)
    with reporter.task("tokens"):
        dataset = load_text(
            section.name if text is None else text,
            tokenizer=tokenizer,
            vocabulary=section.vocabulary,
            root=section.root,
            valid=section.valid,
            test=section.test,
            seed=config.seed,
            limit=section.limit,
        )
    data = prepare_text(dataset, section, tokenizer)
    facts = data.facts()
    counts = "/".join(f"{n:,}" for n in facts["tokens"].values())
    windows = "/".join(f"{n:,}" for n in facts["windows"].values())
    reporter.say(
        f"data {dataset.name}: {counts} {dataset.unit} of {facts['vocabulary']:,} kinds, in "
        f"{windows} windows of {section.window} at a stride of {section.stride}"
    )
    return TextWork(TextContext(config, engine, store, reporter, data), teacher)
