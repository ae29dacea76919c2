"""The words and numbers of the report: names of the arms, the outcome, readable figures."""

import math
from collections.abc import Sequence

from pyjuice_bridge.config.sweep import Point, words_of
from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.run_dir import ArmResult, points_in

_ARMS = {
    "lvd": ("LVD", "latent variables distilled from the teacher, then trained on the data alone"),
    "random": ("Random start", "the same graph, started from Dirichlet(1) rows"),
    "start": ("Warm start", "continued from the circuit of train.start"),
    "hclt": (
        "Plain HCLT",
        "one hidden tree over all variables, with as nearly as possible as many parameters",
    ),
}
_IN_A_SENTENCE = {
    "lvd": "LVD",
    "random": "the random start",
    "hclt": "the plain HCLT",
    "start": "the warm start",
}
_SPLIT = {"test": "test", "valid": "validation"}


def arm_name(arm: str, point: Point | None = None) -> str:
    """Return an arm's short name for labels, with its point in a sweep."""
    name = _ARMS[arm][0] if arm in _ARMS else arm
    return f"{name}, {words_of(point)}" if point else name


def arm_description(arm: str) -> str:
    """Describe an arm in a few words; return an empty text for an unknown one."""
    return _ARMS[arm][1] if arm in _ARMS else ""


def outcome(results: Sequence[ArmResult], dataset: str | None) -> str:
    """Name the best arm in a sentence, by how much, and on which split (test if possible).

    Of an arm at several points of a sweep its best counts, and another sentence says what holds at
    each point.
    An arm that gives rows probability 0 is behind all others, and a sentence says so.
    """
    whole = (s for s in _SPLIT if results and all(_scored(r, s) for r in results))
    split = next(whole, "")
    if not split:
        return "This run has no final figures for all of its arms yet."
    figure = {id(r): _figure(r, split) for r in results}
    arms = dict.fromkeys(r.arm for r in results)
    best_of = [min((r for r in results if r.arm == a), key=lambda r: figure[id(r)]) for a in arms]
    pairs = [(figure[id(r)], r) for r in best_of]
    found = [_best_first(possible, split, dataset)] if (possible := _finite(pairs)) else []
    found += [
        f"{_subject(r)} has no figure on {_where(r, split, dataset)}: "
        f"{r.measure.impossible(*r.impossible[split])}."
        for value, r in pairs
        if value == math.inf
    ]
    sentence = " ".join(found)
    points = points_in(results)
    if len(points) < 2 or "lvd" not in arms or len(arms) < 2:
        return sentence
    ahead = [
        min((r for r in results if r.point == point), key=lambda r: figure[id(r)]).arm == "lvd"
        for point in points
    ]
    return f"{sentence} LVD is ahead at {sum(ahead)} of {len(points)} points of the sweep."


def impossible(result: ArmResult) -> list[str]:
    """Return a line for every split of which an arm rules rows out."""
    name = arm_name(result.arm, result.point)
    return [
        f"{name} on {_SPLIT.get(split, split)}: {result.measure.impossible(count, rows)}"
        for split, (count, rows) in result.impossible.items()
    ]


def candidates(result: ArmResult) -> str | None:
    """Say what partial E-steps leave out; None where the arm took none."""
    valid = result.values["valid"]
    if result.candidates is None or valid is None:
        return None
    count, kept = result.candidates
    measure = result.measure
    return (
        f"{arm_name(result.arm, result.point)}: the {count} likeliest values of every latent alone "
        f"give {measure.text(kept)} on validation, all of them {measure.text(valid)} "
        f"{measure.unit}; partial E-steps leave out the difference"
    )


def _scored(result: ArmResult, split: str) -> bool:
    return result.values[split] is not None or split in result.impossible


def _figure(result: ArmResult, split: str) -> float:
    value = result.values[split]
    return math.inf if value is None else value


def _finite(pairs: Sequence[tuple[float, ArmResult]]) -> list[tuple[float, ArmResult]]:
    return [pair for pair in pairs if pair[0] < math.inf]


def _where(result: ArmResult, split: str, dataset: str | None) -> str:
    return f"the {_SPLIT[split]} {result.measure.rows}" + (f" of {dataset}" if dataset else "")


def _best_first(figures: Sequence[tuple[float, ArmResult]], split: str, dataset: str | None) -> str:
    ranked = sorted(figures, key=lambda pair: pair[0])
    value, best = ranked[0]
    measure = best.measure
    reached = f"{measure.phrase(value)} on {_where(best, split, dataset)}"
    if len(ranked) == 1:
        return f"{_subject(best)} reaches {reached}."
    gaps = [f"{_difference(value, other, measure)} {_object(r)}" for other, r in ranked[1:]]
    others = _join(gaps)
    if best.arm != "lvd" and any(r.arm == "lvd" for _, r in ranked):
        return f"LVD is not the best arm here: {_object(best)} reaches {reached}, {others}."
    return f"{_subject(best)} is best: {reached}, {others}."


def seconds_text(seconds: float | None) -> str:
    """Format seconds by their size: 4.21 s, 38 s, 12 min 05 s, 1 h 02 min."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def percent(share: float | None) -> str:
    """Format a share: 97.31 %."""
    return "–" if share is None else f"{100 * share:.2f} %"


def bytes_text(size: int | None) -> str:
    """Format a number of bytes in MiB, or in GiB from 1024 MiB on."""
    if size is None:
        return "–"
    mebibytes = size / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f} GiB"


def spoken(name: str) -> str:
    """Spell an identifier as words: `latent_training` becomes `latent training`."""
    return name.replace("_", " ").strip()


def _subject(result: ArmResult) -> str:
    words = _object(result)
    return words[:1].upper() + words[1:] if result.arm in _ARMS else words


def _object(result: ArmResult) -> str:
    name = _IN_A_SENTENCE.get(result.arm, result.arm)
    return f"{name} with {words_of(result.point)}" if result.point else name


def _difference(best: float, other: float, measure: Measure) -> str:
    gap = other - best
    if round(gap, measure.digits) == 0:
        return f"equal to {measure.digits} decimals with"
    share = f" ({100 * gap / other:.1f} %)" if other > 0 else ""
    return f"{measure.text(gap)}{share} below"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
