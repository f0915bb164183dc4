"""What the UNet's output, or its h, depends on most at one step of a run: Jacobians in the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.hspace.discovery import Jacobian, NoGradient, leading_right_vectors
from .compiled import seen_by_patches
from .copies import copies
from .model_calls import check_undivided
from .options import PROBING, sigma_of
from .other_patches import options_of, step_skipped
from .progress import check_cancelled
from .runs import schedule
from .seeds import seeds_from
from .types import Conditioning, WrapperExecutor
from .unet import DECODER, Reached, Selection, Skipped, Stop, UNetCall, replaying, twin_of
from .watching import SOURCE, watched_runs

Method = Literal["Jacobian", "pullback"]
STEP = {torch.float32: 1e-2, torch.float16: 5e-2, torch.bfloat16: 1e-1}  # of finite differences, in units of the point's norm

NO_GRADIENT = (
    "model: a patch of it has no finite gradient (Patch Model Add Downscale with bislerp has none). Choose other settings there, or "
    "method PCA."
)


@dataclass
class Probe:
    """A DIFFUSION_MODEL wrapper that, at one noise level, finds directions of h, once; and lets every call pass."""

    sigma: float
    method: Method
    count: int
    iterations: int
    mask: Tensor | None
    seed: int

    found: tuple[Tensor, Tensor] | None = None
    reached: bool = False

    def __call__(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        y: Tensor | None = None,
        control: dict[str, list[Any]] | None = None,
        transformer_options: dict[str, Any] = {},
        **kwargs: Any,
    ) -> Tensor:
        entries, sigma = transformer_options["cond_or_uncond"], sigma_of(transformer_options)
        at_sigma = abs(sigma - self.sigma) <= 1e-4 * sigma and not transformer_options.get(PROBING)
        self.reached = self.reached or at_sigma
        if self.found is None and SOURCE in entries and at_sigma:
            check_undivided(x, transformer_options)
            call = UNetCall(x, timesteps, context, y, control, {**transformer_options, PROBING: True}, kwargs)
            with torch.inference_mode(False), torch.no_grad():
                self.found = self._directions(executor, call, entries.index(SOURCE))
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def _directions(self, executor: WrapperExecutor, call: UNetCall, position: int) -> tuple[Tensor, Tensor]:
        """Shifts of h (count, c, h, w), a tenth as long as h, and their singular values."""
        try:
            tape = call.encoded(executor)
        except Skipped as error:
            raise step_skipped({"transformer_options": call.options}) from error
        rows = Rows(call, position)
        h = rows.first(tape[-1])
        try:
            shifts, values = self._of_output(executor, call, rows, tape) if self.method == "Jacobian" else self._of_h(executor, call, rows)
        except NoGradient as error:
            raise ValueError(NO_GRADIENT) from error
        shifts = shifts.float() / shifts.float().flatten(1).norm(dim=1)[:, None, None, None]
        return (0.1 * h.float().norm() * shifts).cpu(), values

    def _of_output(self, executor: WrapperExecutor, call: UNetCall, rows: Rows, tape: list[Tensor]) -> tuple[Tensor, Tensor]:
        unet = executor.class_obj
        decoder = copies(unet, *DECODER, device=call.x.device)
        h = rows.first(tape[-1]).clone()

        def output(shift: Tensor) -> Tensor:
            check_cancelled()
            kept = [rows.repeated(part, len(shift)).clone() for part in tape[:-1]]
            twin = twin_of(unet, *replaying([*kept, h + shift]))
            vars(twin).update(decoder)
            return rows.call(len(shift)).run(executor, twin)

        weight = None if self.mask is None else mask_like(self.mask, call.x)
        return self._leading(output, h, weight)

    def _of_h(self, executor: WrapperExecutor, call: UNetCall, rows: Rows) -> tuple[Tensor, Tensor]:
        unet = executor.class_obj
        parts = "time_embed", "label_emb", "input_blocks", "middle_block"
        encoder: dict[str, Any] = copies(unet, *parts, device=call.x.device)  # some are lists of blocks
        x, beside = (
            rows.first(call.x).clone().tensor_split([unet.out_channels], 1)
        )  # an inpainting model's mask and picture come after the latent

        def h_of(shift: Tensor) -> Tensor:
            check_cancelled()
            given = torch.cat([x + shift, beside.expand(len(shift), *beside.shape[1:])], 1)
            tape: list[Tensor] = []
            twin = twin_of(unet, list(encoder["input_blocks"]), [*encoder.get("middle_block", []), Stop(tape)])
            vars(twin).update({name: module for name, module in encoder.items() if name.endswith("_embed") or name.endswith("_emb")})
            try:
                rows.call(len(shift), given).run(executor, twin)
            except Reached:
                return tape[0]
            raise AssertionError("the middle block was not reached")

        weight = None if self.mask is None else mask_like(self.mask, call.x).to(x)
        moved, values = self._leading(lambda shift: h_of(shift if weight is None else shift * weight), x, None)
        jacobian = Jacobian(h_of, STEP[x.dtype] * float(x.float().norm()))
        return jacobian.forward(moved), values

    def _leading(self, f: Callable[[Tensor], Tensor], point: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        generator, step = torch.Generator().manual_seed(self.seed), STEP[point.dtype] * float(point.float().norm())
        bar = comfy.utils.ProgressBar(self.iterations * (1 if weight is None else 2))

        def start(count: int) -> Tensor:
            return torch.randn(count, *point.shape[1:], generator=generator).to(point)

        avoid = None
        if weight is not None:  # what moves most outside the mask is left out
            outside = Jacobian(f, step, 1 - weight)
            avoid, _ = leading_right_vectors(outside, start(4 * self.count), self.iterations, on_step=lambda: bar.update(1))
        return leading_right_vectors(
            Jacobian(f, step, weight), start(self.count), self.iterations, avoid=avoid, on_step=lambda: bar.update(1)
        )


class Rows:
    """One picture of a call's batch, under one prompt, repeated as often as is asked for."""

    def __init__(self, call: UNetCall, position: int) -> None:
        self.source, self.position, self.count = call, position, len(call.options["cond_or_uncond"])

    def first(self, value: Tensor) -> Tensor:
        return self.repeated(value, 1)

    def repeated(self, value: Any, times: int) -> Any:
        select = Selection([self.position], self.count, len(self.source.x))
        select.rows = select.rows[:1] * times
        return select(value)

    def call(self, times: int, x: Tensor | None = None) -> UNetCall:
        """The call for the picture repeated, or for other running latents x: (times, ...)."""
        call = self.source.selected([self.position], lambda value: self.repeated(value, times), {})
        return (
            call
            if x is None
            else UNetCall(x, *(getattr(call, name) for name in ("timesteps", "context", "y", "control", "options", "rest")))
        )


