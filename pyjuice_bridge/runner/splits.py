"""The data that a question to a model is about, without mixing up its splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.codecs import TableCodec
from pyjuice_bridge.codecs.text import Vocabulary
from pyjuice_bridge.data import (
    Dataset,
    TextDataset,
    TokenStream,
    load_dataset,
    load_text,
    load_undivided,
)
from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.data.table import TableDataset, load_table
from pyjuice_bridge.data.table_codes import Coding
from pyjuice_bridge.data.table_readers import own as own_table
from pyjuice_bridge.data.text_readers import own
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.runner.config import load_config


def images_for(
    path: Path, model: Model, data: str, split: str | None, root: Path | None = None
) -> tuple[Images, str]:
    """Return the images uint8 [N, H, W, C] of ``data``'s split, and the split's name.

    Where ``data`` is what the model's run saw, they are those of the run's own split.  Other
    images of the user's that have no test split are all taken; the name is then empty.

    Args:
        path: a run's folder, or a model file; one that lies in its run's folder knows its splits.
        model: what was opened there.
        data: a set's name or a path.
        split: "train", "valid" or "test"; None is "test", or all where there are no splits.
        root: where ``data`` is, if it is known by name.

    Raises:
        UserError: nothing to load, a split of images that have none, or the train or valid
            images of the set that the model was trained on are asked for and the run's own
            splits cannot be told.
    """
    name, meta = split or "test", model.circuit.meta
    mine = _own_splits(path, data, root)
    if isinstance(mine, Dataset):
        return getattr(mine, name), name
    if Path(data).stem != meta.get("dataset"):
        every = load_undivided(data)
        if every is not None and split is not None:
            raise UserError(f"{data} has no test split: leave out --split to take all its images")
        if every is not None:
            return every, ""
    dataset = load_dataset(data, root=root, seed=int(meta.get("seed", 0)))
    if name != "test" and dataset.name == meta.get("dataset"):
        raise UserError(
            f"the {name} images of {data} are those of a run's own splits, and {path} is not in "
            "the folder of a run on these images; name that folder, or take the test images"
        )
    return getattr(dataset, name), name


def stream_for(
    path: Path, vocabulary: Vocabulary, data: str, split: str | None, root: Path | None = None
) -> tuple[TokenStream, str]:
    """Return the tokens of ``data``'s split, and the split's name.

    Where ``data`` is what the model's run read, they are those of the run's own split.  Another
    text of the user's without splits is taken whole; the name is then empty.

    Args:
        path: a run's folder or a model file in it.
        vocabulary: the model's.
        data: a corpus' name or a path.
        split: "train", "valid" or "test"; None is "test", or everything where there are no splits.
        root: where ``data`` is, if it is known by name.

    Raises:
        UserError: nothing to read, or a split of a text that has none.
    """
    name = split or "test"
    mine = _own_splits(path, data, root)
    if isinstance(mine, TextDataset):
        return getattr(mine, name), name
    place = Path(data).expanduser()
    if not place.exists():
        dataset = load_text(data, tokenizer=vocabulary.tokenizer, root=root)
        return vocabulary.translated(getattr(dataset, name), dataset.vocabulary), name
    parts = own(place).parts
    if "all" in parts:
        if split is not None:
            raise UserError(f"{data} has no {split} split: leave out --split to take all of it")
        return vocabulary.stream(place.stem, parts["all"]), ""
    if name not in parts:
        raise UserError(f"{data} has no {name} split, only {', '.join(parts)}; choose with --split")
    return vocabulary.stream(place.stem, parts[name]), name


def table_for(
    path: Path, model: Model, data: str, split: str | None, root: Path | None = None
) -> tuple[NDArray[np.int32], str]:
    """Return the rows int32 [N, columns] of ``data``'s split, and the split's name.

    Where ``data`` is what the model's run saw, they are those of the run's own split.  Another
    table of the user's without splits is taken whole; the name is then empty.

    Args:
        path: a run's folder, or a model file; one that lies in its run's folder knows its splits.
        model: the model opened there; its codec gives the values.
        data: a set's name or a path.
        split: "train", "valid" or "test"; None is "test", or everything where there are no splits.
        root: where ``data`` is, if it is known by name.

    Raises:
        UserError: nothing to load, a split of a table that has none, other columns or values than
            the model's, or the train or valid rows of the table that the model was trained on are
            asked for and the run's own splits cannot be told.
    """
    name, meta, codec = split or "test", model.circuit.meta, model.codec
    mine = _own_splits(path, data, root)
    if isinstance(mine, TableDataset):
        return getattr(mine, name), name
    if name != "test" and Path(data).stem == meta.get("dataset"):
        raise UserError(
            f"the {name} rows of {data} are those of a run's own splits, and {path} is not in the "
            "folder of a run on this table; name that folder, or take the test rows"
        )
    assert isinstance(codec, TableCodec)
    columns = codec.columns or tuple(f"x{i}" for i in range(len(codec.categories)))
    values = {column: tuple(map(str, known)) for column, known in codec.values.items()}
    coding = Coding(columns, codec.categories, values, codec.edges)
    place = Path(data).expanduser()
    if not place.exists():
        dataset = load_table(data, root=root, seed=int(meta.get("seed", 0)))
        return getattr(dataset, name), name
    parts = own_table(place).parts
    if len(parts) == 1:
        if split is not None:
            raise UserError(f"{data} has no {split} split: leave out --split to take all its rows")
        return coding.encode(parts["train"], data), ""
    if name not in parts:
        raise UserError(f"{data} has no {name} split, only {', '.join(parts)}; choose with --split")
    return coding.encode(parts[name], f"{data}, {name}"), name


def _own_splits(path: Path, data: str, root: Path | None) -> Any:
    """Split ``data`` as the run in a model's folder did; None if it is not that run's data."""
    folder = path if path.is_dir() else path.parent
    try:
        fingerprint = read_json(folder / "results.json")[0]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    try:
        config = load_config(folder / "config.yaml")
        dataset = DOMAINS[config.data.kind].split(config, data, root)
    except UserError:
        # Data that the run's settings do not fit; what is wrong with others shows on loading them.
        return None
    return dataset if dataset.fingerprint == fingerprint else None
