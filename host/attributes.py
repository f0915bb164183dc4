"""Attributes in a run: what learns them from its running latents, and what edits these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.avi.attribute import Attribute, Mixture, OtherSize, Pair, Problem, Recipe, mean_change, scaled
from ..core.avi.network import ValueNetwork, train
from ..core.latent import masked, nearly_equal
from ..core.sampling.recording import Moment
from ..core.sampling.steering import Callback, Denoiser, sample_steered
from ..core.sampling.steps import at_or_below, first_step_from
from ..core.svd.decomposition import LatentSVD
from .denoisers import NoiseLevels, levels_of, patcher_of, picture_share, under_prompt
from .pairs import Steps, check_goes_down, kind_of, paired, source_moments, target_moments
from .progress import tell_once
from .samplers import AroundSampler, SamplerFunction, check_exposes_x_t, masks_over, traits_of
from .types import Conditioning, ModelPatcher


@dataclass(frozen=True, eq=False)
class Use:
    """How one Apply Attribute node uses its attribute: with a target prompt (paired), or with what the file holds (stored)."""

    attribute: Mixture
    strength: float
    budget: float
    target: Conditioning | None
    mask: Tensor | None


@dataclass(frozen=True)
class AttributeSampler(AroundSampler):
    """The sampler function of a KSAMPLER with attributes inside. Uses of several nodes are added up, not nested."""

    inner: SamplerFunction
    uses: tuple[Use, ...]

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        extra_args = extra_args or {}
        uses = [use for use in self.uses if use.strength != 0]
        if len(sigmas) <= 1 or not uses:
            return self.inner(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **options)
        run = Run(model, x, sigmas, dict(extra_args=extra_args, **options))
        edits = [planned for use in uses for planned in self._planned(use, run)]

        def edited(latent: Tensor, step: int) -> Tensor:
            changes = (planned.change(latent) for planned in edits if planned.steps.edited == step)
            return latent + sum(changes, start=latent.new_zeros(())).to(latent)

        return sample_steered(
            self.inner,
            model,
            x,
            sigmas,
            edit=edited,
            masks=lambda latent: masks_over(latent, None, extra_args.get("denoise_mask")),
            name="attribute",
            target="x_t",
            steps=tuple(sorted({planned.steps.edited for planned in edits})),
            traits=traits_of(self.inner),
            extra_args=extra_args,
            callback=callback,
            disable=disable,
            **options,
        )

    def _planned(self, use: Use, run: Run) -> list[PlannedEdit]:
        """The edits of a use in this run, one for each part of its attribute that has its place there."""
        check_fits(use, run)
        parts = [(attribute, weight) for attribute, weight in use.attribute.parts if in_this_run(use, attribute, run)]
        plans = [(attribute, weight, Steps.of(attribute.recipe, run.levels, run.sigmas, learned=True)) for attribute, weight in parts]
        pair_for = run.pairs(self.inner, use.target, [steps for *_, steps in plans]) if use.target is not None else lambda steps: None
        return [PlannedEdit(use, attribute, weight, steps, pair_for(steps), run.share(steps)) for attribute, weight, steps in plans]


def with_uses(function: SamplerFunction, uses: tuple[Use, ...]) -> SamplerFunction:
    """A sampler function with these uses inside, beside those that it has. Raises ValueError for one that does not expose x_t."""
    if isinstance(function, AttributeSampler):
        return replace(function, uses=(*function.uses, *uses))
    if isinstance(function, AroundSampler) and function.makes_runs:
        return function.around(with_uses(function.inner, uses))
    check_exposes_x_t(function)
    return AttributeSampler(function, uses)


@dataclass(frozen=True, eq=False)
class Run:
    """What a sampler function is called with. x: (b, ...) noise at sigmas[0]."""

    model: Denoiser
    x: Tensor
    sigmas: Tensor
    options: dict[str, Any]

    @property
    def levels(self) -> NoiseLevels:
        """The model's sampling object."""
        return levels_of(self.model)

    def share(self, steps: Steps) -> float:
        """The part of the picture that is in the latent where it is edited."""
        return picture_share(self.levels, float(self.sigmas[steps.edited]))

    def pairs(self, inner: SamplerFunction, target: Conditioning, plans: list[Steps]) -> Callable[[Steps], Pair]:
        """The pair for each plan, from runs under the target prompt, one for each place where they leave the source's."""

        def moments(parted: int) -> dict[int, Moment]:
            steps = [steps.taken for steps in plans if steps.parted == parted]
            return target_moments(inner, self.model, target, self.x, self.sigmas, parted=parted, steps=steps, **self.options)

        seen = {parted: moments(parted) for parted in {steps.parted for steps in plans}}
        at_once = {steps.edited for steps in plans if steps.pairs_at_once}
        sources = source_moments(inner, self.model, self.x, self.sigmas, steps=at_once, **self.options) if at_once else {}
        return lambda steps: paired(seen[steps.parted], steps, self.sigmas, sources.get(steps.edited), self.levels)


def check_fits(use: Use, run: Run) -> None:
    """Raise ValueError for an attribute of another kind of latents, a run that goes up, and a mask of another batch."""
    check_kind(use.attribute, patcher_of(run.model))
    check_goes_down(run.sigmas.tolist())
    masks_over(run.x, use.mask, None)


def check_kind(attribute: Mixture, model: ModelPatcher, name: str = "attribute") -> None:
    """Raise ValueError for an attribute of another kind of latents than the model's; name: its input."""
    kind = kind_of(model)
    if attribute.kind != kind:
        raise ValueError(
            f"{name}: learned on {attribute.kind}, but this model works on {kind}. Latents of different "
            "families have nothing in common; learn it again on this model, or load one that was."
        )


