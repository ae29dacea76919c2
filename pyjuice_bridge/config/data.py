"""Which data, and how they are split."""

from __future__ import annotations

from typing import Literal

from pyjuice_bridge.config.base import Count, Section


class Data(Section):
    """Which images, and how they are split.

    ``name`` is a data set (``data list`` names them), or the path of a ``.npy``/``.npz`` file or of
    a folder of images.  ``valid`` images are taken from the training split by the seed; ``limit``
    keeps at most that many images of every split.
    """

    name: str
    root: str | None = None
    valid: Count | None = None
    limit: Count | None = None
    colour: Literal["rgb", "ycocg_r", "ycbcr_lossy", "ycocg_lossy"] = "rgb"
