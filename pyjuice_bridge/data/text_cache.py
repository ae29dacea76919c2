"""Token ids on disk: tokenised once per content and tokenizer, then mapped."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.files import (
    cache_dir,
    file_digest,
    reading,
    scratch_folder,
    verify,
    writing_cache,
)
from pyjuice_bridge.data.text import TokenStream
from pyjuice_bridge.data.text_tokenizers import Tokenizer, batches
from pyjuice_bridge.errors import UserError

_LAYOUT = 1
_IDS = np.dtype("<i4")
_VOCABULARY = "vocabulary.json"
_CHECKSUMS = "checksums.json"
_TOKENS, _ENDS = ".tokens", ".documents.npy"


@dataclass(frozen=True)
class Part:
    """Some documents of a source.

    Attributes:
        documents: begins to read them, one at a time.
        content: a hash of the bytes they are read from, and of how.
    """

    documents: Callable[[], Iterable[str]]
    content: Callable[[], str]


def tokenised(
    name: str, parts: Mapping[str, Part], tokenizer: Tokenizer
) -> tuple[dict[str, TokenStream], list[str]]:
    """Return the token streams of all parts, mapped from the cache, and the vocabulary.

    Documents without a token are left out.

    Raises:
        UserError: a part has no tokens, the disk is full, or the cache cannot be written.
    """
    digest = hashlib.sha256(f"{_LAYOUT} {tokenizer.facts['sha256']}".encode())
    for part_name, part in parts.items():
        digest.update(f"\n{part_name} {part.content()}".encode())
    folder = cache_dir() / "tokens" / f"{name}-{digest.hexdigest()[:16]}"
    found = _read(folder, parts)
    if found is None:
        with writing_cache(folder):
            _build(folder, name, parts, tokenizer)
        found = _read(folder, parts)
    if found is None:
        raise UserError(f"{folder} does not hold what was just written there: check the disk.")
    return found


def _build(folder: Path, name: str, parts: Mapping[str, Part], tokenizer: Tokenizer) -> None:
    with scratch_folder(folder.parent) as scratch:
        target = scratch / folder.name
        target.mkdir()
        for part_name, part in parts.items():
            ends = _write(target / f"{part_name}{_TOKENS}", part.documents(), tokenizer)
            if len(ends) == 1:
                which = "text" if part_name == "all" else f"{part_name} split"
                raise UserError(f"{name}: there is not a single token in the {which}.")
            np.save(target / f"{part_name}{_ENDS}", ends)
        (target / _VOCABULARY).write_text(json.dumps(tokenizer.vocabulary()), "utf-8")
        checksums = {path.name: file_digest(path) for path in sorted(target.iterdir())}
        (target / _CHECKSUMS).write_text(json.dumps(checksums), "utf-8")
        if folder.exists():
            folder.replace(scratch / "damaged")
        try:
            target.rename(folder)
        except OSError as error:
            # Another process was faster; it wrote the same.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _write(path: Path, documents: Iterable[str], tokenizer: Tokenizer) -> NDArray[np.int64]:
    ends = [0]
    with path.open("xb") as stream:
        for batch in batches(documents):
            for ids in tokenizer.encode(batch):
                if len(ids):
                    stream.write(ids.astype(_IDS, copy=False).data)
                    ends.append(ends[-1] + len(ids))
    return np.array(ends, np.int64)


def _read(
    folder: Path, parts: Mapping[str, Part]
) -> tuple[dict[str, TokenStream], list[str]] | None:
    """Open what the folder holds; None where it is missing or damaged."""
    streams = {}
    try:
        with reading(folder, "tokens"):
            checksums = json.loads((folder / _CHECKSUMS).read_text("utf-8"))
            for name in (_VOCABULARY, *(f"{p}{end}" for p in parts for end in (_TOKENS, _ENDS))):
                verify(folder / name, checksums[name])
            vocabulary = list(json.loads((folder / _VOCABULARY).read_text("utf-8")))
            for part in parts:
                ends = np.load(folder / f"{part}{_ENDS}", allow_pickle=False)
                ids = np.memmap(folder / f"{part}{_TOKENS}", _IDS, "r")
                streams[part] = TokenStream(np.asarray(ids), ends)
    except UserError:
        return None
    return streams, vocabulary
