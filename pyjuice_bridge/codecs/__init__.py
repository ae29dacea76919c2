"""Codecs: between data as users hold them and the rows of codes that circuits read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.codecs.images import ImageCodec
from pyjuice_bridge.codecs.table import TableCodec
from pyjuice_bridge.codecs.text import TextCodec
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import Measure

Meta = Mapping[str, str | int | float]

__all__ = ["Codec", "ImageCodec", "TableCodec", "TextCodec", "codec_of"]


class Codec(Protocol):
    """Translates data to rows of codes and back.

    Attributes:
        domain: ``images``, ``text`` or ``table``.
        measure: the unit of figures on such data.
    """

    @property
    def domain(self) -> str: ...
    @property
    def measure(self) -> Measure: ...

    @property
    def categories(self) -> IntArray:
        """int32 [variables], the number of codes of each variable."""

    def meta(self) -> dict[str, str | int | float]:
        """Return what a circuit file stores so that ``codec_of`` finds this codec."""

    def facts(self) -> list[tuple[str, str]]:
        """Return names and values that describe the data in a line."""

    def encode(self, data: Any, name: str = "x") -> NDArray[Any]:
        """Return data, or rows, as int [N, variables], -1 where a value is missing.

        Raises:
            UserError: names the array and says what does not fit.
        """

    def decode(self, rows: NDArray[Any], like: Any = None) -> Any:
        """Return rows int [N, variables] or [N, n, variables] as data.

        Args:
            rows: without gaps.
            like: the N data whose gaps ``rows`` fill.  The answer has their form and keeps what
                they hold.
        """

    def log_preimage(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return the log of the number of data behind each row, float64 [N]."""

    def units(self, rows: NDArray[Any]) -> int:
        """Return how many units the measure divides by: dimensions, tokens or rows."""


def codec_of(circuit: Circuit, path: Path | None = None) -> Codec:
    """Open the codec of a circuit.

    Args:
        circuit: its ``meta`` says what it models; a circuit that says nothing models a table.
        path: the file it was read from, beside which the tokens of a text lie.

    Raises:
        UserError: the meta does not fit the circuit, or a file beside it is damaged.
    """
    domain = circuit.meta.get("domain", _unnamed_domain(circuit.meta))
    if domain == "images":
        return ImageCodec.of(circuit)
    if domain == "text":
        return TextCodec.of(circuit, path)
    if domain == "table":
        return TableCodec.of(circuit)
    raise UserError(f"meta: the domain is {domain!r}; it must be images, text or table.")


def _unnamed_domain(meta: Meta) -> str:
    """Recognise what a circuit models whose file does not name its domain."""
    if "image_height" in meta:
        return "images"
    return "text" if "token" in meta else "table"
