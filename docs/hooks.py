"""What the site reads differently from GitHub: titles of code blocks, links out of docs/."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite a page before it is rendered."""
    titled = re.sub(r"^```(\w+) (\S.*)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)
    shown = re.sub(r" \(\[script\]\(\.\./[^)]+\)\)", "", titled)
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", shown)
