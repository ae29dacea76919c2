"""One list of split names, and one way of making the splits that a source lacks."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError

T = TypeVar("T")
Rows = NDArray[np.int64]

SPLITS = ("train", "valid", "test")
TEST_SEED = 20210
"""Sets without a test split get theirs from this seed, the same for every run."""
WHOLE = "all"
"""The part of a text without splits."""
_SPELLINGS = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {name: split for split, names in _SPELLINGS.items() for name in names}
_SHARD = re.compile(r"-\d+-of-\d+$")
_BESIDE_DATA = ("readme", "license", "licence")


@dataclass
class Found(Generic[T]):
    """What a source holds, before it is divided.

    Attributes:
        parts: ``train`` (or ``all``, of a text) and, where the source has them, ``valid`` and
            ``test``; images may be changed in place.
        sources: where each part comes from, in words.
        meta: JSON-able provenance.
    """

    parts: dict[str, T]
    sources: dict[str, str]
    meta: dict[str, Any] = field(default_factory=dict)


class SplitData:
    """What the data sets of all domains say about their splits."""

    counted: ClassVar[str]
    name: str
    meta: Mapping[str, Any]

    def __repr__(self) -> str:
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        return f"{type(self).__name__}({self.name}: {counts} {self.counted})"

    @property
    def counts(self) -> dict[str, int]:
        """Number of images, documents or rows of each split."""
        return {split: len(getattr(self, split)) for split in SPLITS}

    def origins(self) -> str:
        """Say how many of each split there are and their sources, for a log."""
        sources = self.meta.get("sources", {})
        parts = (
            f"{count:,} {split}" + (f" ({sources[split]})" if split in sources else "")
            for split, count in self.counts.items()
        )
        return f"{self.counted}: {', '.join(parts)}"


@dataclass(frozen=True)
class Division(Generic[T]):
    """How a domain's parts are divided.

    Attributes:
        unit: what is divided, in the plural.
        size: how many of them a part holds.
        take: a part and rows of it to (the others, these rows).
    """

    unit: str
    size: Callable[[T], int]
    take: Callable[[T, Rows], tuple[T, T]]


def split_called(name: str) -> str | None:
    """Return the split that a name denotes, in upper or lower case; None if it is no split."""
    return _SPLIT_OF.get(name.lower())


def by_split(names: Mapping[str, Sequence[str]], where: str) -> dict[str, list[str]]:
    """Group names by the split that one of their words denotes; ``""`` has the others.

    Args:
        names: each name with the words of it that may be a split's.
        where: the folder, file or argument that holds them, for messages.

    Raises:
        UserError: a name stands for two splits, a split is spelled in two ways, or a name looks
            like a split's name and is none.
    """
    groups: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for name, words in names.items():
        named = {split: word.lower() for word in words if (split := split_called(word))}
        if len(named) > 1:
            raise UserError(f"{where}: {name} names {' and '.join(sorted(named))}: rename it.")
        for split, word in named.items():
            if spelling.setdefault(split, word) != word:
                raise UserError(
                    f"{where} holds {spelling[split]} and {word}, which both name the {split}"
                    " split: keep one."
                )
        groups.setdefault(next(iter(named), ""), []).append(name)
    _refuse_lookalikes([(n, w) for n in groups.get("", []) for w in names[n]], groups, where)
    return groups


def one_by_split(names: Iterable[str], where: str) -> dict[str, str]:
    """Return the one name of each split, for folders, arrays and arguments; leave out others.

    Raises:
        UserError: as :func:`by_split`, or two names stand for one split (``train``, ``Train``).
    """
    groups = by_split({name: [name] for name in names}, where)
    twice = [same for split, same in groups.items() if split and len(same) > 1]
    if twice:
        raise UserError(f"{where} holds {' and '.join(twice[0])}, which are one split: keep one.")
    return {split: same[0] for split, same in groups.items() if split}


def files_by_split(folder: Path, endings: Collection[str]) -> dict[str, list[Path]]:
    """Group the visible files below a folder by the split that their names or folders denote.

    That is ``train.txt``, ``wiki.train.tokens``, ``my-train.csv``, ``train-00000-of-00002.parquet``
    or any file in a folder ``train``.

    Returns:
        The files of each split, sorted by path; or all of them under ``""``.

    Raises:
        UserError: no such files, or files that belong to no split beside others that do.
    """
    files = {str(p.relative_to(folder)): p for p in visible_files(folder, endings)}
    if not files:
        raise UserError(f"{folder} holds no files that end in {', '.join(sorted(endings))}.")
    words = {n: [*p.relative_to(folder).parts[:-1], *_words(p.stem)] for n, p in files.items()}
    groups = by_split(words, str(folder))
    others = [n for n in groups.get("", []) if not Path(n).stem.lower().startswith(_BESIDE_DATA)]
    if len(groups) > 1:
        refuse_others(folder, others)
        groups.pop("", None)
    return {s: [files[name] for name in sorted(groups[s])] for s in ("", *SPLITS) if s in groups}


def in_words(files: Sequence[Path], root: Path, note: str = "") -> str:
    """Name the file of a split, or say how many there are, with a note on them."""
    if len(files) > 1:
        return f"{len(files):,} files of {root.name}/{note}"
    return files[0].name if files[0] == root else str(files[0].relative_to(root))


def refuse_others(where: Path | str, others: Sequence[str]) -> None:
    """Refuse data beside splits that would be left out.

    Raises:
        UserError: there are some.
    """
    if others:
        raise UserError(
            f"{where} has splits, and {others[0]} is in none of them: call it train, valid or test,"
            " or move it away."
        )


def visible_files(folder: Path, endings: Collection[str]) -> list[Path]:
    """Return the files of these endings below a folder, sorted, without hidden ones and folders."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings
        and not any(is_hidden(part) for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is one that programs leave behind."""
    return name.startswith(".") or name == "__MACOSX"


def refuse_without_train(parts: Collection[str], where: str) -> None:
    """Refuse a source that names splits, but not ``train``.

    Raises:
        UserError: it does.
    """
    if "train" not in parts:
        raise UserError(
            f"{where} holds {', '.join(parts) or 'nothing'}: give train and, if there are such"
            " splits, valid and test."
        )


def divided(
    name: str,
    found: Found[T],
    how: Division[T],
    counts: Mapping[str, Callable[[int, int], int]],
    asked: Mapping[str, object],
    seed: int,
) -> Found[T]:
    """Make missing splits: test, the same for every seed, then valid by the seed.

    Args:
        name: the set's name, for messages.
        found: the source; its part ``train`` (or ``all``) gives what is missing.
        how: how parts of this kind are divided.
        counts: the size of a split from those of ``train`` at first and of what is left of it.
        asked: what the caller set for a split; None if nothing.
        seed: chooses ``valid``.

    Raises:
        UserError: a split is asked for that the source has, or nothing would be left of train.
    """
    parts = {"train" if n == WHOLE else n: part for n, part in found.parts.items()}
    sources = {"train" if n == WHOLE else n: words for n, words in found.sources.items()}
    refuse_without_train(parts, name)
    given = sources["train"]
    whole = how.size(parts["train"])
    for split, chosen, words in (
        ("test", TEST_SEED, "the same for every seed"),
        ("valid", seed, "by seed"),
    ):
        if split in parts:
            if asked.get(split) is not None:
                raise UserError(
                    f"{name} has a {split} split of its own: leave out {split} = {asked[split]}."
                )
            continue
        left = how.size(parts["train"])
        count = counts[split](whole, left)
        if not 0 < count < left:
            what = "validation" if split == "valid" else split
            raise UserError(
                f"{name}: cannot take {count} {what} {how.unit} out of {left}; give more, or"
                " train, valid and test apart."
            )
        rows = np.random.default_rng(chosen).choice(left, size=count, replace=False)
        parts["train"], parts[split] = how.take(parts["train"], rows.astype(np.int64))
        sources[split] = f"{count:,} {how.unit} of {given}, {words}"
    return Found(parts, {split: sources[split] for split in SPLITS}, found.meta)


def by_shares(valid: float | None, test: float | None) -> dict[str, Callable[[int, int], int]]:
    """Return the sizes of splits that are shares of the whole, a tenth by default."""
    return {
        "test": lambda whole, _: max(1, round((test or 0.1) * whole)),
        "valid": lambda whole, _: max(1, round((valid or 0.1) * whole)),
    }


def whole_number(field_name: str, value: Any, least: int = 1) -> int:
    """Return an integer of any type as Python's.

    Raises:
        UserError: it is none, or too small.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"{field_name} is {value}: give a whole number, at least {least}.")
    return number


