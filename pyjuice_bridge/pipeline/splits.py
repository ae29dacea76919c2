"""The images that a question to a model is about, without mixing up its splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyjuice_bridge.config import ImageData, load_config
from pyjuice_bridge.data import Dataset, load_dataset, load_undivided
from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json


def images_for(
    model: Path, meta: Mapping[str, Any], data: str, split: str | None, root: Path | None = None
) -> tuple[Images, str]:
    """The images uint8 [N, H, W, C] of ``data``'s split, and the split's name.

    Where ``data`` is what the model's run saw, they are those of the run's own split.  Other
    images of the user's that have no test split are all taken; the name is then empty.

    Args:
        model: a run's folder, or a model file; one that lies in its run's folder knows its splits.
        meta: the circuit's.
        data: a set's name or a path.
        split: "train", "valid" or "test"; None is "test", or all where there are no splits.
        root: where ``data`` is, if it is known by name.

    Raises:
        UserError: nothing to load, a split of images that have none, or the train or valid
            images of the set that the model was trained on are asked for and the run's own
            splits cannot be told.
    """
    name = split or "test"
    own = _own_splits(model if model.is_dir() else model.parent, data, root)
    if own is not None:
        return getattr(own, name), name
    if Path(data).stem != meta.get("dataset"):
        every = load_undivided(data)
        if every is not None and split is not None:
            raise UserError(f"{data} has no test split: leave out --split to take all its images")
        if every is not None:
            return every, ""
    found = load_dataset(data, root=root, seed=int(meta.get("seed", 0)))
    if name != "test" and found.name == meta.get("dataset"):
        raise UserError(
            f"the {name} images of {data} are those of a run's own splits, and {model} is not in "
            "the folder of a run on these images; name that folder, or take the test images"
        )
    return getattr(found, name), name


def _own_splits(folder: Path, data: str, root: Path | None) -> Dataset | None:
    """``data`` split as the run in ``folder`` split it; None if it is not that run's data."""
    try:
        rows = read_json(folder / "results.json")
        fingerprint = rows[0]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    config = load_config(folder / "config.yaml")
    if not isinstance(config.data, ImageData):
        return None
    try:
        found = _split(config.data, config.seed, data, root)
    except UserError:
        # Sets that the run's settings do not fit; what is wrong with others shows on loading them.
        return None
    return found if found.fingerprint == fingerprint else None


def _split(section: ImageData, seed: int, data: str, root: Path | None) -> Dataset:
    root = root or (Path(section.root) if section.root and data == section.name else None)
    return load_dataset(data, root=root, valid=section.valid, seed=seed, limit=section.limit)
