"""Images: where they come from, how they are split, how colours are coded."""

from pyjuice_bridge.data.dataset import Dataset
from pyjuice_bridge.data.load import get_dataset, load_dataset, load_undivided, names

__all__ = ["Dataset", "get_dataset", "load_dataset", "load_undivided", "names"]