def share(field_name: str, value: Any) -> float | None:
    """Return a share as a Python number, None where there is none.

    Raises:
        UserError: it does not lie between 0 and 1.
    """
    if value is not None and not (isinstance(value, float | np.floating) and 0 < value < 1):
        raise UserError(f"{field_name} is {value}: give a share between 0 and 1.")
    return None if value is None else float(value)


def _words(stem: str) -> list[str]:
    """List the parts of a file's name that may name a split: ``wiki``, ``my-train``, ``train``."""
    parts = _SHARD.sub("", stem).split(".")
    return [part[m.end() :] for part in parts for m in re.finditer(r"^|[-_]", part)]


def _refuse_lookalikes(
    candidates: Sequence[tuple[str, str]], groups: Mapping[str, Sequence[str]], where: str
) -> None:
    """Refuse ``train1``; and ``tests`` or ``train_images`` where other names are splits."""
    named = {*groups} - {""}
    near = {n: split for n, word in candidates if (split := _near(word)) and split not in named}
    doubtful = [n for n, w in candidates if re.fullmatch(rf"({_ANY})[\W_]*\d+", w.lower())]
    if near and len(named.union(near.values())) > 1:
        doubtful += near
    if doubtful:
        raise UserError(
            f"{where}: {doubtful[0]} looks like a split's name but is not: rename it to one of"
            f" {', '.join(_SPLIT_OF)}, or to something else."
        )


_ANY = "|".join(sorted(_SPLIT_OF, key=len, reverse=True))


def _near(word: str) -> str | None:
    word = word.lower()
    started = re.match(rf"({_ANY})[\W_]", word)
    if started:
        return _SPLIT_OF[started[1]]
    close = (n for n in _SPLIT_OF if min(len(n), len(word)) > 3 and _one_edit_apart(n, word))
    return next((_SPLIT_OF[name] for name in close), None)


def _one_edit_apart(one: str, two: str) -> bool:
    """Tell whether one letter added, dropped, changed or swapped turns one into the other."""
    for _ in range(2):  # what they begin with alike, then what they end with
        while one and two and one[0] == two[0]:
            one, two = one[1:], two[1:]
        one, two = one[::-1], two[::-1]
    return max(len(one), len(two)) == 1 or (len(one) == 2 and one == two[::-1])
