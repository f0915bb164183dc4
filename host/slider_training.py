"""Runs of a model in which a slider LoRA is trained: the x_t that it draws itself, its predictions, and where gradients pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter.bypass import BypassForwardHook
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from ..core.latent import nearly_equal
from ..core.lora.training import LoraTraining, contrast_target, derivative, distance
from ..core.sampling.ddim import euler_step
from ..core.sampling.steering import Callback
from .compiled import seen_by_patches
from .copies import twin_of_model
from .lora_layers import Adapters
from .model_calls import undivided
from .options import EDITING
from .other_patches import CACHES
from .runs import guided, run
from .samplers import sampler_of
from .seeds import noise_of, seeds_from
from .training import Directional, Foreseen, in_training, with_backward
from .types import CFGGuider, Conditioning, KSamplerX0Inpaint
from .unedited import in_one_pass

GRID = 16  # steps of a run
SIGNS = (1.0, -1.0)
KEEP = "keep_"  # roles of prompts under which nothing shall change
# Of torch's errors: where there is no gradient, or none that is right.
NO_GRADIENT = ("does not require grad", "nference tensor", "modified by an inplace operation", "no autograd formula")
SHARE = 0.9  # of the free memory that may be needed


@dataclass(frozen=True)
class Words:
    """A slider's prompts. minus: the opposite, or the neutral one. keep: prompts under which nothing shall change."""

    neutral: Conditioning
    plus: Conditioning
    minus: Conditioning | None
    negative: Conditioning
    keep: tuple[Conditioning, ...] = ()

    def by_role(self) -> dict[str, Conditioning]:
        """The prompts of the run, as the host's guider takes them."""
        roles = {"positive": self.neutral, "negative": self.negative, "plus": self.plus}
        if self.minus is not None:
            roles["minus"] = self.minus
        return roles | {f"{KEEP}{i}": prompt for i, prompt in enumerate(self.keep)}


