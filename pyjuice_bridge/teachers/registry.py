"""Teachers by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Images, Teacher
from pyjuice_bridge.teachers.pixels import PixelTeacher

KINDS = ("pixels", "mae", "vit_mae", "efficientnet")


def make_teacher(
    kind: str,
    *,
    images: Images | None = None,
    checkpoint: Path | str | None = None,
    device: str = "cpu",
    on_epoch: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> Teacher:
    """The teacher ``kind``, trained first if it learns from the data.

    Args:
        kind: "pixels", "mae", "vit_mae" or "efficientnet".
        images: the training split, uint8 [N, H, W, C]; only "mae" needs it.
        checkpoint: file that "mae" saves to after every epoch and resumes from.
        device: "cpu" or "cuda".
        on_epoch: called by "mae" with epochs done, all epochs, and the loss.
        settings: of `PixelTeacher`, `MAESettings`, `ViTMAETeacher` or `EfficientNetTeacher`.

    Raises:
        UserError: an unknown kind or setting, or what that teacher refuses.
    """
    if kind == "pixels":
        return PixelTeacher(**_known(kind, settings, set(signature(PixelTeacher).parameters)))
    if kind == "mae":
        from pyjuice_bridge.teachers.mae import MAESettings, train_mae

        if images is None:
            raise UserError('the teacher "mae" needs the training images')
        _known(kind, settings, {field.name for field in fields(MAESettings)})
        return train_mae(
            images,
            MAESettings(**settings),
            checkpoint=checkpoint,
            device=device,
            on_epoch=on_epoch,
        )
    if kind == "vit_mae":
        from pyjuice_bridge.teachers.vit_mae import ViTMAETeacher

        allowed = {"source", "patch", "batch", "white"}
        return ViTMAETeacher(**_known(kind, settings, allowed), device=device)
    if kind == "efficientnet":
        from pyjuice_bridge.teachers.efficientnet import EfficientNetTeacher

        allowed = {"patch", "batch", "white"}
        return EfficientNetTeacher(**_known(kind, settings, allowed), device=device)
    raise UserError(f'there is no teacher "{kind}"; choose from {", ".join(KINDS)}')


def _known(kind: str, settings: dict[str, Any], allowed: set[str]) -> dict[str, Any]:
    for name in settings:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"it has {', '.join(sorted(allowed))}"
            raise UserError(f'the teacher "{kind}" has no setting "{name}"; {hint}')
    return settings
