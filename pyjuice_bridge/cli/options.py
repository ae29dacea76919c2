"""Options that several commands have."""

from __future__ import annotations

import click

ENGINE = click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "julia"]),
    default="auto",
    show_default=True,
    help="What runs the circuit.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
SEED = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Same seed, same samples; drawn anew every time if not given.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
