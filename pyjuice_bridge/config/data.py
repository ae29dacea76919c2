"""Which data, and how they are split."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pyjuice_bridge.config.base import Count, Section, Share, at_most

Vocabulary = Annotated[int, Field(ge=2), at_most(10**7, "tables have a column for each")]


class ImageData(Section):
    """Which images, and how they are split.

    ``name`` is a data set (``data list`` names them), or the path of a ``.npy``/``.npz`` file or of
    a folder of images.  ``valid`` images are taken from the training split by the seed; ``limit``
    keeps at most that many images of every split.
    """

    kind: Literal["images"] = "images"
    name: str
    root: str | None = None
    valid: Count | None = None
    limit: Count | None = None
    colour: Literal["rgb", "ycocg_r", "ycbcr_lossy", "ycocg_lossy"] = "rgb"


class TextData(Section):
    """Which text, how it is cut into tokens and windows, and how it is split.

    ``name`` is a corpus (``data list`` names them), or the path of a text, WikiText or parquet file
    or of a folder of such.  ``pieces`` are those of the teacher's tokenizer, ``words`` what stands
    between spaces; ``vocabulary`` limits the latter to the most frequent.  ``valid`` and ``test``
    are shares of the documents, where the text has no such splits of its own; ``limit`` keeps at
    most that many tokens of every split.
    """

    kind: Literal["text"]
    name: str
    root: str | None = None
    tokens: Literal["pieces", "words"] = "pieces"
    vocabulary: Vocabulary | None = None
    window: Annotated[int, Field(ge=2), at_most(65_536, "the circuit has a layer for each")] = 32
    stride: Count | None = None
    joined: bool = True
    valid: Share | None = None
    test: Share | None = None
    limit: Count | None = None

    @model_validator(mode="after")
    def _windows_and_words(self) -> TextData:
        if self.stride is None:
            self.stride = self.window
        if self.stride > self.window:
            raise ValueError(
                f"'stride' is {self.stride}, more than the window of {self.window}, which would "
                "leave tokens out"
            )
        if self.vocabulary is not None and self.tokens != "words":
            raise ValueError("'vocabulary' limits 'tokens: words'; word pieces have their own")
        return self


Data = Annotated[ImageData | TextData, Field(discriminator="kind")]
