"""The implicit network that Asyrp's authors released: it finds a shift for each h and the UNet's own time embedding."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .network import GROUPS

BlockForm = Literal["DDPM", "ADM"]
EPS: dict[BlockForm, float] = {"DDPM": 1e-6, "ADM": 1e-5}  # what the group norms of these networks add to the variance


class DeltaBlock(nn.Module):
    """The shift f(h, emb) = W2 SiLU(GN(v + Wt SiLU(emb) + bt)) + b2 (Kwon et al. 2023, section 5.1, in the authors' two forms).

    v is W1 h + b1 in the form of their DDPM networks, and W1 SiLU(GN(h)) + b1 in that of ADM. W1 and W2 are convolutions of 1 x 1; GN has
    32 groups. channels: of h, a multiple of 32. embedded: of the time embedding.
    """

    def __init__(self, form: BlockForm, channels: int, embedded: int) -> None:
        super().__init__()
        if form == "ADM":
            self.first_norm = nn.GroupNorm(GROUPS, channels, eps=EPS[form])
        self.enter = nn.Conv2d(channels, channels, 1)
        self.time = nn.Linear(embedded, channels)
        self.norm = nn.GroupNorm(GROUPS, channels, eps=EPS[form])
        self.leave = nn.Conv2d(channels, channels, 1)
        self.form: BlockForm = form

    @classmethod
    def empty(cls, form: BlockForm, channels: int, embedded: int) -> DeltaBlock:
        """One that has shapes but no values yet: nothing is allocated, nothing drawn from the random state."""
        with torch.device("meta"):
            return cls(form, channels, embedded).requires_grad_(False)

    @classmethod
    def of(cls, form: BlockForm, weights: dict[str, Tensor]) -> DeltaBlock:
        """One of these weights, by the names of its parts; it keeps copies in float32."""
        block = cls.empty(form, *weights["time.weight"].shape)
        block.load_state_dict({key: value.float().clone() for key, value in weights.items()}, assign=True)
        return block.requires_grad_(False)

    @property
    def embedded(self) -> int:
        """Channels of the time embedding."""
        return self.time.in_features

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Shifts (b, c, h, w) of h: (b, c, h, w) at time embeddings emb: (b or 1, e), in the type of its weights."""
        h, emb = (value.to(self.time.weight) for value in (h, emb))
        inner = F.silu(self.first_norm(h)) if self.form == "ADM" else h
        inner = self.enter(inner) + self.time(F.silu(emb))[:, :, None, None]
        shift: Tensor = self.leave(F.silu(self.norm(inner)))
        return shift
