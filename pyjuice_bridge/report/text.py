"""What the report shows of a run on text, from text.json and the pictures of figures.npz."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json
from pyjuice_bridge.report.pictures import matrices
from pyjuice_bridge.report.run_dir import ArmResult, Run


@dataclass(frozen=True)
class Word:
    """A token and its probability in a state."""

    text: str
    probability: float


@dataclass(frozen=True)
class State:
    """A hidden state: how often it is taken, its likeliest and its most typical words."""

    number: int
    share: float
    likely: tuple[Word, ...]
    typical: tuple[Word, ...]


@dataclass(frozen=True)
class Answer:
    """What an arm puts into a gap: an exact draw, and Viterbi's."""

    arm: str
    sampled: str
    viterbi: str


@dataclass(frozen=True)
class Gap:
    """A span of a validation text that was hidden, its surroundings and the answers."""

    before: str
    hidden: str
    after: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class TextArm:
    """The examples of one arm."""

    arm: str
    count: int
    samples: tuple[str, ...]
    states: tuple[State, ...]


@dataclass(frozen=True)
class Examples:
    """The content of text.json."""

    arms: tuple[TextArm, ...] = ()
    gaps: tuple[Gap, ...] = ()


def read_examples(path: Path) -> Examples:
    """Read text.json; nothing where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        values = read_json(path)
        arms = tuple(_arm(name, each) for name, each in values["arms"].items())
        return Examples(arms, tuple(_gap(each) for each in values["infill"]))
    except FileNotFoundError:
        return Examples()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run again to rewrite it.") from error


def _arm(name: str, values: Mapping[str, Any]) -> TextArm:
    states = tuple(
        State(
            int(each["state"]),
            float(each["share"]),
            tuple(Word(str(text), float(p)) for text, p in each["likely"]),
            tuple(Word(str(text), float(p)) for text, p in each["typical"]),
        )
        for each in values["states"]
    )
    return TextArm(name, int(values["count"]), tuple(map(str, values["samples"])), states)


def _gap(values: Mapping[str, Any]) -> Gap:
    answers = tuple(
        Answer(arm, str(each["sampled"]), str(each["viterbi"]))
        for arm, each in values["answers"].items()
    )
    return Gap(str(values["before"]), str(values["hidden"]), str(values["after"]), answers)


def definition(results: Sequence[ArmResult]) -> str:
    """Describe how perplexity is counted; return an empty text if results do not say."""
    facts = results[0].extra if results else {}
    if not {"window", "stride", "token"} <= set(facts):
        return ""
    joined = "documents joined" if facts.get("joined") else "every document apart"
    return (
        f"exp(−Σ log p / number of {facts['token']}) over windows of {facts['window']} "
        f"{facts['token']} at a stride of {facts['stride']}, {joined}, no context across windows, "
        f"vocabulary {facts.get('vocabulary', 0):,}"
    )


def text_view(run: Run, arms: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a run on text alone."""
    examples = read_examples(run.path / "text.json")
    token = next((str(r.extra["token"]) for r in run.results if "token" in r.extra), "tokens")
    return {
        "kind": "text",
        "definition": definition(run.results),
        "token": token,
        "examples": examples,
        "transitions": matrices(run.figures, "transitions", run.path / "figures.npz"),
    }
