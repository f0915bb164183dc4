"""Source and target runs of one sampler from one noise: the pair that an attribute is learned from and applied with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.avi.attribute import LatentKind, Pair, Recipe
from ..core.sampling.recording import Moment, recorded
from ..core.sampling.steering import Denoiser, SwitchedDenoiser
from ..core.sampling.steps import first_step_from, is_descending
from .denoisers import NoiseLevels, beside_the_run, picture_share, under_prompt
from .progress import interruptible
from .samplers import traits_of
from .types import Conditioning


def kind_of(model: ModelPatcher) -> LatentKind:
    """The kind of latents that a model works on."""
    latent_format = model.get_model_object("latent_format")
    return LatentKind(type(latent_format).__name__, latent_format.latent_channels)


def check_goes_down(sigmas: Sequence[float]) -> None:
    """Raise ValueError for noise levels that rise."""
    if not is_descending(sigmas):
        raise ValueError(
            "sigmas: they go up (FlipSigmas makes them so), but an attribute belongs to a run that goes down. Connect a plain sampler here."
        )


@dataclass(frozen=True)
class Steps:
    """A recipe's percents as steps of a run: where the source is edited, the target taken, and the runs part."""

    edited: int
    taken: int
    parted: int

    @classmethod
    def of(cls, recipe: Recipe, levels: NoiseLevels, sigmas: Tensor, *, learned: bool = False) -> Steps:
        """levels: the model's sampling object. A run that starts after a place is edited, or parts, at its first step.

        Raises ValueError if a place lies past the run's last step, or for levels that go up; learned: those of a finished attribute.
        """
        schedule = sigmas.tolist()
        check_goes_down(schedule)

        def first_from(percent: float) -> int:
            step = first_step_from(schedule, levels.percent_to_sigma(percent))
            if step is None:
                input, advice = ("attribute", "sample further down") if learned else ("percent, ahead", "lower percent or ahead")
                raise ValueError(
                    f"{input}: this run ends before {percent:g} of the whole schedule, so that no step is left there; {advice}."
                )
            return step

        edited = first_from(recipe.percent)
        return cls(edited, first_from(recipe.percent + recipe.ahead), min(edited, first_from(recipe.branch)))

    @property
    def pairs_at_once(self) -> bool:
        """Whether the target's code is taken where the two runs part, and is the source's still."""
        return self.parted == self.taken


@contextmanager
def same_randomness(x: Tensor) -> Iterator[None]:
    """Leaves the random state as it was, so that a run inside does not change the noise of the run after it."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        yield


def source_moments(
    inner: Callable[..., Tensor],
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    steps: Iterable[int],
    extra_args: dict[str, Any],
    tick: Callable[[Tensor], None] = lambda denoised: None,
    **options: Any,
) -> dict[int, Moment]:
    """The moments of a sampler's run at these steps. The random numbers of the run after it stay what they are."""
    with same_randomness(x), beside_the_run(model):
        return recorded(
            inner,
            model,
            x,
            sigmas,
            steps=steps,
            extra_args=extra_args,
            callback=interruptible(tick),
            disable=True,
            traits=traits_of(inner),
            **options,
        )


def target_moments(
    inner: Callable[..., Tensor],
    model: Denoiser,
    target: Conditioning,
    x: Tensor,
    sigmas: Tensor,
    *,
    parted: int,
    steps: Iterable[int],
    extra_args: dict[str, Any],
    tick: Callable[[Tensor], None] = lambda denoised: None,
    **options: Any,
) -> dict[int, Moment]:
    """The moments of a second run from the same noise at these steps.

    It is the source's run until the step parted. From there on it goes under the target prompt.
    """
    other = under_prompt(model, target, x, extra_args.get("denoise_mask"))
    switched = SwitchedDenoiser(model, other, sigmas, parted)
    return source_moments(inner, switched, x, sigmas, steps=steps, extra_args=extra_args, tick=tick, **options)


def paired(moments: dict[int, Moment], steps: Steps, sigmas: Tensor, source: Moment | None, levels: NoiseLevels) -> Pair:
    """The pair for a source that is edited at its step. Where the runs part at that very step, the pair is what both foresee there."""
    if steps.pairs_at_once:
        assert source is not None  # it was looked at for this
        return Pair.foreseen(source, moments[steps.taken], picture_share(levels, float(sigmas[steps.edited])))
    return Pair.at(moments[steps.taken], float(sigmas[steps.taken]), float(sigmas[steps.edited]))
