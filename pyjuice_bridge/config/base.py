"""What the sections of a config are made of."""

from __future__ import annotations

from typing import Literal

from pyjuice_bridge.sections import Amount, Count, Fraction, Section, Share, States

__all__ = ["Amount", "Arm", "Count", "Fraction", "Section", "Share", "States"]

Arm = Literal["lvd", "random", "hclt"]
