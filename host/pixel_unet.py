"""The network of a pixel-space checkpoint: the host's UNet, made of the host's blocks as its configuration says.

Where the papers' networks differ from the host's, a part of its own takes the place: attention on q, k, v of convolutions, DDPM's
downsampling, its time embedding and its group norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, TimestepEmbedSequential, UNetModel, Upsample
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.pixel.configuration import GROUPS, Configuration, Order, Reading

EPS = {"DDPM": 1e-6, "guided diffusion": 1e-5}


class PixelAttention(nn.Module):
    """Self-attention over the places of h, with its rows of q, k, v in the order of the checkpoint (Dhariwal & Nichol 2021)."""

    def __init__(self, channels: int, heads: int, order: Order, *, operations: Any, **how: Any) -> None:
        super().__init__()
        self.norm = operations.GroupNorm(GROUPS, channels, **how)
        self.qkv = operations.Conv1d(channels, 3 * channels, 1, **how)
        self.proj_out = operations.Conv1d(channels, channels, 1, **how)
        self.pattern = ("b (h s d) t" if order == "by head" else "b (s h d) t") + " -> s b h t d"
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, h, w), plus what each place takes from all others."""
        rows = rearrange(self.norm(x), "b c h w -> b c (h w)")
        # torch's own kernel, as it has a gradient whichever one the user has chosen
        taken = F.scaled_dot_product_attention(*rearrange(self.qkv(rows), self.pattern, s=3, h=self.heads))
        return x + self.proj_out(rearrange(taken, "b h t d -> b (h d) t")).reshape(x.shape)


class PaddedDownsample(Downsample):
    """DDPM's: a row and a column of zeros at the bottom and at the right, and none at the other sides (Ho et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (b, c, h, w) at half its size."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def ddpm_embedding(timesteps: Tensor, channels: int) -> Tensor:
    """sin(t w_i), then cos(t w_i), w_i = 10000^(-i / (n - 1)) for i < n = channels / 2 (Ho et al. 2020). timesteps: (b,)."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, device=timesteps.device))
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class PixelUNet(UNetModel):
    """The UNet of a checkpoint, with random weights. It predicts the noise in pictures (b, 3, h, w).

    A network of 4000 steps is asked at every fourth: its time step for the host's t is t + 3/4, as it counts in quarters.
    """

    def __init__(
        self, configuration: Configuration, reading: Reading, dtype: torch.dtype, device: Any = None, operations: Any = None, **shown: Any
    ) -> None:
        """shown: what other nodes read in the host's unet_config, `model_channels` among it. operations: the host's layers."""
        how: dict[str, Any] = {"dtype": dtype, "device": device, "operations": operations}
        least: dict[str, Any] = {"channel_mult": (1,), "num_res_blocks": 1, "transformer_depth": [0], "transformer_depth_output": [0, 0]}
        super().__init__(None, 3, configuration.width, 3, **least, transformer_depth_middle=-2, num_heads=1, **how)
        self.configuration, self.reading = configuration, reading
        levels = configuration.levels
        self.channel_mult, self.num_res_blocks = configuration.multipliers, [len(level.encoder) for level in levels]
        self.image_size, self.num_classes = None, configuration.classes
        if configuration.classes is not None:
            self.label_emb = operations.Embedding(configuration.classes, configuration.embedded, dtype=dtype, device=device)
        build = _Blocks(configuration, reading, **how)
        self.input_blocks = nn.ModuleList(build.encoder())
        self.middle_block = build.middle()
        self.output_blocks = nn.ModuleList(build.decoder())
        self.out = nn.Sequential(
            operations.GroupNorm(GROUPS, levels[0].channels, dtype=dtype, device=device),
            nn.SiLU(),
            operations.Conv2d(levels[0].channels, 3, 3, padding=1, dtype=dtype, device=device),
        )
        for part in self.modules():
            if isinstance(part, nn.GroupNorm):
                part.eps = EPS[reading.conventions]

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: dict[str, list[Any]] | None = None,
        transformer_options: dict[str, Any] = {},
        **kwargs: Any,
    ) -> Tensor:
        """The host's pass through the blocks, at the checkpoint's time steps. Raises ValueError for a size that it cannot halve."""
        assert timesteps is not None
        least = 2 ** (len(self.configuration.levels) - 1)
        if x.shape[-2] % least or x.shape[-1] % least:
            raise ValueError(
                f"latent_image: got pictures of {x.shape[-2]} x {x.shape[-1]}; both sides have to be multiples of {least}, by which this "
                "network makes them smaller."
            )
        timesteps = timesteps + 1 - 1000 / self.reading.steps
        if self.reading.conventions == "DDPM":
            patches, own = transformer_options.get("patches", {}), ddpm_embedding(timesteps, self.model_channels).to(x.dtype)
            first = [lambda *_: self.time_embed(own), *patches.get("emb_patch", [])]  # in place of what the host has embedded
            transformer_options = {**transformer_options, "patches": {**patches, "emb_patch": first}}
        return super()._forward(x, timesteps, context, y, control, transformer_options, **kwargs)


