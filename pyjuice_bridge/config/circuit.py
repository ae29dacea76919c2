"""Structure and size of the circuit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pyjuice_bridge.config.base import Pseudocount, Section, States, at_most


class HcltCircuit(Section):
    """An HCLT over the pixels, distilled by counting."""

    kind: Literal["hclt"] = "hclt"
    latents: States = 32
    pseudocount: Pseudocount = 0.1


class PatchCircuit(Section):
    """Patch circuits glued under a latent circuit (Liu et al., ICLR 2023).

    ``latents`` is the number of clusters, shared by all positions; ``patch_latents`` the width of
    the HCLT inside a patch; ``epsilon`` the mass that p(Z | H) spreads evenly at the start.
    """

    kind: Literal["patches"]
    latents: States = 64
    patch: Annotated[int, Field(ge=1), at_most(1024, "it is a number of pixels")] = 4
    patch_latents: States = 16
    pseudocount: Pseudocount = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1


class HmmCircuit(Section):
    """A homogeneous hidden Markov model over the tokens of a window, distilled by counting.

    ``smoothing`` is the share of every counted row that is given to overall frequencies.
    """

    kind: Literal["hmm"]
    states: States = 128
    pseudocount: Pseudocount = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


CircuitSection = Annotated[HcltCircuit | PatchCircuit | HmmCircuit, Field(discriminator="kind")]
