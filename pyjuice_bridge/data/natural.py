"""Stub."""

from pathlib import Path


def build(folder: Path) -> Path:
    raise NotImplementedError


def read(folder: Path):
    raise NotImplementedError
