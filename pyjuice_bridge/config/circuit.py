"""Structure and size of the circuit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pyjuice_bridge.config.base import Count, Section, States


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


class HmmCircuit(Section):
    """A homogeneous hidden Markov model over the tokens of a window, distilled by counting.

    ``smoothing`` is the share of every counted row that is given to overall frequencies.
    """

    kind: Literal["hmm"]
    states: States = 128
    pseudocount: Annotated[float, Field(gt=0)] = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


CircuitSection = Annotated[HcltCircuit | PatchCircuit | HmmCircuit, Field(discriminator="kind")]
