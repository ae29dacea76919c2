"""Teachers: networks, or raw pixels, that give every position of an image or text a vector."""

from pyjuice_bridge.teachers.base import (
    ArrayEmbeddings,
    Embeddings,
    Teacher,
    default_patch,
    describe,
    patch_grid,
)
from pyjuice_bridge.teachers.file import load_cluster_ids, load_embeddings
from pyjuice_bridge.teachers.pixels import PixelTeacher, PixelWindows
from pyjuice_bridge.teachers.store import open_embeddings, store_embeddings
from pyjuice_bridge.teachers.text_features import PrefixFeatures, SuffixFeatures, TokenFeatures
from pyjuice_bridge.teachers.text_states import TokenStates

__all__ = [
    "ArrayEmbeddings",
    "Embeddings",
    "PixelTeacher",
    "PixelWindows",
    "PrefixFeatures",
    "SuffixFeatures",
    "Teacher",
    "TokenFeatures",
    "TokenStates",
    "default_patch",
    "describe",
    "load_cluster_ids",
    "load_embeddings",
    "open_embeddings",
    "patch_grid",
    "store_embeddings",
]
