"""The words and numbers of the report: names of the arms, the outcome, readable figures."""

from collections.abc import Sequence

from pyjuice_bridge.report.run_dir import ArmResult

_ARMS = {
    "lvd": ("LVD", "latent variables distilled from the teacher, then trained on the pixels"),
    "random": ("Random start", "the same graph, started from Dirichlet(1) rows"),
    "hclt": (
        "Plain HCLT",
        "one hidden tree over all pixels, with as nearly as possible as many parameters",
    ),
}
_IN_A_SENTENCE = {"lvd": "LVD", "random": "the random start", "hclt": "the plain HCLT"}
_SPLIT = {"test": "the test images", "valid": "the validation images"}
DIGITS = 4
"""Decimals of a bits-per-dimension figure in the tables."""


def arm_name(arm: str) -> str:
    """Short name of an arm, for labels and headings."""
    return _ARMS[arm][0] if arm in _ARMS else arm


def arm_description(arm: str) -> str:
    """What the arm is, in a few words; empty for an arm the report does not know."""
    return _ARMS[arm][1] if arm in _ARMS else ""


def outcome(results: Sequence[ArmResult], dataset: str | None) -> str:
    """One sentence: the best arm, by how much, on what (the test split when all arms have it)."""
    split = next((s for s in _SPLIT if results and all(r.bits[s] is not None for r in results)), "")
    if not split:
        return "This run has no final figures for all of its arms yet."
    ranked = sorted(((r.bits[split] or 0.0, r) for r in results), key=lambda pair: pair[0])
    value, best = ranked[0]
    where = _SPLIT[split] + (f" of {dataset}" if dataset else "")
    reached = f"{value:.{DIGITS}f} {best.unit} on {where}"
    if len(ranked) == 1:
        return f"{_subject(best)} reaches {reached}."
    others = _join([f"{_difference(value, other)} {_object(r)}" for other, r in ranked[1:]])
    if best.arm != "lvd" and any(r.arm == "lvd" for r in results):
        return f"LVD is not the best arm here: {_object(best)} reaches {reached}, {others}."
    return f"{_subject(best)} is best: {reached}, {others}."


def seconds_text(seconds: float | None) -> str:
    """Seconds with a precision that fits their size: 4.21 s, 38 s, 12 min 05 s, 1 h 02 min."""
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


def bytes_text(size: int | None) -> str:
    """A number of bytes in MiB, or in GiB from 1024 MiB on."""
    if size is None:
        return "–"
    mebibytes = size / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.2f} GiB"


def bits_text(value: float | None) -> str:
    """A bits-per-dimension figure with four decimals."""
    return "–" if value is None else f"{value:.{DIGITS}f}"


def spoken(name: str) -> str:
    """A file's identifier as words: `latent_training` becomes `latent training`."""
    return name.replace("_", " ").strip()


def _subject(result: ArmResult) -> str:
    words = _object(result)
    return words[:1].upper() + words[1:] if result.arm in _ARMS else words


def _object(result: ArmResult) -> str:
    return _IN_A_SENTENCE.get(result.arm, result.arm)


def _difference(best: float, other: float) -> str:
    gap = other - best
    if round(gap, DIGITS) == 0:
        return f"equal to {DIGITS} decimals with"
    share = f" ({100 * gap / other:.1f} %)" if other > 0 else ""
    return f"{gap:.{DIGITS}f}{share} below"


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
