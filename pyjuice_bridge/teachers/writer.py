"""The language model that writes the data, as their teacher."""

from __future__ import annotations

from typing import Literal

from pyjuice_bridge.teachers.base import TeacherSection


class WriterSection(TeacherSection):
    """The states that a language model generated its own text from (``data.kind: written``).

    They are kept while the text is sampled.  ``scale`` says whether they are taken as directions
    from their mean (``unit``) or as they are (``raw``).
    """

    domains = ("written",)
    kind: Literal["writer"]
    scale: Literal["unit", "raw"] = "unit"
