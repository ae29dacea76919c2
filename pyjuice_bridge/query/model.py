"""A trained circuit to ask questions of: what ``pj.load`` returns."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.formats import is_ctrlg, read_circuit
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.codecs import Codec, ImageCodec, TextCodec, codec_of
from pyjuice_bridge.codecs.arrays import as_array
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, Latents
from pyjuice_bridge.engines.evidence import check_rows
from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.numbers import whole
from pyjuice_bridge.query.draws import draws_of, seed_of
from pyjuice_bridge.query.map import ApproximateMap, climb
from pyjuice_bridge.query.marginals import divergence, entropies, moments, variable_marginals

if TYPE_CHECKING:
    from pyjuice_bridge.query.text import TextModel

_COUNT = Interval(ge=0)


class Model:
    """A circuit, the engine that runs it, and the codec of its data.

    Data is given in the form that the codec reads or as rows of codes, int [N, variables].  A
    value of -1 is missing and is marginalised, as is NaN among floats (tables) and what the mask
    of a masked array hides.  Answers come in the form of the question.

    - Images: int [N, H, W, C] with values 0 … 255, grey ones also [N, H, W].  With a colour
      transform the codes are those of the transform; images are encoded and decoded.
    - Texts: strings, ``[MASK]`` for a missing token.  ``text`` answers for any length.
    - Tables: data frames, structured arrays or mappings, where the columns have names.

    Args:
        circuit: what to ask.
        engine: what runs it; by default the one that ``"auto"`` picks.
        codec: of the data; by default what the circuit's meta describes.
        image_shape: height, width and channels, which make it a model of images.

    Raises:
        UserError: the circuit does not fit the codec or the shape.
    """

    circuit: Circuit
    engine: Engine
    codec: Codec

    def __init__(
        self,
        circuit: Circuit,
        engine: Engine | None = None,
        *,
        codec: Codec | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(circuit, Circuit):
            raise UserError(f"circuit is {shown(circuit)}, must be a Circuit; load opens a file.")
        if image_shape is not None:
            codec = _image_codec(circuit, image_shape)
        if codec is not None:
            circuit = replace(circuit, meta={**circuit.meta, **codec.meta()})
        self.circuit = circuit
        self.engine = get_engine() if engine is None else engine
        self.codec = codec_of(circuit) if codec is None else codec
        if len(self.codec.categories) != circuit.num_vars:
            raise UserError(
                f"codec: reads {len(self.codec.categories)} variables, but the circuit has "
                f"{circuit.num_vars}."
            )

    @classmethod
    def load(cls, path: str | Path, *, engine: str = "auto", device: str = "auto") -> Model:
        """Open a circuit file, or a run's folder (its ``model.h5``).

        Files of PyJuice and Juice (``.jpc``) and folders of Ctrl-G are recognised by their content.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = _path(path)
        if path.is_dir():
            if (path / "model.h5").exists():
                path = path / "model.h5"
            elif not is_ctrlg(path):
                raise UserError(f"{path} holds no model.h5; is it a finished run?")
        circuit = read_circuit(path)
        model = cls(circuit, get_engine(engine, device))
        model.codec = codec_of(circuit, path)
        return model

    def save(self, path: str | Path) -> None:
        """Write the circuit to an HDF5 file (docs/format.md), and a text's tokens beside it.

        Raises:
            UserError: a file cannot be written, or the folder holds the tokens of another text.
        """
        path = _path(path)
        if isinstance(self.codec, TextCodec) and self.codec.vocabulary is not None:
            self.codec.vocabulary.save_beside(path)
        hdf5.save(self.circuit, path)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of the images that the circuit models, or None."""
        return self.codec.sides if isinstance(self.codec, ImageCodec) else None

    @cached_property
    def text(self) -> TextModel:
        """Questions about texts of any length.

        Raises:
            UserError: the circuit is no hidden Markov model.
        """
        from pyjuice_bridge.query.text import TextModel

        try:
            return TextModel.of(self)
        except UserError as error:
            raise UserError(f"This circuit does not model text: {error}") from None

    def log_likelihood(self, x: Any, latents: Latents | None = None) -> NDArray[np.float64]:
        """Compute log p of the observed values (codes), in nats: float64 [N], or [N, roots].

        Args:
            x: data or rows; missing values are summed out exactly.
            latents: name → int [N, positions], values of the circuit's latents (-1 unknown).
        """
        values = self.engine.log_likelihood(self.circuit, self._rows(x, "x"), latents)
        return values if len(self.circuit.roots) > 1 else values[:, 0]

    def conditional(self, x: Any, given: Any) -> NDArray[np.float64]:
        """Compute log p(x | given), the ratio of two marginals, float64 [N], or [N, roots].

        Args:
            x: data or rows; what is missing is summed out.
            given: as many, -1 where nothing is given.  Values that contradict ``x`` make the
                answer -inf.

        Raises:
            UserError: a row of ``given`` has probability zero.
        """
        query, condition = self._rows(x, "x"), self._rows(given, "given")
        if query.shape != condition.shape:
            raise UserError(f"given: expected {len(query)} rows like x, got {len(condition)}.")
        clash = ((query != MISSING) & (condition != MISSING) & (query != condition)).any(axis=1)
        both = np.where(condition == MISSING, query, condition)
        joint = self.engine.log_likelihood(self.circuit, both)
        evidence = self.engine.log_likelihood(self.circuit, condition)
        if np.isneginf(evidence).any():
            row = int(np.argwhere(np.isneginf(evidence))[0, 0])
            raise UserError(f"given: row {row} has probability zero under the model.")
        joint[clash] = -np.inf
        ratio = joint - evidence
        return ratio if len(self.circuit.roots) > 1 else ratio[:, 0]

    def evaluate(self, data: Any) -> float:
        """Compute the mean figure of data in the codec's measure; less is better.

        Bits per dimension of images, perplexity of texts, bits per row of tables.  A lossy colour
        transform is corrected by the number of images that share a code.
        """
        return self._figure(self._rows(data, "data"), self._root("evaluate"))

    def bits_per_dim(self, images: Any) -> float:
        """Compute the mean -log2 p per dimension of original 8-bit images, all channels counted.

        Raises:
            UserError: the circuit does not model images or has several roots, or a pixel is
                missing.
        """
        self._images_only("bits_per_dim")
        root = self._root("bits_per_dim")
        images = as_array(images, "images")
        if images.ndim < 3 or not len(images):
            raise UserError(f"images: expected shape [N, H, W, C], got {images.shape}.")
        rows = self._rows(images, "images")
        if (rows == MISSING).any():
            raise UserError("images: bits per dimension needs complete images, found -1.")
        return self._figure(rows, root)

    def sample(self, n: int, evidence: Any = None, *, seed: int | None = None) -> Any:
        """Draw exactly from p(x), or from p(x | evidence).

        Args:
            n: number of samples, of every row of evidence if there is any.
            evidence: N data or rows, -1 where a value is to be drawn.
            seed: same seed, same samples; None draws anew every time.

        Returns:
            n data, or N × n with evidence and in its form: uint8 images, strings, a structured
            array, or rows int32 [n, variables].
        """
        root = self._root("sample")
        rows = None if evidence is None else self._rows(evidence, "evidence")
        count = draws_of(n, self.circuit.num_vars * (1 if rows is None else len(rows)))
        drawn = self.engine.sample(self.circuit, count, rows, seed=seed_of(seed), root=root)
        return self.codec.decode(drawn, evidence)

    def inpaint(self, images: Any, mask: Any, *, seed: int | None = None) -> NDArray[np.uint8]:
        """Replace the hidden pixels by one exact draw from p(hidden | shown).

        Args:
            images: uint8 [N, H, W, C], or [N, H, W] grey ones.
            mask: bool [H, W], or [N, H, W] for a mask per image; True where a pixel is hidden.
            seed: of the draw; None draws anew every time.
        """
        self._images_only("inpaint")
        images, mask = as_array(images, "images"), as_array(mask, "mask")
        if images.ndim not in (3, 4) or mask.dtype != np.bool_ or mask.ndim not in (2, 3):
            raise UserError("mask: expected bool [H, W] or [N, H, W] for images [N, H, W, C].")
        if mask.shape[-2:] != images.shape[1:3] or (mask.ndim == 3 and len(mask) != len(images)):
            raise UserError(f"mask: its shape {mask.shape} does not fit images {images.shape}.")
        if images.dtype.kind not in "iub":
            raise UserError(f"images: expected integers 0 … 255, got {images.dtype}.")
        hidden = mask if images.ndim == 3 else mask[..., None]
        evidence = np.where(hidden, MISSING, images.astype(np.int64))
        filled: NDArray[np.uint8] = self.sample(1, evidence, seed=seed)[:, 0]
        return filled

    def mpe(self, evidence: Any) -> tuple[Any, NDArray[np.float64]]:
        """Find the most probable joint completion of variables and latents (exact).

        Returns:
            The completions in the form of ``evidence`` and the log-values of the best joint
            states, float64 [N], in nats.  The latents are maximised, so this is not the most
            probable x: see ``map_approximate``.
        """
        known = self._rows(evidence, "evidence")
        rows, value = self.engine.mpe(self.circuit, known, root=self._root("mpe"))
        return self.codec.decode(rows, evidence), value

    def map_approximate(
        self,
        evidence: Any,
        variables: Sequence[int] | None = None,
        *,
        samples: int = 16,
        sweeps: int = 1,
        seed: int = 0,
    ) -> ApproximateMap:
        """Search for a good, not provably best, completion by p(x) with the latents summed out.

        Starts from the best of the MPE and ``samples`` conditional samples, then improves one
        variable at a time, ``sweeps`` times over all missing ones.  A sweep evaluates the circuit
        once per missing value and category: small circuits, or few missing values.

        Args:
            evidence: data or rows, -1 where a value is searched for.
            variables: search these alone and sum the other missing ones out (marginal MAP); the
                answer is then rows, -1 for what is summed out.
            samples: starts beside the MPE.
            sweeps: over the missing variables.
            seed: of the samples.
        """
        root = self._root("map_approximate")
        samples, sweeps = whole("samples", samples, _COUNT), whole("sweeps", sweeps, _COUNT)
        rows = self._rows(evidence, "evidence")
        searched = rows == MISSING
        if variables is not None:
            searched &= np.isin(np.arange(self.circuit.num_vars), self._variables(variables))
        starts = self.engine.mpe(self.circuit, rows, root=root)[0][:, None]
        if samples:
            count = draws_of(samples, rows.size, "samples")
            drawn = self.engine.sample(self.circuit, count, rows, seed=seed_of(seed), root=root)
            starts = np.concatenate([starts, drawn], axis=1)
        summed_out = (rows == MISSING) & ~searched
        starts = np.where(summed_out[:, None], np.int32(MISSING), starts)
        best, log_p = climb(self.engine, self.circuit, searched, starts, sweeps=sweeps, root=root)
        label = f"approximate: MPE and {samples} samples, {sweeps} sweeps of coordinate ascent"
        x = best if variables is not None else self.codec.decode(best, evidence)
        return ApproximateMap(x, log_p, label)

    def marginals(
        self, evidence: Any, variables: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Compute p(x_v = c | evidence) of all variables in one pass: float64 [N, V, C].

        Args:
            evidence: data or rows, -1 where missing.
            variables: which ones, in which order; None is all.

        Returns:
            Over codes, C the largest number of them.  An observed variable has all mass on its
            value.

        Raises:
            UserError: a row has probability zero, or there is no such variable.
        """
        return variable_marginals(
            self.engine,
            self.circuit,
            self._rows(evidence, "evidence"),
            self._variables(range(self.circuit.num_vars) if variables is None else variables),
            root=self._root("marginals"),
        )

    def moments(self, evidence: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute mean and variance of every variable's code given evidence, float64 [N, V]."""
        return moments(self.marginals(evidence))

    def entropies(self, evidence: Any) -> NDArray[np.float64]:
        """Compute the entropy of every variable given evidence, in nats: float64 [N, V]."""
        return entropies(self.marginals(evidence))

    def divergence(self, other: Model | Circuit) -> float:
        """Compute KL(this ‖ other) of variables and latents together, in nats.

        It bounds the divergence of the variables alone from above.  Both circuits must have one
        structure, as before and after a training.
        """
        self._root("divergence")
        circuit = other.circuit if isinstance(other, Model) else other
        return divergence(self.engine, self.circuit, circuit)

    def posteriors(self, x: Any) -> dict[str, NDArray[np.float32]]:
        """Compute p(latent = value | x): name → float32 [N, positions, values]."""
        rows, root = self._rows(x, "x"), self._root("posteriors")
        return {
            name: self.engine.posteriors(self.circuit, rows, name, root=root)
            for name in self.circuit.latents
        }

    def select(self, root: int) -> Model:
        """Return the model of one of several roots alone."""
        root = whole("root", root, Interval(ge=0, le=len(self.circuit.roots) - 1))
        roots = self.circuit.roots[root : root + 1]
        described = self.codec.meta()
        meta = {k: v for k, v in self.circuit.meta.items() if k not in described}
        return Model(replace(self.circuit, roots=roots, meta=meta), self.engine)

    def _figure(self, rows: NDArray[Any], root: int) -> float:
        units = self.codec.units(rows)
        if not units:
            raise UserError("data: there is nothing to evaluate.")
        log_p = self.engine.log_likelihood(self.circuit, rows)[:, root]
        exact = log_p - self.codec.log_preimage(rows)
        return self.codec.measure.of(float(-exact.sum() / units))

    def _root(self, query: str) -> int:
        if len(self.circuit.roots) != 1:
            raise UserError(
                f"{query}: the circuit has {len(self.circuit.roots)} roots, that is, several "
                "models; pick one with select(root)."
            )
        return 0

    def _images_only(self, query: str) -> None:
        if self.image_shape is None:
            raise UserError(f"{query}: this circuit does not model images; give image_shape.")

    def _rows(self, x: Any, name: str) -> NDArray[Any]:
        return check_rows(self.circuit, self.codec.encode(x, name), name)

    def _variables(self, variables: Sequence[int]) -> NDArray[np.int64]:
        bounds = Interval(ge=0, le=self.circuit.num_vars - 1)
        try:
            every = list(variables)
        except TypeError:
            raise UserError(f"variables is {shown(variables)}, must be a list of them.") from None
        return np.array([whole("a variable", v, bounds) for v in every], np.int64)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts())
        return f"Model({facts})"

    def _repr_html_(self) -> str:
        from pyjuice_bridge.report.images import data_uri, grid_png

        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._facts()
        )
        codec, picture = self.codec, ""
        if (
            isinstance(codec, ImageCodec)
            and codec.channels in (1, 3)
            and len(self.circuit.roots) == 1
        ):
            levels = codec.levels if codec.colour is None else 256
            scale, white = max(1, 64 // codec.height), max(1, levels - 1)
            png = grid_png(self.sample(16, seed=0), 8, scale=scale, white=white)
            picture = f"<img src='{data_uri(png)}' alt='16 samples'><br>samples"
        return f"<div><table>{cells}</table>{picture}</div>"

    def _facts(self) -> list[tuple[str, str]]:
        circuit, meta = self.circuit, self.circuit.meta
        facts = [(k, str(meta[k])) for k in ("structure", "dataset") if k in meta]
        facts += self.codec.facts()
        facts.append(("variables", f"{circuit.num_vars:,}"))
        facts.append(("parameters", f"{circuit.num_parameters:,}"))
        if len(circuit.roots) > 1:
            facts.append(("roots", str(len(circuit.roots))))
        latents = [f"{k} ({len(v)})" for k, v in circuit.latents.items()]
        if latents:
            facts.append(("latents", ", ".join(latents)))
        facts.append(("engine", f"{self.engine.name} on {self.engine.device}"))
        return facts


def load(path: str | Path, *, engine: str = "auto", device: str = "auto") -> Model:
    """Open a trained circuit: a file, or a run's folder (see ``Model.load``)."""
    return Model.load(path, engine=engine, device=device)


def _path(path: Any) -> Path:
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise UserError(f"path is {shown(path)}, must be the path of a file or a run's folder.")
    return Path(path)


def _image_codec(circuit: Circuit, shape: Sequence[int]) -> ImageCodec:
    try:
        height, width, channels = (whole("a side of image_shape", n, Interval(ge=1)) for n in shape)
    except (TypeError, ValueError):
        raise UserError(
            f"image_shape: expected height, width and channels, got {shape!r}."
        ) from None
    if height * width * channels != circuit.num_vars:
        raise UserError(
            f"image_shape: {height}×{width}×{channels} does not fit the circuit's "
            f"{circuit.num_vars} variables."
        )
    return ImageCodec(height, width, channels, levels=int(circuit.categories.max(initial=0)))
