"""Images and text: where they come from, how they are split, how colours are coded."""

from pyjuice_bridge.data.dataset import Dataset
from pyjuice_bridge.data.load import get_dataset, load_dataset, load_undivided, names
from pyjuice_bridge.data.text import TextDataset, TokenStream, Windows, windows
from pyjuice_bridge.data.text_load import load_text, text_names

__all__ = [
    "Dataset",
    "TextDataset",
    "TokenStream",
    "Windows",
    "get_dataset",
    "load_dataset",
    "load_text",
    "load_undivided",
    "names",
    "text_names",
    "windows",
]
