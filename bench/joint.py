"""A contrast of two prompts inside the joint attention of a flow transformer, block by block: tried here, and no node of the pack.

At each block the two prompts' text streams read the very picture tokens of the run, as a contrast of cross-attention does in a UNet: the
rows of a batch that belong to the two prompts are given the run's own picture tokens before each block, and what the block makes of them
differs by the prompts alone. Their difference, by a strength, is added to the run's own picture tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

OWN, NEGATIVE, PLUS, MINUS = range(4)  # prompts of a call, in this order


@dataclass
class JointContrast:
    """What to add in which blocks, and what was found there.

    blocks: numbers of the blocks, double ones first. vector: whether the modulation by the pooled prompt is part of it. stored: by step
    and block the mean contrast (tokens, width), for a run of the usual cost; empty for a live one. learning: contrasts are noted and not
    added.
    """

    blocks: range
    strength: float
    start: float = 0.0
    vector: bool = True
    stored: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    learning: bool = False
    found: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    step: int = 0
    active: bool = False
    tokens: int = 0  # of the picture
    prompts: list[int] = field(default_factory=list)  # of the rows of the call

    minus_is_empty = False  # what the contrast's other prompt is: the run's own, or none

    def at(self, rows: dict[int, Tensor], block: int) -> None:
        """Move the own prompt's picture tokens of a block, and give them to the others; rows: of each prompt (b, tokens, width), changed
        in place."""
        if self.active and block in self.blocks:
            self.move(rows, block)
        for side in (PLUS, MINUS):
            if side in rows:
                rows[side].copy_(rows[OWN])

    def move(self, rows: dict[int, Tensor], block: int) -> None:
        if self.stored:
            rows[OWN] += self.strength * self.stored[self.step, block].to(rows[OWN])
        elif self.learning:
            self.found[self.step, block] = (rows[PLUS] - rows[MINUS]).float().mean(0)
        else:
            rows[OWN] += self.strength * (rows[PLUS] - rows[MINUS])


class Orthogonal(JointContrast):
    """FluxSpace's fine edit (Dalva et al. 2025): to the attention's output at the picture tokens is added that of the edit's prompt,
    less its part along that of the empty prompt, token by token. Here all three read the run's own picture tokens. Without the mask.
    """

    minus_is_empty = True

    def move(self, rows: dict[int, Tensor], block: int) -> None:
        """Nothing is moved after a block."""

    def attended(self, tokens: Tensor, block: int) -> None:
        """Move the own prompt's part of the attention's output (rows, picture tokens, width), in place."""
        if self.active and block in self.blocks:
            rows = rows_of(tokens, self.prompts)
            edit, empty = rows[PLUS].float(), rows[MINUS].float()
            along = (edit * empty).sum(-1, keepdim=True) / empty.square().sum(-1, keepdim=True).clamp_min(1e-12)
            rows[OWN] += (self.strength * (edit - along * empty)).to(tokens)


def blocks_of(bench: Any) -> int:
    """How many blocks an instrument's network has, double ones and single ones."""
    network = bench.model.model.diffusion_model
    return len(network.double_blocks) + len(network.single_blocks)


def rows_of(tokens: Tensor, prompts: list[int]) -> dict[int, Tensor]:
    """Views of a batch's rows by prompt."""
    return dict(zip(prompts, tokens.chunk(len(prompts)), strict=True))


@contextmanager
def in_blocks(network: Any, contrast: JointContrast) -> Iterator[None]:
    """While it lasts, the contrast acts after the network's double and single blocks."""
    first_single = len(network.double_blocks)

    def after(number: int, is_single: bool):
        def hook(_: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            prompts = kwargs["transformer_options"]["cond_or_uncond"]
            if is_single:
                rows = rows_of(output, prompts)
                text = output.shape[1] - contrast.tokens
                contrast.at({prompt: part[:, text:] for prompt, part in rows.items()}, number)
            else:
                contrast.tokens = output[0].shape[1]
                contrast.at(rows_of(output[0], prompts), number)

        return hook

    def before(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        contrast.prompts = kwargs["transformer_options"]["cond_or_uncond"]
        if contrast.active and not contrast.stored and not {OWN, PLUS, MINUS} <= set(contrast.prompts):
            raise RuntimeError("the host asks for the prompts one after another; draw fewer pictures together, so that memory holds them")
        if contrast.vector or not contrast.active:
            return args, kwargs
        parts = rows_of(kwargs["vec"].clone(), kwargs["transformer_options"]["cond_or_uncond"])
        shared = [parts[OWN] if prompt in (PLUS, MINUS) else part for prompt, part in parts.items()]
        return args, kwargs | {"vec": torch.cat(shared)}

    hooks = []
    for number, block in enumerate((*network.double_blocks, *network.single_blocks)):
        hooks += [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after(number, number >= first_single), with_kwargs=True),
        ]
        if isinstance(contrast, Orthogonal):
            hooks.append(attention_hook(contrast, block, number, number >= first_single))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def attention_hook(contrast: Orthogonal, block: Any, number: int, is_single: bool) -> Any:
    """Let the contrast act on what a block's attention gives the picture tokens; returns the hook's handle."""

    def of_double(_: Any, args: tuple, output: Tensor) -> None:
        contrast.attended(output, number)

    def of_single(layer: Any, args: tuple) -> None:  # its last layer takes the attention's output and the MLP's side by side
        contrast.attended(args[0][:, -contrast.tokens :, : layer.out_features], number)

    return block.linear2.register_forward_pre_hook(of_single) if is_single else block.img_attn.proj.register_forward_hook(of_double)


def draw(bench: Any, contrast: JointContrast, name: str, source: str, cfg: float, noise: Tensor) -> Tensor:
    """Latents from noise under a prompt, with the contrast of an attribute's prompt to it."""
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP

    steps = {float(sigma): i for i, sigma in enumerate(bench.sigmas)}
    starts = float(bench.levels.percent_to_sigma(contrast.start))
    model = bench.model.clone()
    guider = comfy.samplers.CFGGuider(model)

    def beside(executor, base, conds, x, timestep, model_options):
        sigma = float(timestep.flatten()[0])
        contrast.step, contrast.active = steps[min(steps, key=lambda at: abs(at - sigma))], sigma <= starts
        further = [] if contrast.stored or not contrast.active else [guider.conds["plus"], guider.conds["minus"]]
        return executor(base, [*conds, *further], x, timestep, model_options)[: len(conds)]

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "joint", beside)
    own, negative = bench.encode(source), bench.encode("")
    minus = negative if contrast.minus_is_empty else own
    guider.inner_set_conds({"positive": own, "negative": negative, "plus": bench.encode(bench.prompt(name)), "minus": minus})
    guider.set_cfg(cfg)
    with in_blocks(bench.model.model.diffusion_model, contrast):
        return guider.sample(noise, torch.zeros_like(noise), bench.euler, bench.sigmas, disable_pbar=True, seed=0)
