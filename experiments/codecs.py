"""Bits per dimension of PNG and lossless WebP on the test images of a config.

    python experiments/codecs.py experiments/natural_patches.yaml

All test images go into one mosaic, because the headers of single small files alone cost about 0.1
bits per dimension.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import PIL

from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.data.codecs import codec_bits
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import load_config

NAMES = {"png": "PNG", "webp": "WebP, lossless"}


def render(config_path: Path, overrides: Sequence[str] = ()) -> str:
    """A markdown table with a row per codec, and what it was measured on.

    Raises:
        UserError: a mistake in the config, or its images are not there.
    """
    config = load_config(config_path, overrides)
    section = config.data
    dataset = load_dataset(
        section.name,
        root=section.root,
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )
    rows = [f"| {NAMES[name]} | {bits:.4f} |" for name, bits in codec_bits(dataset.test).items()]
    size = "×".join(map(str, dataset.shape))
    command = shlex.join(["python", "experiments/codecs.py", str(config_path), *overrides])
    return "\n".join(
        [
            "| codec | test bits/dim |",
            "| --- | ---: |",
            *rows,
            "",
            f"On one mosaic of {len(dataset.test):,} test images of {size} ({dataset.name}, "
            f"fingerprint `{dataset.fingerprint[:12]}`), Pillow {PIL.__version__}: `{command}`",
        ]
    )


def main(words: Sequence[str]) -> int:
    """``CONFIG [a.b=value …]``; returns the exit status."""
    if not words or words[0].startswith("-"):
        print("usage: python experiments/codecs.py CONFIG [a.b=value …]", file=sys.stderr)
        return 2
    try:
        print(render(Path(words[0]), words[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
