"""Runs of a model in which a network that shifts h is trained: what each step sees, and where gradients pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.hooks import EnumHookType
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER
from torch import Tensor

from ..core.hspace.discovery import Means
from ..core.hspace.injection import matched_scale
from ..core.hspace.training import Training, change_loss, directional_loss, matching_loss, reach_loss
from ..core.sampling.ddim import asymmetric_step, euler_step
from ..core.sampling.steering import Callback
from .compiled import seen_by_patches
from .copies import copies
from .model_calls import check_undivided, told, undivided
from .options import EDITING, SHIFTED, sigma_of
from .other_patches import step_skipped
from .runs import guided, run
from .samplers import SamplerFunction
from .types import CFGGuider, Conditioning, ControlBase, KSamplerX0Inpaint, WrapperExecutor
from .unedited import in_one_pass
from .unet import DECODER, Skipped, UNetCall, replaying, twin_of
from .watching import NOT_IN_FORCE, same_size

REACH = 0.5  # weight of the move's length beside its direction


class NetworkOnModel:
    """A network on a model, and what one call of it needs: the shift of h, and gradients through the decoder only.

    It knows no model that it is on, which would hold itself and the decoder's copy in memory then.
    """

    def __init__(self) -> None:
        self.network: Callable[[Tensor, float], Tensor] | None = None
        self.size = 1.0  # root mean square of the last h that was not shifted
        self.shape: torch.Size | None = None  # of the h that was shifted
        self.shifts: list[Tensor] = []  # those of the last prediction
        self.decoder: dict[str, torch.nn.Module] = {}

    def on(self, model: ModelPatcher) -> ModelPatcher:
        """A clone of the model that carries it."""
        patched = in_one_pass(seen_by_patches(model))
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, f"{EDITING}_training", self.run_unet)
        patched.set_model_middle_block_after_patch(self.shift_h)
        return patched

    def shift_h(self, args: dict[str, Any]) -> dict[str, Tensor]:
        """The middle block's patch."""
        h, options = args["h"], args["transformer_options"]
        if not options.get(SHIFTED):
            self.size = float(h.float().square().mean().sqrt())
            return {"h": h}
        assert self.network is not None  # h is shifted in training alone
        self.shape = same_size(self.shape, h)
        shift = self.network(h.detach(), sigma_of(options))
        self.shifts.append(shift.detach())
        return {"h": h + shift.to(h.dtype)}

    def run_unet(
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
        """DIFFUSION_MODEL wrapper: where gradients are asked for, the encoder runs without, the decoder in a copy that passes them."""
        check_undivided(x, transformer_options)
        if not (transformer_options.get(SHIFTED) and torch.is_grad_enabled()):
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        call, unet = UNetCall(x, timesteps, context, y, control, with_backward(transformer_options), kwargs), executor.class_obj
        try:
            with torch.no_grad():
                tape = call.encoded(executor)
        except Skipped as error:
            raise step_skipped({"transformer_options": transformer_options}) from error
        self.decoder = self.decoder or copies(unet, *DECODER, device=x.device)
        twin = twin_of(unet, *replaying(tape))
        vars(twin).update(self.decoder)
        return call.run(executor, twin)


@dataclass(frozen=True)
class Foreseen:
    """Denoised latents (b, c, h, w) of one step that an objective looks at.

    edited: with h shifted. plain: without, at the same x. target: the same under the target prompt, if the objective needs it.
    kept: what the picture is to stay like. source: of which the scorer compares the edited one.
    """

    edited: Tensor
    plain: Tensor
    target: Tensor | None
    kept: Tensor
    source: Tensor


@dataclass(frozen=True)
class Matching:
    """The objective that needs no scorer: predict under the source prompt what the model predicts under the target prompt."""

    keep_weight: float
    needs_target, needs_source = True, False

    def __call__(self, seen: Foreseen) -> Tensor:
        assert seen.target is not None  # asked for by needs_target
        return matching_loss(seen.edited, seen.target, seen.plain) + self.keep_weight * change_loss(seen.edited, seen.kept)


@dataclass(frozen=True, eq=False)
class Directional:
    """CLIP's directional loss on the foreseen pictures, and the L1 term beside it."""

    keep_weight: float
    score: Callable[[Tensor], Tensor]
    change: Tensor
    likeness: float
    needs_target, needs_source = False, True

    def __call__(self, seen: Foreseen) -> Tensor:
        with torch.no_grad():
            before = self.score(seen.source)
        after, change = self.score(seen.edited), self.change.to(before)
        moves = directional_loss(before, after, change) + REACH * reach_loss(before, after, change)
        return moves + self.keep_weight * self.likeness * change_loss(seen.edited, seen.kept)


@dataclass(frozen=True, eq=False)
class TrainingRuns:
    """What all runs of a training share: the model with what is trained on it, prompts, guidance, steps, and the noise level below which
    nothing is shifted.

    as_in_paper: the edited run goes along the asymmetric process, and is compared with the unedited run on its own path (Kwon et al. 2023);
    else along the symmetric one, and is compared with what the model foresees without the shift at the same x (ours).
    """

    model: ModelPatcher
    trained: NetworkOnModel
    prompts: dict[str, Conditioning]
    cfg: float
    sigmas: Tensor
    lowest: float
    as_in_paper: bool = False

    @property
    def steps(self) -> int:
        """Steps of a run that shift h."""
        return int((self.sigmas[:-1] >= self.lowest * (1 - 1e-6)).sum())

    @property
    def unit(self) -> float:
        """The strength in Apply Direction, in this form and in as many steps, that shifts h as the network does in training."""
        if not self.as_in_paper:
            return 1.0
        return 1 / matched_scale(self.sigmas.tolist(), [float(i < self.steps) for i in range(len(self.sigmas) - 1)])

    def kept_steps(self, objective: Matching | Directional) -> int:
        """Steps of the unedited run that is kept beside each edited one; 0 if none is."""
        if not self.as_in_paper:
            return 0
        return len(self.sigmas) - 1 if objective.needs_source else self.steps

    def onward(self, x: Tensor, edited: Tensor, plain: Tensor, sigma: float, after: float) -> Tensor:
        """The next x (b, c, h, w) of an edited run."""
        return asymmetric_step(x, edited, plain, sigma, after) if self.as_in_paper else euler_step(x, edited, sigma, after)

    def run(self, sampler: KSAMPLER | SamplerFunction, noise: Tensor, model: ModelPatcher | None = None) -> Tensor:
        """A run under the host's guider with these prompts, from noise (b, c, h, w) of unit variance."""
        return run(guided(model or self.model, self.prompts, self.cfg), noise, sampler, self.sigmas)


@dataclass(eq=False)
class Path:
    """A sampler function that goes along a process of its own, step by step."""

    runs: TrainingRuns
    tick: Callable[[], None]

    __name__ = "follow_direction"

    @property
    def count(self) -> int:
        """How many steps it goes."""
        return self.runs.steps

    def __call__(
        self,
        model: KSamplerX0Inpaint,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        guider, options = model.inner_model, extra_args["model_options"]
        check_in_force(guider, sigmas[: self.runs.steps].tolist())
        freeze_controls(guider.conds)
        with torch.inference_mode(False), torch.no_grad():
            x, levels = x.clone(), sigmas.clone()
            for i, (sigma, after) in enumerate(zip(levels[: self.count], levels[1:])):
                foreseen, plain = self.step(i, guider, options, x, sigma * x.new_ones(len(x)))
                x = self.runs.onward(x, foreseen, plain, float(sigma), float(after))
                self.tick()
        return x

    def step(self, i: int, guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction that the run goes on with, and the one without a shift (which only the asymmetric process looks at)."""
        raise NotImplementedError

    def edited(self, guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor) -> Tensor:
        """The prediction with h shifted; ValueError if the model is not called for it."""
        self.runs.trained.shifts.clear()
        edited = prediction(guider, options, x, sigma, "positive", shifted=True)
        if not self.runs.trained.shifts:
            raise step_skipped(options)
        return edited


@dataclass(eq=False)
class UneditedPath(Path):
    """The unedited run of so many steps, and what is foreseen on it: at those in which training shifts h, and at the last one."""

    steps: int
    foreseen: list[Tensor] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.steps

    def step(self, i: int, guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        plain = prediction(guider, options, x, sigma, "positive", shifted=False)
        if i < self.runs.steps or i == self.count - 1:
            self.foreseen.append(plain.cpu())
        return plain, plain


@dataclass(eq=False)
class Trainer(Path):
    """One update of the network at each step; x is detached between them. begin makes the training once the size of h is known."""

    objective: Matching | Directional
    begin: Callable[[float, torch.device], Training]
    training: Training | None = None
    unedited: UneditedPath | None = None  # of this run, in the paper's form
    last: tuple[Tensor, Tensor] | None = None  # predictions of the last step, unedited and edited

    def step(self, i: int, guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        names = ["positive", "target"] if self.objective.needs_target else ["positive"]
        plain, *target = (prediction(guider, options, x, sigma, name, shifted=False) for name in names)
        kept, source = (self.unedited.foreseen[at].to(plain) for at in (i, -1)) if self.unedited else (plain, plain)
        if self.training is None:
            self.training = self.begin(self.runs.trained.size, x.device)
            self.runs.trained.network = self.training.network
        with torch.enable_grad():
            edited = self.edited(guider, options, x, sigma)
            loss = self.objective(Foreseen(edited, plain, target[0] if target else None, kept, source))
            self.training.update(loss, edited)
        self.last = kept, edited.detach()
        return edited.detach(), plain


@dataclass(eq=False)
class Averaging(Path):
    """The means of the network's shifts over pictures and both halves of the guidance, for each noise level."""

    means: Means

    def step(self, i: int, guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        edited = self.edited(guider, options, x, sigma)
        self.means.add(float(sigma[0]), torch.cat(self.runs.trained.shifts).cpu())
        plain = prediction(guider, options, x, sigma, "positive", shifted=False) if self.runs.as_in_paper else edited
        return edited, plain


def trained(trainer: Trainer, batches: Sequence[Tensor], epochs: int, show: Callable[[tuple[Tensor, Tensor]], None]) -> Training:
    """The training after so many passes over batches (b, c, h, w) of noise; show gets each batch's last predictions, unedited and edited.

    In the paper's form each batch's unedited run is made once, and what it foresees is kept on the CPU.
    """
    paths = dict[int, UneditedPath]()
    with in_training():
        for _ in range(epochs):
            for i, batch in enumerate(batches):
                if trainer.runs.as_in_paper and i not in paths:
                    paths[i] = UneditedPath(trainer.runs, trainer.tick, trainer.runs.kept_steps(trainer.objective))
                    trainer.runs.run(paths[i], batch)
                trainer.unedited = paths.get(i)
                trainer.runs.run(trainer, batch)
                assert trainer.last is not None  # every run has a step
                show(trainer.last)
    assert trainer.training is not None
    return trainer.training


def averaged(
    runs: TrainingRuns, network: Callable[[Tensor, float], Tensor], batches: Sequence[Tensor], tick: Callable[[], None]
) -> tuple[Tensor, tuple[float, ...]]:
    """The mean shifts (levels, c, h, w) of a trained network over batches (b, c, h, w) of noise, and their noise levels."""
    runs.trained.network, averaging = network, Averaging(runs, tick, Means())
    for batch in batches:
        runs.run(averaging, batch)
    return averaging.means.result()


def prediction(guider: CFGGuider, options: dict[str, Any], x: Tensor, sigma: Tensor, name: str, *, shifted: bool) -> Tensor:
    """The denoised latent of x under this prompt, guided as the host does it in a run with these model options, with h shifted or not."""
    options = told(undivided(options, x), {SHIFTED: shifted})
    return comfy.samplers.sampling_function(guider.inner_model, x, sigma, guider.conds["negative"], guider.conds[name], guider.cfg, options)


def check_in_force(guider: CFGGuider, sigmas: list[float]) -> None:
    """Raise ValueError for a prompt of a run that is without effect at one of these noise levels."""
    for name, parts in guider.conds.items():
        spans = [(part.get("timestep_end", 0.0), part.get("timestep_start", float("inf"))) for part in parts]
        if (name != "negative" or guider.cfg != 1.0) and not all(any(low <= sigma <= high for low, high in spans) for sigma in sigmas):
            raise ValueError(NOT_IN_FORCE.format("source" if name == "positive" else name))


def check_weights(**prompts: Conditioning | None) -> None:
    """Raise ValueError for a prompt that changes the model's weights: one copy of the decoder serves all prompts. None passes."""
    for name, prompt in prompts.items():
        if any(extras.get("hooks") and extras["hooks"].get_type(EnumHookType.Weight) for _, extras in prompt or []):
            raise ValueError(
                f"{name}: it carries a LoRA of its own (a hook), which training cannot follow. Load the LoRA on the model instead."
            )


class FrozenControl:
    """A ControlNet that no gradient is asked of: its weights are inference tensors."""

    def __init__(self, control: ControlBase) -> None:
        self.control = control

    def __getattr__(self, name: str) -> Any:
        return getattr(self.control, name)

    @torch.no_grad()
    def get_control(self, *args: Any) -> dict[str, list[Any]] | None:
        return self.control.get_control(*args)


def freeze_controls(prompts: dict[str, list[dict[str, Any]]]) -> None:
    """Freeze the ControlNets of a run's prompts; one that several share stays one, as the host evaluates those together."""
    frozen: dict[int, FrozenControl] = {}
    for part in (part for parts in prompts.values() for part in parts if "control" in part):
        part["control"] = frozen.setdefault(id(part["control"]), FrozenControl(part["control"]))


def with_backward(options: dict[str, Any]) -> dict[str, Any]:
    """Transformer options under which attention has a gradient: the fast kernels that a user may have chosen have none."""
    if not (comfy.model_management.sage_attention_enabled() or comfy.model_management.flash_attention_enabled()):
        return options
    return {**options, "optimized_attention_override": lambda function, *args, **kwargs: attention_pytorch(*args, **kwargs)}


@contextmanager
def in_training() -> Iterator[None]:
    """Tells the host that gradients are needed."""
    before, comfy.model_management.in_training = comfy.model_management.in_training, True
    try:
        yield
    finally:
        comfy.model_management.in_training = before