class _Blocks:
    """The blocks of a network, with the channels that the decoder gets from the encoder."""

    def __init__(self, configuration: Configuration, reading: Reading, *, operations: Any, **how: Any) -> None:
        self.configuration, self.reading, self.operations, self.how = configuration, reading, operations, how
        self.levels = configuration.levels
        self.channels = configuration.stem

    def res_block(self, inputs: int, outputs: int, **resampling: bool) -> ResBlock:
        scale_shift = self.configuration.scale_shift
        return ResBlock(
            inputs,
            self.configuration.embedded,
            0.0,
            out_channels=outputs,
            use_scale_shift_norm=scale_shift,
            operations=self.operations,
            **resampling,
            **self.how,
        )

    def attention(self, channels: int) -> PixelAttention:
        return PixelAttention(channels, self.reading.heads_of(channels), self.reading.order, operations=self.operations, **self.how)

    def unit(self, inputs: int, outputs: int, attention: bool) -> list[nn.Module]:
        return [self.res_block(inputs, outputs), *([self.attention(outputs)] if attention else [])]

    def encoder(self) -> Iterator[TimestepEmbedSequential]:
        yield TimestepEmbedSequential(self.operations.Conv2d(3, self.channels, 3, padding=1, **self.how))
        for number, level in enumerate(self.levels):
            for attention in level.encoder:
                yield TimestepEmbedSequential(*self.unit(self.channels, level.channels, attention))
                self.channels = level.channels
            if number < len(self.levels) - 1:
                yield TimestepEmbedSequential(self.smaller(self.channels))

    def smaller(self, channels: int) -> nn.Module:
        if self.configuration.resamples:
            return self.res_block(channels, channels, down=True)
        if self.reading.conventions == "DDPM":
            return PaddedDownsample(channels, True, padding=0, operations=self.operations, **self.how)
        return Downsample(channels, True, operations=self.operations, **self.how)

    def larger(self, channels: int) -> nn.Module:
        if self.configuration.resamples:
            return self.res_block(channels, channels, up=True)
        return Upsample(channels, True, operations=self.operations, **self.how)

    def middle(self) -> TimestepEmbedSequential:
        attention = [self.attention(self.channels)] if self.configuration.middle_attention else []
        return TimestepEmbedSequential(
            self.res_block(self.channels, self.channels), *attention, self.res_block(self.channels, self.channels)
        )

    def decoder(self) -> Iterator[TimestepEmbedSequential]:
        widths = self.configuration.encoder_widths()
        for number, level in reversed(list(enumerate(self.levels))):
            for i, attention in enumerate(level.decoder):
                layers = self.unit(self.channels + widths.pop(), level.channels, attention)
                self.channels = level.channels
                if number and i == len(level.decoder) - 1:
                    layers.append(self.larger(self.channels))
                yield TimestepEmbedSequential(*layers)
