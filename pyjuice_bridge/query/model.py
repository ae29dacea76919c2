"""A trained circuit to ask questions of: what ``pj.load`` returns."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, Latents
from pyjuice_bridge.engines.evidence import check_rows
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.images import ImageShape
from pyjuice_bridge.query.map import climb
from pyjuice_bridge.report.images import data_uri, grid_png


@dataclass(frozen=True)
class ApproximateMap:
    """An approximate answer to the (NP-hard) search for the most probable completion.

    Attributes:
        x: the completions, in the shape of the evidence.
        log_p: float64 [N], their exact log p(x) in nats, of the circuit's codes.
        label: says that the search is approximate and what it tried.
    """

    x: NDArray[Any]
    log_p: NDArray[np.float64]
    label: str


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A circuit and the engine that runs it.

    Data is given either as images, int [N, H, W, C] with values 0 … 255 (for circuits of images),
    or as rows of codes, int [N, num_vars].  A value of -1 is missing and is marginalised.  With a
    colour transform the codes are those of the transform; images are encoded and decoded.
    Answers come in the form of the question.
    """

    circuit: Circuit
    engine: Engine

    @classmethod
    def load(cls, path: str | Path, *, engine: str = "auto", device: str = "auto") -> Model:
        """Read a circuit from an HDF5 file; ``UserError`` where it is damaged."""
        return cls(hdf5.load(Path(path)), get_engine(engine, device))

    def save(self, path: str | Path) -> None:
        """Write the circuit to an HDF5 file (docs/format.md), replacing it at once."""
        hdf5.save(self.circuit, Path(path))

    @cached_property
    def image_shape(self) -> ImageShape | None:
        """The images the circuit models, or None."""
        return ImageShape.of(self.circuit)

    def log_likelihood(
        self, x: NDArray[Any], latents: Latents | None = None
    ) -> NDArray[np.float64]:
        """log p of the observed values (codes), in nats: float64 [N], or [N, roots].

        Args:
            x: images or rows; missing values are summed out exactly.
            latents: name → int [N, positions], values of the circuit's latents (-1 unknown).
        """
        values = self.engine.log_likelihood(self.circuit, self._rows(x, "x"), latents)
        return values if len(self.circuit.roots) > 1 else values[:, 0]

    def conditional(self, x: NDArray[Any], given: NDArray[Any]) -> NDArray[np.float64]:
        """log p(x | given), the ratio of two marginals, in nats: float64 [N], or [N, roots].

        Args:
            x: images or rows; what is missing is summed out.
            given: of the same shape, -1 where nothing is given.  Values that contradict ``x``
                make the answer -inf.

        Raises:
            UserError: a row of ``given`` has probability zero.
        """
        query, known = self._rows(x, "x"), self._rows(given, "given")
        if query.shape != known.shape:
            raise UserError(f"given: expected shape {x.shape} like x, got {given.shape}.")
        clash = ((query != MISSING) & (known != MISSING) & (query != known)).any(axis=1)
        both = np.where(known == MISSING, query, known)
        joint = self.engine.log_likelihood(self.circuit, both)
        evidence = self.engine.log_likelihood(self.circuit, known)
        if np.isneginf(evidence).any():
            row = int(np.argwhere(np.isneginf(evidence))[0, 0])
            raise UserError(f"given: row {row} has probability zero under the model.")
        joint[clash] = -np.inf
        ratio = joint - evidence
        return ratio if len(self.circuit.roots) > 1 else ratio[:, 0]

    def bits_per_dim(self, images: NDArray[np.uint8]) -> float:
        """Mean -log2 p per dimension of the original 8-bit images, all channels counted.

        The figure is for RGB (or grey) images: a lossy colour transform is corrected by the number
        of images that share a code.

        Raises:
            UserError: the circuit has no image shape or several roots, or a pixel is missing.
        """
        shape = self._images_only("bits_per_dim")
        images = np.asarray(images)
        if images.ndim != 4 or not len(images):
            raise UserError(f"images: expected shape [N, H, W, C], got {images.shape}.")
        codes = shape.encode(images)
        if (codes == MISSING).any():
            raise UserError("images: bits per dimension needs complete images, found -1.")
        log_p = self.engine.log_likelihood(self.circuit, check_rows(self.circuit, codes, "images"))
        exact = log_p[:, self._root("bits_per_dim")] - shape.log_preimage(codes)
        return float(-np.mean(exact) / (np.log(2) * self.circuit.num_vars))

    def sample(
        self, n: int, evidence: NDArray[Any] | None = None, *, seed: int = 0
    ) -> NDArray[Any]:
        """Draw exactly from p(x), or from p(x | evidence).

        Args:
            n: number of samples, of every row of evidence if there is any.
            evidence: N images or rows, -1 where a value is to be drawn.
            seed: same seed, same samples.

        Returns:
            [n, …], or [N, n, …] with evidence: uint8 images where the circuit models images (and
            evidence, if any, is images), else int32 rows.
        """
        root = self._root("sample")
        if n < 1:
            raise UserError(f"n: at least one sample must be asked for, got {n}.")
        if evidence is None:
            rows = self.engine.sample(self.circuit, n, seed=seed, root=root)
            return rows if self.image_shape is None else self.image_shape.decode(rows)
        known = self._rows(evidence, "evidence")
        drawn = self.engine.sample(self.circuit, n, known, seed=seed, root=root)
        flat = self._like(evidence, drawn.reshape(-1, drawn.shape[-1]), n)
        return flat.reshape(len(known), n, *flat.shape[1:])

    def inpaint(
        self, images: NDArray[np.uint8], mask: NDArray[np.bool_], *, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Replace the hidden pixels by one exact draw from p(hidden | shown).

        Args:
            images: uint8 [N, H, W, C].
            mask: bool [H, W] or [N, H, W], True where a pixel is hidden.
            seed: of the draw.
        """
        self._images_only("inpaint")
        images, mask = np.asarray(images), np.asarray(mask)
        if images.ndim != 4 or mask.dtype != np.bool_ or mask.ndim not in (2, 3):
            raise UserError("mask: expected bool [H, W] or [N, H, W] for images [N, H, W, C].")
        if mask.shape[-2:] != images.shape[1:3] or (mask.ndim == 3 and len(mask) != len(images)):
            raise UserError(f"mask: its shape {mask.shape} does not fit images {images.shape}.")
        evidence = np.where(mask[..., None], MISSING, images.astype(np.int16))
        return self.sample(1, evidence, seed=seed)[:, 0].astype(np.uint8)

    def mpe(self, evidence: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The most probable joint completion of variables and latents (exact).

        Returns:
            The completions in the shape of ``evidence`` and the log-values of the best joint
            states, float64 [N], in nats.  The latents are maximised, so this is not the most
            probable x: see ``map_approximate``.
        """
        known = self._rows(evidence, "evidence")
        found, value = self.engine.mpe(self.circuit, known, root=self._root("mpe"))
        return self._like(evidence, found, 1), value

    def map_approximate(
        self, evidence: NDArray[Any], *, samples: int = 16, sweeps: int = 1, seed: int = 0
    ) -> ApproximateMap:
        """A good, not provably best, completion by p(x) with the latents summed out.

        Starts from the best of the MPE and ``samples`` conditional samples, then improves one
        variable at a time, ``sweeps`` times over all missing ones.  A sweep evaluates the circuit
        once per missing value and category: small circuits, or few missing values.
        """
        root = self._root("map_approximate")
        known = self._rows(evidence, "evidence")
        starts = self.engine.mpe(self.circuit, known, root=root)[0][:, None]
        if samples > 0:
            drawn = self.engine.sample(self.circuit, samples, known, seed=seed, root=root)
            starts = np.concatenate([starts, drawn], axis=1)
        best, log_p = climb(self.engine, self.circuit, known, starts, sweeps=sweeps, root=root)
        label = (
            f"approximate: best of the MPE and {samples} samples, then {sweeps} "
            f"sweep{'s' if sweeps != 1 else ''} of coordinate ascent"
        )
        return ApproximateMap(self._like(evidence, best, 1), log_p, label)

    def posteriors(self, x: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """p(latent = j | x) of every named latent: name → float32 [N, positions, width]."""
        root = self._root("posteriors")
        rows = self._rows(x, "x")
        names = self.circuit.latents
        return {k: self.engine.posteriors(self.circuit, rows, k, root=root) for k in names}

    def select(self, root: int) -> Model:
        """The model of one root of a circuit with several.

        It answers in rows; samples hold -1 in the variables that belong to other roots.
        """
        if not 0 <= root < len(self.circuit.roots):
            raise UserError(f"root: must be 0 … {len(self.circuit.roots) - 1}, got {root}.")
        roots = self.circuit.roots[root : root + 1]
        meta = {k: v for k, v in self.circuit.meta.items() if not k.startswith("image_")}
        return Model(replace(self.circuit, roots=roots, meta=meta), self.engine)

    def _root(self, query: str) -> int:
        if len(self.circuit.roots) != 1:
            raise UserError(
                f"{query}: the circuit has {len(self.circuit.roots)} roots, that is, several "
                "models; pick one with select(root)."
            )
        return 0

    def _images_only(self, query: str) -> ImageShape:
        if self.image_shape is None:
            raise UserError(f"{query}: this circuit does not model images (no image_height).")
        return self.image_shape

    def _rows(self, x: NDArray[Any], name: str) -> NDArray[Any]:
        x = np.asarray(x)
        if x.ndim == 4 and self.image_shape is not None:
            x = self.image_shape.encode(x)
        return check_rows(self.circuit, x, name)

    def _like(self, evidence: NDArray[Any], rows: NDArray[Any], copies: int) -> NDArray[Any]:
        """Rows in the form of the evidence; what it observed is kept to the letter."""
        evidence = np.asarray(evidence)
        if evidence.ndim != 4 or self.image_shape is None:
            return rows
        known = np.repeat(evidence, copies, axis=0)
        images = self.image_shape.decode(rows)
        return np.where(known == MISSING, images, known).astype(np.uint8)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts())
        return f"Model({facts})"

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts()
        )
        shape, picture = self.image_shape, ""
        if shape is not None and shape.channels in (1, 3) and len(self.circuit.roots) == 1:
            levels = int(self.circuit.categories.max()) if shape.colour is None else 256
            scale, white = max(1, 64 // shape.height), max(1, levels - 1)
            png = grid_png(self.sample(16, seed=0), 8, scale=scale, white=white)
            picture = f"<img src='{data_uri(png)}' alt='16 samples'><br>samples"
        return f"<div><table>{cells}</table>{picture}</div>"

    def _facts(self) -> list[tuple[str, str]]:
        circuit, meta = self.circuit, self.circuit.meta
        facts = [(k, str(meta[k])) for k in ("structure", "dataset") if k in meta]
        if self.image_shape is not None:
            facts.append(("images", "×".join(map(str, self.image_shape.sides))))
        facts.append(("variables", f"{circuit.num_vars:,}"))
        facts.append(("parameters", f"{circuit.num_parameters:,}"))
        if len(circuit.roots) > 1:
            facts.append(("roots", str(len(circuit.roots))))
        latents = [f"{k} ({len(v)})" for k, v in circuit.latents.items()]
        if latents:
            facts.append(("latents", ", ".join(latents)))
        facts.append(("engine", f"{self.engine.name} on {self.engine.device}"))
        return facts
