"""Types of this pack on the wires between nodes, and the checks of what comes in over the host's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..core.spectrum import LatentSVD

SVD = io.Custom("SEMANTIC_LATENTS_SVD")
DIRECTION = io.Custom("SEMANTIC_LATENTS_DIRECTION")
ATTRIBUTE = io.Custom("SEMANTIC_LATENTS_ATTRIBUTE")
TRAJECTORY = io.Custom("SEMANTIC_LATENTS_TRAJECTORY")
CATEGORY = "semantic latents"


@dataclass(frozen=True)
class DecomposedLatent:
    """A latent's SVD beside what else its LATENT carried (noise mask, batch index), which Compose gives back."""

    svd: LatentSVD
    rest: dict[str, Any]

    @classmethod
    def of(cls, svd: LatentSVD, latent: dict[str, Any]) -> DecomposedLatent:
        return cls(svd, {key: value for key, value in latent.items() if key != "samples"})

    def latent(self, samples: Tensor) -> dict[str, Any]:
        return {**self.rest, "samples": samples}
