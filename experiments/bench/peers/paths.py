"""Where code lies that is no installed package."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def ctrlg_file() -> Path | None:
    """Ctrl-G's ``ctrlg/hmm.py``: below the folder ``CTRLG``, or of the installed package.

    The file alone is wanted, because the rest of its package needs more to be installed.
    """
    if folder := os.environ.get("CTRLG"):
        path = Path(folder) / "ctrlg" / "hmm.py"
        return path if path.exists() else None
    spec = importlib.util.find_spec("ctrlg")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("hmm.py")
