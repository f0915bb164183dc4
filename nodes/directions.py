"""Directions in h-space in a graph: find them, mix them, apply them (Kwon et al. 2023, arXiv 2210.10960; Haas et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.hspace.direction import Direction
from ..core.hspace.discovery import Means, aligned, principal_components
from ..core.hspace.injection import Window
from ..core.hspace.trained import AnyDirection, Form, in_form, mixed
from ..core.latent import nearly_equal
from ..core.pictures.figures import explained_variance_figure, singular_values_figure
from ..host.edits import Branch, HEdit, with_edit
from ..host.families import check_fits, check_reads_prompts, family_of
from ..host.jacobians import Method, sensitive_directions
from ..host.provenance import HIDDEN, prompt_notes
from ..host.runs import checked_latent
from ..host.types import Conditioning, Latent, ModelPatcher
from ..host.watching import SOURCE, TARGET, check_whole, watched_runs
from .base import CATEGORY, DIRECTION, checked, seed_input


def run_inputs(what: str) -> list[io.Input]:
    """The inputs of a node that samples pictures in order to look at h."""
    return [
        io.Latent.Input("latent", tooltip="An Empty Latent Image of the size that you will edit; only its size matters."),
        io.Int.Input(
            "images", default=16, min=1, max=1024, tooltip=f"How many pictures {what}. More give a cleaner direction and take longer."
        ),
        io.Int.Input(
            "batch_size",
            default=8,
            min=1,
            max=64,
            tooltip="How many of them at a time; lower it when memory runs out. The result is the same.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=2,
            max=200,
            tooltip="Steps of each run, and noise levels of the direction. Applying it works with any other number of steps.",
        ),
        io.Float.Input(
            "cfg", default=3.0, min=1.0, max=30.0, step=0.1, tooltip="Guidance of these runs; what you will sample with is a good choice."
        ),
        seed_input("The first seed; the pictures take the seeds from here up."),
    ]


class DirectionFromPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_DirectionFromPrompts",
            display_name="Direction From Prompts",
            category=CATEGORY,
            description="Finds the direction of an attribute from two prompts, without training: how the inside of the UNet "
            "changes when the second prompt is read instead of the first. On Portrait, whose prompt enters at every level as in "
            "SD 1.x, SD 2.x and SDXL, such directions showed no effect: take Make Slider there.",
            hidden=[*HIDDEN],
            search_aliases=["h-space", "concept slider", "attribute", "smile", "semantic direction", "prompt contrast"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x, SDXL or Portrait; the direction fits this family only."),
                io.Conditioning.Input("source", tooltip="The prompt without the attribute: a portrait."),
                io.Conditioning.Input("target", tooltip="The prompt with it: a portrait, smiling."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of these runs; an empty one will do."),
                *run_inputs("are drawn to find it"),
            ],
            outputs=[DIRECTION.Output("direction", tooltip="For Apply Direction; strength 1 is the whole change between the two prompts.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        source: Conditioning,
        target: Conditioning,
        negative: Conditioning,
        latent: Latent,
        images: int,
        batch_size: int,
        steps: int,
        cfg: float,
        seed: int,
    ) -> io.NodeOutput:
        check_whole(source=source, target=target, negative=negative)
        check_reads_prompts(model, "source, target", "Use Discover Directions, or Train Direction with objective CLIP directional.")
        prompts, family, means = {"positive": source, "negative": negative, "target": target}, family_of(model), Means()
        runs = watched_runs(model, prompts, cfg, checked_latent(model, latent), steps=steps, seed=seed, count=images, batch=batch_size)
        moves = False
        for sigma, h in runs:
            moves = moves or not nearly_equal(h[TARGET], h[SOURCE])
            means.add(sigma, h[TARGET] - h[SOURCE])
        shifts, sigmas = means.result()
        if not moves:
            raise ValueError("target: it moves nothing inside the UNet; connect a prompt that differs from the source.")
        notes = {**prompt_notes(cls, "source", "target"), "images": str(images), "steps": str(steps), "seed": str(seed)}
        return io.NodeOutput(Direction(shifts, sigmas, family, "prompt contrast", notes))


class DiscoverDirections(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_DiscoverDirections",
            display_name="Discover Directions",
            category=CATEGORY,
            description="Finds the directions in which the pictures of a prompt differ most from each other, without being told "
            "what to look for. Everything after it runs once for each direction.",
            search_aliases=["h-space", "pca", "unsupervised", "ganspace", "principal components", "semantic direction"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x, SDXL or Portrait; the directions fit this family only."),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt whose pictures are compared; the directions are what it leaves open."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt of these runs; an empty one will do."),
                io.Combo.Input(
                    "method",
                    options=["PCA", "Jacobian", "pullback"],
                    default="PCA",
                    tooltip="PCA: how many pictures differ from each other. Jacobian: what changes one picture, that of the first "
                    "seed, most at one step. pullback: what a small change of the noisy latent changes most inside the UNet.",
                ),
                *run_inputs("are compared"),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="How many directions, the one that explains most first; for PCA fewer than images.",
                ),
                io.Float.Input(
                    "percent",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Jacobian and pullback: the part of the run at which they look; 0.2 to 0.5 for shapes.",
                ),
                io.Int.Input(
                    "iterations",
                    default=8,
                    min=1,
                    max=100,
                    tooltip="Jacobian and pullback: rounds of power iteration; more are more exact.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Jacobian and pullback: what may change. Directions that change the rest are left out."
                ),
            ],
            outputs=[
                DIRECTION.Output(
                    "directions",
                    is_output_list=True,
                    tooltip="The directions one by one. Strength 1 is one standard deviation for PCA, "
                    "a tenth of the size of the UNet's inner values for the other methods.",
                ),
                io.String.Output(
                    "labels",
                    is_output_list=True,
                    tooltip="Their numbers with the share of the variance, or the singular value, for Labelled Grid.",
                ),
                io.Image.Output(
                    "picture", tooltip="PCA: the share of the variance that each explains, over the run. Else: the singular values."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        method: Literal["PCA"] | Method,
        latent: Latent,
        images: int,
        batch_size: int,
        steps: int,
        cfg: float,
        seed: int,
        count: int,
        percent: float,
        iterations: int,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        check_whole(positive=positive, negative=negative)
        prompts, empty = {"positive": positive, "negative": negative}, checked_latent(model, latent)
        notes = {"steps": str(steps), "seed": str(seed)}
        if method == "PCA":
            if mask is not None:
                raise ValueError("mask: PCA compares whole pictures; disconnect it, or choose Jacobian or pullback.")
            runs = watched_runs(model, prompts, cfg, empty, steps=steps, seed=seed, count=images, batch=batch_size)
            per_level, shares, sigmas = components_of(runs, images, count)
            picture, notes = explained_variance_figure(shares, sigmas), {**notes, "images": str(images)}
            labels = [f"{i + 1} ({share:.0%})" for i, share in enumerate(shares.mean(0).tolist())]
        else:
            shifts, values, sigma = sensitive_directions(
                model,
                prompts,
                cfg,
                empty,
                method=method,
                percent=percent,
                count=count,
                iterations=iterations,
                steps=steps,
                seed=seed,
                mask=mask,
            )
            per_level, sigmas, notes = shifts[None], (sigma,), {**notes, "percent": str(percent)}
            picture, labels = singular_values_figure(values), [f"{i + 1} ({value:.3g})" for i, value in enumerate(values.tolist())]
        family = family_of(model)
        directions = [
            Direction(shifts.contiguous(), sigmas, family, method, {**notes, "number": str(i + 1)})
            for i, shifts in enumerate(per_level.unbind(1))
        ]
        return io.NodeOutput(directions, labels, picture, ui=ui.PreviewImage(picture, cls=cls))


def components_of(runs: Iterable[tuple[float, dict[int, Tensor]]], images: int, count: int) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Principal components of h (levels, count, c, h, w) over runs, their shares (levels, count), and the noise levels.

    Raises ValueError, before anything is drawn, for too few images.
    """
    if images <= count:
        raise ValueError(f"images: {images} are too few for {count} directions; sample more images than directions.")
    seen: dict[float, list[Tensor]] = {}
    for sigma, h in runs:
        seen.setdefault(sigma, []).append(h[SOURCE].half())
    sigmas = tuple(sorted(seen, reverse=True))
    found = [principal_components(torch.cat(seen.pop(sigma)).float(), count) for sigma in sigmas]
    per_level = torch.stack(aligned([components for components, _ in found]))
    shares = per_level.flatten(2).square().sum(2) / torch.tensor([[max(total, 1e-30)] for _, total in found])
    order = shares.mean(0).argsort(descending=True)  # followed over the run, a direction may have changed its rank
    return per_level[:, order], shares[:, order], sigmas


class ApplyDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ApplyDirection",
            display_name="Apply Direction",
            category=CATEGORY,
            description="Changes one attribute of what the model draws: moves the inside of its UNet along a direction. The seed, "
            "the prompt and the rest of the picture stay. Several can be stacked.",
            search_aliases=["h-space", "asyrp", "slider", "attribute", "smile", "edit", "semantic edit"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; of the family that the direction was found on."),
                DIRECTION.Input(
                    "direction",
                    tooltip="From Direction From Prompts, Discover Directions, Train Direction, Combine Directions or Load Direction.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-100.0,
                    max=100.0,
                    step=0.05,
                    tooltip="The slider. 0 changes nothing at all, more is stronger, below 0 does the opposite.",
                ),
                io.Float.Input(
                    "start_percent", default=0.0, min=0.0, max=1.0, step=0.001, tooltip="Where the edit starts: 0 is the first step."
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where it ends, the paper's t_edit, which Editing Schedule measures; the last part of a run draws detail only.",
                ),
                io.Float.Input(
                    "ramp",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.001,
                    tooltip="Fades the edit in and out over this part of the run, at both ends.",
                ),
                io.Combo.Input(
                    "branch",
                    options=["both", "conditional", "unconditional"],
                    default="both",
                    tooltip="Which half of the guided prediction moves. both: gentler, and keeps more of the picture. "
                    "conditional: strength "
                    "1 is about what the prompt itself would do. unconditional: the opposite. At cfg 1 only the conditional half exists.",
                ),
                io.Boolean.Input(
                    "asymmetric",
                    default=False,
                    tooltip="The paper's asymmetric process: only the foreseen picture moves, not the noise "
                    "that is put back. Costs half as much again; for euler, ddim and DDIM Sampler.",
                ),
                io.Boolean.Input(
                    "keep_norm", default=False, tooltip="Keeps the overall size of the UNet's inner values, so that strong edits burn less."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Edits only where the mask is white; coarse, as the inside of the UNet is small. "
                    "One for all pictures, or one for each.",
                ),
                io.Combo.Input(
                    "form",
                    options=["full", "mean", "global"],
                    default="full",
                    optional=True,
                    tooltip="Trained directions: full looks at each picture; mean is the "
                    "same for all pictures at a noise level; global is the same at all noise levels, too, for any direction. "
                    "Asyrp's blocks have full alone.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The patched model, for any sampler node; the model that came in is unchanged.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        direction: AnyDirection,
        strength: float,
        start_percent: float,
        end_percent: float,
        ramp: float,
        branch: Branch,
        asymmetric: bool,
        keep_norm: bool,
        mask: Tensor | None = None,
        form: Form = "full",
    ) -> io.NodeOutput:
        check_fits(model, direction, "direction")
        edit = HEdit(in_form(direction, form), strength, Window(start_percent, end_percent, ramp), branch, asymmetric, keep_norm, mask)
        return io.NodeOutput(model if strength == 0 else with_edit(model, edit))


class CombineDirections(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_CombineDirections",
            display_name="Combine Directions",
            category=CATEGORY,
            description="Mixes two directions into one, each with its weight; for more than two, chain it.",
            search_aliases=["h-space", "mix", "add", "subtract", "orthogonal", "disentangle"],
            inputs=[
                DIRECTION.Input("first", tooltip="The direction that stays as it is."),
                DIRECTION.Input("second", tooltip="The direction that is added to it; of the same model family."),
                io.Float.Input(
                    "first_weight",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much of the first; below 0 for its opposite, 0 for none.",
                ),
                io.Float.Input(
                    "second_weight",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much of the second; below 0 for its opposite, 0 for none.",
                ),
                io.Boolean.Input(
                    "orthogonalise",
                    default=False,
                    tooltip="Takes from the second what it shares with the first, so that it changes only "
                    "what the first leaves alone. With first_weight 0: the second, cleaned of the first.",
                ),
                io.Boolean.Input(
                    "keep_size",
                    default=False,
                    tooltip="Divides by the square root of the number of directions, so that a mix is about as strong as each alone; in a "
                    "chain, where it is on in each, all weigh alike.",
                ),
                io.Boolean.Input(
                    "average_over_time", default=False, tooltip="Uses one and the same change at every noise level, the mean over all."
                ),
            ],
            outputs=[DIRECTION.Output("direction", tooltip="The mix, a direction as any other.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        first: AnyDirection,
        second: AnyDirection,
        first_weight: float,
        second_weight: float,
        orthogonalise: bool,
        keep_size: bool,
        average_over_time: bool,
    ) -> io.NodeOutput:
        mix = mixed([first, second], [first_weight, second_weight], orthogonalise=orthogonalise, keep_size=keep_size)
        return io.NodeOutput(in_form(mix, "global" if average_over_time else "full"))


NODES = [DirectionFromPrompts, DiscoverDirections, ApplyDirection, CombineDirections]
