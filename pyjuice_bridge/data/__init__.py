"""Images, text and tables: where they come from, how they are split, how colours are coded."""

from pyjuice_bridge.data.dataset import Dataset
from pyjuice_bridge.data.load import load_dataset, load_undivided, names
from pyjuice_bridge.data.obtain import get_dataset
from pyjuice_bridge.data.table import TableDataset, load_table, table_names
from pyjuice_bridge.data.text import TextDataset, TokenStream, Windows, windows
from pyjuice_bridge.data.text_load import load_text, text_names

__all__ = [
    "Dataset",
    "TableDataset",
    "TextDataset",
    "TokenStream",
    "Windows",
    "get_dataset",
    "load_dataset",
    "load_table",
    "load_text",
    "load_undivided",
    "names",
    "table_names",
    "text_names",
    "windows",
]