@dataclass(frozen=True)
class Setup:
    """How a slider LoRA is trained.

    scale: of the contrast, k. window: parts of the run, 0 to 1, in which x_t are drawn. latent: an empty one, (1, c, ..., h, w). batch: how
    many x_t an update sees. mask: (1, 1, h, w) in 0..1. checkpoints: whether blocks are run again for their gradient; None for as needed.
    """

    updates: int
    scale: float
    window: tuple[float, float]
    cfg: float
    seed: int
    latent: Tensor
    batch: int = 1
    keep_weight: float = 1.0
    mask: Tensor | None = None
    checkpoints: bool | None = None

    @property
    def places(self) -> int:
        """How many x_t are taken from one run."""
        return max(1, round((self.window[1] - self.window[0]) * GRID))

    @property
    def leading(self) -> list[float]:
        """The parts of a run, beginning with 0, that come before those."""
        return [0.0, *(i / GRID for i in range(1, GRID) if i / GRID < self.window[0])]

    def ticks(self) -> int:
        """Steps of its progress: those of the runs, three for each update, and three runs at the end."""
        rounds = -(-self.updates // self.places)
        return rounds * (len(self.leading) + self.places) + 3 * self.updates + 3 * GRID


@dataclass(frozen=True)
class Drawn:
    """An x_t (b, ...) of the model's own run, its noise level, and what is foreseen there without the LoRA, by the prompts' roles."""

    x: Tensor
    sigma: float
    foreseen: dict[str, Tensor]


Scored = tuple[Directional, Directional]  # the scorer's objective at strengths 1 and -1


def opposed(objective: Directional) -> Scored:
    """An objective at strength 1, and its opposite at -1."""
    with torch.inference_mode(False):  # gradients meet it
        return objective, replace(objective, change=-objective.change.clone())


def mask_on(mask: Tensor | None, latent: Tensor) -> Tensor | None:
    """The mask (1, 1, ..., h, w) of a latent (1, c, ..., h, w). Raises ValueError for a mask of another form, several, or an empty one."""
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 2 else mask
    (height, width), (rows, columns) = mask.shape[-2:], latent.shape[-2:]
    if len(mask) != 1:
        raise ValueError(f"mask: got a batch of {len(mask)}; one LoRA has one mask. Connect one.")
    if abs(height * columns - width * rows) > max(height * columns, width * rows) / min(rows, columns):
        raise ValueError(
            f"mask: it has the form {width} x {height}, and the latent {columns} x {rows}; connect one of the latent's form, or another "
            "latent."
        )
    if not mask.any():
        raise ValueError("mask: it is empty (black), so that nothing would be learned; paint where the slider shall act.")
    return comfy.utils.reshape_mask(mask.float(), latent.shape)[:, :1]


@dataclass(eq=False)
class SliderTrainer:
    """A sampler function that trains a LoRA: in place of a run it makes many, and updates the LoRA between them.

    show: gets what is foreseen (3 b, ...) at strengths -1, 0, 1 at each update, and None for each other step.
    """

    words: Words
    setup: Setup
    adapters: Adapters
    training: LoraTraining
    show: Callable[[Tensor | None], None]
    scored: Scored | None = None
    strip: Tensor | None = None  # latents (3, ...) of whole runs at -1, 0, 1, at the end
    unit: float = 0.0  # the mean squares of both signs' targets less the neutral prediction, at the first update
    calls: _Calls = field(init=False)

    __name__ = "train_slider_lora"

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
        with torch.inference_mode(False), torch.no_grad(), in_training():
            self.calls = _Calls(guider, options, self.adapters, self.setup, x.device)
            while len(self.training.losses) < self.setup.updates:
                self._round(x)
            self.strip = self._strip(x)
        return x

    def _round(self, like: Tensor) -> None:
        """One run, and an update at each of its x_t in the window, in random order."""
        number = len(self.training.losses)
        generator = torch.Generator().manual_seed(seeds_from(self.setup.seed, number + 1)[-1] % 2**63)
        drawn = list(self._drawn(like, generator, number))
        if not number:
            self._check_contrast(drawn)
            self.calls.provide_memory(drawn[0], edited_roles(drawn[0]))
        for i in torch.randperm(len(drawn), generator=generator).tolist():
            if len(self.training.losses) < self.setup.updates:
                self._update(drawn[i])

    def _drawn(self, like: Tensor, generator: torch.Generator, number: int) -> Iterator[Drawn]:
        """The x_t of one run at noise levels that are spread over the window, each at a random place of its share of it."""
        (start, end), count = self.setup.window, self.setup.places
        spread = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        percents = [*self.setup.leading, *(start + (end - start) * spread).tolist()]
        levels = self.calls.levels
        sigmas = [float(levels.percent_to_sigma(p)) for p in percents]
        sigmas[0] = min(sigmas[0], float(levels.sigma_max))
        noise = noise_of(
            self.setup.latent.repeat(self.setup.batch, *[1] * (self.setup.latent.ndim - 1)), [seed_of(self.setup.seed, number)]
        )
        x = self.calls.noised(noise.to(like), sigmas[0])
        first = len(percents) - count
        for i, sigma in enumerate(sigmas):
            roles = self._roles(number + i) if i >= first else ["positive"]
            foreseen = self.calls.plain(x, sigma, roles)
            self.show(None)
            if i >= first:
                yield Drawn(x, sigma, {role: foreseen[role] for role in roles})
            if i + 1 < len(sigmas):
                x = euler_step(x, self.calls.guided(foreseen), sigma, sigmas[i + 1])

    def _check_contrast(self, drawn: list[Drawn]) -> None:
        """Raise ValueError for words that draw the same."""
        if self.scored is None and all(nearly_equal(one.foreseen["plus"], self._minus(one)) for one in drawn):
            raise ValueError(
                "wanted: the model foresees the same under these words as under those of neutral (or opposite), at every noise level of "
                "the window, so that there is nothing to learn. Use words that the model knows, or a wider window."
            )

    def _minus(self, drawn: Drawn) -> Tensor:
        return drawn.foreseen.get("minus", drawn.foreseen["positive"])

    def _roles(self, number: int) -> list[str]:
        """The prompts that an update asks about: the slider's, and one after the other of those to keep."""
        slider = [role for role in self.words.by_role() if role != "negative" and not role.startswith(KEEP)]
        return slider + ([f"{KEEP}{number % len(self.words.keep)}"] if self.words.keep else [])

    def _update(self, drawn: Drawn) -> None:
        roles, seen = edited_roles(drawn), {0.0: drawn.foreseen["positive"]}
        d, targets = self._targets(drawn)
        self.unit = self.unit or sum(float(distance(target, d["positive"])) for target in targets) or 1.0
        for sign, target in zip(SIGNS, targets):
            with torch.enable_grad(), self.calls.explained():
                edited = self.calls.edited(drawn, roles, sign)
                self.training.descend(self._loss(drawn, dict(zip(roles, edited)), d, target, sign), edited)
            seen[sign] = edited[0].detach()
            self.show(None)
        self.training.update()
        self.show(torch.cat([seen[strength] for strength in (-1.0, 0.0, 1.0)]))

    def _targets(self, drawn: Drawn) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The derivatives without the LoRA by roles, and what they shall be at strengths 1 and -1 under the neutral prompt."""
        d = {role: derivative(drawn.x, value, self.sigmas(drawn)) for role, value in drawn.foreseen.items()}
        minus = d.get("minus", d["positive"])
        return d, [contrast_target(d["positive"], d["plus"], minus, sign * self.setup.scale, self.setup.mask) for sign in SIGNS]

    @staticmethod
    def sigmas(drawn: Drawn) -> Tensor:
        return torch.full((len(drawn.x),), drawn.sigma, device=drawn.x.device)

    def _loss(self, drawn: Drawn, edited: dict[str, Tensor], d: dict[str, Tensor], target: Tensor, sign: float) -> Tensor:
        """That of one sign: towards its target, and to what is foreseen without the LoRA under a prompt to keep."""
        found = {role: derivative(drawn.x, value, self.sigmas(drawn)) for role, value in edited.items()}
        kept = [distance(value, d[role]) for role, value in found.items() if role != "positive"]
        rest = self.setup.keep_weight / self.unit * sum(kept, torch.zeros((), device=drawn.x.device))
        if self.scored is None:
            return distance(found["positive"], target) / self.unit + rest
        plain = drawn.foreseen["positive"]
        return self.scored[SIGNS.index(sign)](Foreseen(edited["positive"], plain, None, plain, plain)) + rest

    def _strip(self, like: Tensor) -> Tensor:
        """Whole runs from the first noise at strengths -1, 0, 1."""
        sigmas = [float(self.calls.levels.percent_to_sigma(i / GRID)) for i in range(GRID)] + [0.0]
        sigmas[0] = min(sigmas[0], float(self.calls.levels.sigma_max))
        start = self.calls.noised(noise_of(self.setup.latent, [seed_of(self.setup.seed, 0)]).to(like), sigmas[0])
        ends = []
        for strength in (-1.0, 0.0, 1.0):
            x = start
            for sigma, after in zip(sigmas, sigmas[1:]):
                x = euler_step(x, self.calls.guided(self.calls.plain(x, sigma, ["positive"], strength)), sigma, after)
                self.show(None)
            ends.append(x)
        return torch.cat(ends)


def edited_roles(drawn: Drawn) -> list[str]:
    """The prompts of an update's edited calls: the neutral one, and one to keep."""
    return ["positive", *(role for role in drawn.foreseen if role.startswith(KEEP))]


class _Calls:
    """Calls of a model's twin that carries the LoRA, in a run of the host's guider."""

    def __init__(self, guider: CFGGuider, options: dict[str, Any], adapters: Adapters, setup: Setup, device: torch.device) -> None:
        self.guider, self.options, self.adapters, self.setup = guider, options, adapters, setup
        self.twin = twin_of_model(guider.inner_model, device)
        self.adapters.put_on(self.twin)
        self.levels: Any = guider.inner_model.model_sampling
        self.prompts = {role: [owned(part) for part in parts] for role, parts in guider.conds.items()}

    def noised(self, noise: Tensor, sigma: float) -> Tensor:
        """The running latent of nothing but noise (b, ...) of unit variance."""
        sigmas = torch.full((len(noise), *[1] * (noise.ndim - 1)), sigma, device=noise.device)
        return self.levels.noise_scaling(sigmas, noise, torch.zeros_like(noise), sigma >= float(self.levels.sigma_max) * (1 - 1e-6))

    def ask(self, x: Tensor, sigma: float, roles: list[str], strength: float) -> list[Tensor]:
        """What is foreseen for x (b, ...) under prompts, in one batch where memory allows."""
        self.adapters.set(strength)
        options = with_backward_of(undivided(self.options, x))
        prompts = [self.prompts[role] for role in roles]
        return comfy.samplers.calc_cond_batch(self.twin, prompts, x, torch.full((len(x),), sigma, device=x.device), options)

    def plain(self, x: Tensor, sigma: float, roles: list[str], strength: float = 0.0) -> dict[str, Tensor]:
        """The same without a gradient, by roles; the negative prompt's beside them where there is guidance."""
        roles = [*roles, "negative"] if self.guider.cfg != 1.0 else roles
        return dict(zip(roles, self.ask(x, sigma, roles, strength)))

    def guided(self, foreseen: dict[str, Tensor]) -> Tensor:
        """The guided prediction of the neutral prompt."""
        if "negative" not in foreseen:
            return foreseen["positive"]
        return foreseen["negative"] + self.guider.cfg * (foreseen["positive"] - foreseen["negative"])

    def edited(self, drawn: Drawn, roles: list[str], strength: float) -> Tensor:
        """What is foreseen (roles, b, ...) with the LoRA at a strength, with a gradient. Raises ValueError where none can be had."""
        with self.explained():
            edited = torch.stack(self.ask(drawn.x, drawn.sigma, roles, strength)).float()
            if not edited.requires_grad:
                raise RuntimeError(NO_GRADIENT[0])
        return edited

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns torch's errors about gradients that cannot pass into a ValueError that names what the model carries."""
        try:
            yield
        except RuntimeError as error:
            if any(words in str(error) for words in NO_GRADIENT):
                raise untrainable(type(self.guider.inner_model.model_config).__name__, self.options) from error
            raise

    def provide_memory(self, drawn: Drawn, roles: list[str]) -> None:
        """Run the network's blocks again for their gradient if they have to be, or are to be.

        Raises ValueError if there is too little memory for an update in any case.
        """
        wanted = self.setup.checkpoints
        free = SHARE * free_memory(drawn.x.device)
        if not wanted:
            needed = self._kept_for_gradient(drawn, roles)
            if needed <= free:
                return
            if wanted is not None:
                raise too_little(needed, free, "Set gradient_checkpointing to auto or on, or lower")
        for block in blocks_of(self.twin.diffusion_model):
            block.forward = run_again(block.forward)  # of the twin
        needed = self._kept_for_gradient(drawn, roles)
        if needed > free:
            raise too_little(needed, free, "Lower")

    def _kept_for_gradient(self, drawn: Drawn, roles: list[str]) -> int:
        """Bytes that one edited call keeps for its gradient, beside the model's weights; nothing is kept in finding out."""
        weights, kept = {tensor.data_ptr() for tensor in (*self.twin.parameters(), *self.twin.buffers())}, 0

        def count(tensor: Tensor) -> None:
            nonlocal kept
            if tensor.data_ptr() not in weights:
                kept += tensor.numel() * tensor.element_size()

        with torch.enable_grad(), saved_tensors_hooks(count, lambda nothing: nothing):
            self.edited(drawn, roles, 1.0)
        return kept


def with_backward_of(options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which attention has a gradient."""
    return {**options, "transformer_options": with_backward(options["transformer_options"])}


def free_memory(device: torch.device) -> float:
    """Bytes."""
    return float(comfy.model_management.get_free_memory(device))


def too_little(needed: float, free: float, advice: str) -> ValueError:
    return ValueError(
        f"batch_size: an update needs about {needed / 2**30:.1f} GB of memory beside the model, and {free / 2**30:.1f} GB are free. "
        f"{advice} batch_size, the latent's size, or the number of layers (cross-attention has the fewest)."
    )


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The largest parts of a network that are called one by one: its own children, and those of the lists among them."""
    found: list[nn.Module] = []
    for part in network.children():
        is_list = isinstance(part, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        found += blocks_of(part) if is_list else [part]
    return [part for part in found if sum(1 for _ in part.children())]


def run_again(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block's forward that keeps its input alone for its gradient. The block gets copies, as some blocks add to their input in place."""

    def on_copies(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(copied, args), **{name: copied(value) for name, value in kwargs.items()})

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(on_copies, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else forward(*args, **kwargs)

    return checkpointed


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def owned(value: Any) -> Any:
    """A prepared prompt, or a part of it, whose tensors are copies that a gradient can pass."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: owned(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(owned, value))
    if hasattr(value, "cond"):  # the host's wrapper of a condition
        result = copy.copy(value)
        result.cond = owned(value.cond)
        return result
    return value


def seed_of(seed: int, number: int) -> int:
    """The seed of the run before an update of this number."""
    return seeds_from(seed, number + 1)[-1]


def check_trainable(model: ModelPatcher) -> None:
    """Raise ValueError, with its name, for what a model carries and a LoRA cannot be trained through."""
    keys = [str(key) for kind in model.wrappers.values() for key in kind]
    ours = [key for key in (*keys, *model.model_options["transformer_options"]) if str(key).startswith(EDITING)]
    caches = [name for key, name in CACHES.items() if key in keys]
    if ours:
        what = "a slider, a direction or an attribute of this pack"
    elif caches:
        what = f"{' and '.join(caches)}, which skips steps"
    elif model.injections or is_replaced(model):
        what = "a LoRA in bypass mode, or another patch that replaces the code of its layers"
    elif "multigpu_clones" in model.model_options:
        what = "copies on several GPUs"
    else:
        return
    raise ValueError(
        f"model: it carries {what}, through which no LoRA is trained. Connect the model as it is before that; LoRAs of Load LoRA may stay."
    )


def is_replaced(model: ModelPatcher) -> bool:
    """Whether a layer of the model is, at this moment, under a hook of the host's bypass mode."""
    network = model.model.diffusion_model
    return any(isinstance(getattr(vars(part).get("forward"), "__self__", None), BypassForwardHook) for part in network.modules())


def untrainable(family: str, options: dict[str, Any]) -> ValueError:
    """For a model of a family whose calls have no gradient."""
    inside = options.get("transformer_options", {})
    named = [f"{kind} {name}" for kind in ("patches", "patches_replace") for name in inside.get(kind, {})]
    named += ["a UNet function wrapper"] * ("model_function_wrapper" in options)
    if named:
        return ValueError(
            f"model: no gradient passes through what it carries ({', '.join(named)}). Connect it without; LoRAs of Load LoRA may stay."
        )
    return ValueError(
        f"model: no gradient passes through the networks of its family ({family}) in this version of ComfyUI, so no LoRA can be trained on "
        "them. Make Slider needs no training."
    )


def train(model: ModelPatcher, trainer: SliderTrainer) -> None:
    """Train as long as the trainer says, in a run of the host's guider. The model stays as it is."""
    patched = in_one_pass(seen_by_patches(model))
    guider = guided(patched, trainer.words.by_role(), trainer.setup.cfg)
    noise = torch.zeros_like(trainer.setup.latent).repeat(trainer.setup.batch, *[1] * (trainer.setup.latent.ndim - 1))
    levels = model.get_model_object("model_sampling")
    run(guider, noise, sampler_of(trainer), torch.tensor([float(levels.sigma_max), 0.0]))