def region_of(mask: Tensor | None) -> Tensor | None:
    """The first mask of a batch, (1, 1, h, w); None where it leaves nothing out. ValueError where it leaves nothing."""
    if mask is None:
        return None
    mask = mask.reshape(-1, 1, *mask.shape[-2:])[:1].float()
    if not mask.any():
        raise ValueError("mask: it is black everywhere, so that nothing may change. Make what may change white.")
    return None if (mask >= 1).all() else mask


def mask_like(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (1, 1, h, w) at the size of a running latent."""
    return F.interpolate(mask, x.shape[-2:], mode="area").to(x.device)


def sensitive_directions(
    model: ModelPatcher,
    prompts: dict[str, Conditioning],
    cfg: float,
    latent: Tensor,
    *,
    method: Method,
    percent: float,
    count: int,
    iterations: int,
    steps: int,
    seed: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, float]:
    """Directions of h at one step of the run of one seed: shifts (count, c, h, w), singular values, and the noise level.

    Raises ValueError if the prompt has no part in that step, and for a mask of nothing.
    """
    sigmas = schedule(model, steps)[:-1]
    target = model.get_model_object("model_sampling").percent_to_sigma(percent)
    sigma = float(sigmas[(sigmas.log() - torch.tensor(max(target, 1e-9)).log()).abs().argmin()])
    (first,) = seeds_from(seed, 1)
    probe, probed = Probe(sigma, method, count, iterations, region_of(mask), first), seen_by_patches(model)
    probed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "semantic_latents_probe", probe)
    for _ in watched_runs(probed, prompts, cfg, latent, steps=steps, seed=seed, count=1, batch=1, looked_at=False):
        pass
    if not probe.reached:
        raise step_skipped(options_of(model))
    if probe.found is None:
        raise ValueError("positive: it is not in force at the step that is looked at. Choose another percent.")
    return *probe.found, sigma