@dataclass(frozen=True, eq=False)
class PlannedEdit:
    """A part of an attribute in one run: when it acts, and on what evidence.

    pair: with a target prompt. share: the part of the picture that is in the latent of its step.
    """

    use: Use
    attribute: Attribute
    weight: float
    steps: Steps
    pair: Pair | None
    share: float

    def change(self, latent: Tensor) -> Tensor:
        """What is added to the latent (b, c, ..., h, w) of its step."""
        if self.pair is None:
            change = whole = self.share * stored_change(self.attribute, latent)
        else:
            change, whole = self.attribute.change(latent, self.pair), self.pair.matched - latent
        change = scaled(change, whole, strength=self.use.strength * self.weight, budget=self.use.budget * abs(self.weight))
        for mask in masks_over(latent, self.use.mask, None):
            change = masked(latent, latent + change.to(latent), mask) - latent
        return change


def stored_change(attribute: Attribute, latent: Tensor) -> Tensor:
    """What a learned attribute adds to a latent. Raises ValueError that says what to connect, for a latent of another size."""
    try:
        return attribute.stored_change(latent)
    except OtherSize as error:
        raise ValueError(f"{error} Connect a target prompt, which works at any size, or learn the attribute at this one.") from error


def in_this_run(use: Use, attribute: Attribute, run: Run) -> bool:
    """Whether an attribute has its place in a run, which may be a part of the whole. The log says so if not.

    It has none in a run that ends before its place, and none in one that starts after it with latents of another size than those whose
    change it holds, as the tiles of upscalers are.
    """
    place, other_size = attribute.recipe.percent, tuple(run.x.shape[1:]) != tuple(attribute.stored.shape[1:])
    level, sigmas = run.levels.percent_to_sigma(place), run.sigmas
    if float(sigmas[-1]) > 0 and first_step_from(sigmas.tolist(), level) is None:
        tell_once(use, f"attribute: a run ends before {place:g} of the whole schedule, where it acts, so it is not edited.")
    elif use.target is None and other_size and not at_or_below(level, float(sigmas[0])):
        tell_once(
            use, f"attribute: a run of another size than it was learned at starts after {place:g}, where it acts, so it is not edited."
        )
    else:
        return True
    return False


class Learner(AroundSampler):
    """A sampler function that draws nothing: it looks at the source's and the target's run from the same noise."""

    makes_runs = True

    def __init__(self, inner: SamplerFunction, target: Conditioning, recipe: Recipe, plan: Steps, tick: Callable[..., None]) -> None:
        self.inner, self.target, self.recipe, self.plan, self.tick = inner, target, recipe, plan, tick
        self.problems: list[Problem] = []
        self.differences: list[Tensor] = []

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        plan, extra_args = self.plan, extra_args or {}
        moments = source_moments(self.inner, model, x, sigmas, steps=(plan.edited,), extra_args=extra_args, tick=self.tick, **options)
        source = moments[plan.edited]
        target = target_moments(
            self.inner,
            model,
            self.target,
            x,
            sigmas,
            parted=plan.parted,
            steps=(plan.edited, plan.taken),
            extra_args=extra_args,
            tick=lambda denoised: self.tick(torch.cat([source.denoised, denoised])),
            **options,
        )
        if nearly_equal(target[plan.edited].denoised, source.denoised):
            raise ValueError(
                "target: it draws the same as the source; connect a prompt that differs, or lower branch, where the two runs part."
            )
        self.problems.append(Problem.of(source.x, paired(target, plan, sigmas, source, levels_of(model)), self.recipe))
        self.differences.append((target[plan.edited].denoised - source.denoised).float().cpu())
        return x

    def mean_change(self) -> LatentSVD:
        """The mean of what the target foresees more than the source, of the target's rank."""
        return mean_change(self.differences, self.recipe.ranks(self.problems[0].source.matrix)[1])

    def solved(self, solver: str, steps: int, seed: int) -> Solved:
        """What the solver makes of the pairs. steps, seed: of the network's training."""
        before, after = [p.both.S.to(p.loss.A) for p in self.problems], [p.loss.solution() for p in self.problems]
        reached = {"concatenation": self._mean_loss(before), "exact": self._mean_loss(after)}
        if solver == "exact":
            optima = [float(p.loss(S).sum() / p.loss.c.sum()) for p, S in zip(self.problems, after, strict=True)]
            return Solved(None, [reached["concatenation"], *optima], reached)
        network, curve = train(
            [p.both.S for p in self.problems],
            [p.loss for p in self.problems],
            [p.both.shape for p in self.problems],
            steps=steps,
            seed=seed,
            on_step=lambda loss: self.tick(),
        )
        return Solved(network, curve, {**reached, "MLP": self._mean_loss([p.values(network) for p in self.problems])})

    def _mean_loss(self, values: list[Tensor]) -> float:
        """The mean loss of singular values for all pairs, as a share of that of no latent."""
        total = sum(float(p.loss.c.sum()) for p in self.problems)
        return sum(float(p.loss(S).sum()) for p, S in zip(self.problems, values, strict=True)) / total


class Solved(NamedTuple):
    """The network, if the solver is one; the losses for a plot; the mean losses reached, as a share of that of no latent."""

    network: ValueNetwork | None
    losses: list[float]
    reached: dict[str, float]


@dataclass(frozen=True)
class OnlyTarget(AroundSampler):
    """A sampler function that draws under the target prompt."""

    inner: SamplerFunction
    target: Conditioning

    makes_runs = True

    def __call__(self, model: Denoiser, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None, **options: Any) -> Tensor:
        other = under_prompt(model, self.target, x, (extra_args or {}).get("denoise_mask"))
        return self.inner(other, x, sigmas, extra_args=extra_args, **options)
