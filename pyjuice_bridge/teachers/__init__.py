"""Teachers: networks, or raw pixels, that give every position of an image a vector."""

from pyjuice_bridge.teachers.base import (
    ArrayEmbeddings,
    Embeddings,
    Teacher,
    default_patch,
    describe,
    patch_grid,
)
from pyjuice_bridge.teachers.cache import cached_embeddings, open_embeddings
from pyjuice_bridge.teachers.file import load_cluster_ids, load_embeddings
from pyjuice_bridge.teachers.pixels import PixelTeacher, PixelWindows
from pyjuice_bridge.teachers.registry import make_teacher

__all__ = [
    "ArrayEmbeddings",
    "Embeddings",
    "PixelTeacher",
    "PixelWindows",
    "Teacher",
    "cached_embeddings",
    "default_patch",
    "describe",
    "load_cluster_ids",
    "load_embeddings",
    "make_teacher",
    "open_embeddings",
    "patch_grid",
]
