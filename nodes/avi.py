"""Attributes learned from one pair of prompts (AVI, Wang et al. 2025, arXiv 2502.02225): learn, apply, mix."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.avi.attribute import Attribute, Mixture, Recipe
from ..core.avi.integration import LossWeights
from ..core.pictures.sheet import labelled_grid
from ..host.attributes import Learner, OnlyTarget, Use, with_uses
from ..host.carried import with_use
from ..host.families import check_reads_prompts
from ..host.pairs import Steps, kind_of
from ..host.progress import Bar
from ..host.provenance import HIDDEN, prompt_notes
from ..host.runs import PreviewedRuns, empty_latent, guided
from ..host.samplers import exposing_function, with_function
from ..host.seeds import seeds_from
from ..host.types import KSAMPLER, VAE, Conditioning, Latent, ModelPatcher
from ..host.unedited import in_one_pass
from .base import ATTRIBUTE, CATEGORY, checked, seed_input


class TrainAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        weight = dict(default=0.0, min=0.0, max=100.0, step=0.01)
        return io.Schema(
            node_id="SemanticLatents_TrainAttribute",
            display_name="Train Attribute",
            category=CATEGORY,
            description="Learns an attribute from a prompt without it and one with it: two runs from the same noise, whose noisy "
            "latents are taken apart and put together (attribute vector integration, AVI). Seconds, not minutes.",
            hidden=[*HIDDEN],
            search_aliases=["avi", "concept slider", "learn attribute", "svd attribute", "attribute vector integration", "smile"],
            inputs=[
                io.Model.Input("model", tooltip="Any model; the attribute then fits models with the same kind of latents."),
                io.Conditioning.Input("source", tooltip="The prompt without the attribute, saying nothing about it: a portrait."),
                io.Conditioning.Input("target", tooltip="The same prompt with the attribute: a portrait, beard."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of both runs; an empty one will do."),
                io.Vae.Input("vae", tooltip="For the preview of source, target and edited picture."),
                io.Sampler.Input("sampler", tooltip="The sampler that you will draw with, from KSamplerSelect."),
                io.Sigmas.Input("sigmas", tooltip="The steps that you will draw with, from BasicScheduler."),
                io.Latent.Input("latent", tooltip="An Empty Latent Image of the size that you will draw; only its size matters."),
                io.Float.Input(
                    "cfg", default=3.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance of the runs, as you will draw with."
                ),
                seed_input("The first seed; further ones follow it."),
                io.Int.Input(
                    "seeds",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="How many pairs to learn from. One is enough for use with a target prompt; "
                    "more make the stored form and the network less bound to one picture.",
                ),
                io.Float.Input(
                    "percent",
                    default=0.7,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="T_x, the part of the run at which the latent will be edited. "
                    "Later keeps more of the picture's layout; too late changes little.",
                ),
                io.Float.Input(
                    "ahead",
                    default=0.0,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    tooltip="dtau, how much further denoised the target's latent is taken than the source's.",
                ),
                io.Float.Input(
                    "branch",
                    default=0.25,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="The part of the run at which the target's run leaves the "
                    "source's. 0: from the same noise only, as in the paper. Later keeps more of the picture; too late shows no attribute.",
                ),
                io.Int.Input(
                    "source_rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="m, how many leading triplets of the source take part in each channel; 0 for a fifth of them.",
                ),
                io.Int.Input(
                    "target_rank",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="n, how many of the target; fewer carry over broad changes only. 0 for a fifth.",
                ),
                io.Combo.Input(
                    "solver",
                    options=["exact", "MLP"],
                    default="exact",
                    tooltip="exact: the best singular values for each pair, in milliseconds. "
                    "MLP: the paper's small network, trained on the pairs.",
                ),
                io.Float.Input(
                    "target_weight",
                    **{**weight, "default": 1.0},
                    tooltip="Pull of the edited latent to the target's; 0 shows no attribute.",
                ),
                io.Float.Input(
                    "source_weight", **{**weight, "default": 0.25}, tooltip="Pull to the source's latent; more keeps more and shows less."
                ),
                io.Float.Input("target_values_weight", **weight, tooltip="Keeps the target's singular values near what they were."),
                io.Float.Input("source_values_weight", **weight, tooltip="Keeps the source's singular values near what they were."),
                io.Boolean.Input(
                    "residual",
                    default=True,
                    tooltip="Carries over what the source's triplets leave out, its fine detail. Off: the paper's form.",
                ),
                io.Int.Input("steps", default=60, min=1, max=10000, tooltip="MLP: training steps."),
            ],
            outputs=[
                ATTRIBUTE.Output("attribute", tooltip="For Apply Attribute and Save Attribute."),
                io.Custom("LOSS_MAP").Output(
                    "loss", tooltip="For Plot Loss Graph: exact, the mean before, then each pair's optimum; MLP, each training step."
                ),
                io.Image.Output("picture", tooltip="Source, target and edited picture of the first seed."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        source: Conditioning,
        target: Conditioning,
        negative: Conditioning,
        vae: VAE,
        sampler: KSAMPLER,
        sigmas: Tensor,
        latent: Latent,
        cfg: float,
        seed: int,
        seeds: int,
        percent: float,
        ahead: float,
        branch: float,
        source_rank: int,
        target_rank: int,
        solver: str,
        target_weight: float,
        source_weight: float,
        target_values_weight: float,
        source_values_weight: float,
        residual: bool,
        steps: int,
    ) -> io.NodeOutput:
        check_reads_prompts(model, "source, target", "Attributes are learned from two prompts; on this model use directions.")
        weights = LossWeights(target_weight, source_weight, target_values_weight, source_values_weight)
        recipe = Recipe(percent, ahead, branch, source_rank, target_rank, weights, residual)
        inner, whole, numbers = exposing_function(sampler), len(sigmas) - 1, seeds_from(seed, seeds)
        guider = guided(in_one_pass(model), {"positive": source, "negative": negative}, cfg)
        plan = Steps.of(recipe, model.get_model_object("model_sampling"), sigmas)
        bar = Bar(seeds * (plan.edited + plan.taken) + (steps if solver == "MLP" else 0) + 3 * whole, model)
        runs = PreviewedRuns(guider, sampler, sigmas, empty_latent(model, latent), bar)
        learner = Learner(inner, target, recipe, plan, bar.tick)
        for one in numbers:
            runs.draw(learner, one)
        about = dict(seeds=f"{numbers[0]} to {numbers[-1]}", cfg=f"{cfg:g}", steps=str(whole), solver=solver)
        notes = {**prompt_notes(cls, "source", "target"), **about}
        network, losses, reached = learner.solved(solver, steps, numbers[0])
        learned = Attribute(recipe, learner.mean_change(), kind_of(model), network, reached, notes)
        attribute = Mixture(((learned, 1.0),))
        edited = with_uses(inner, (Use(attribute, 1.0, 0.0, target, None),))
        drawn = [runs.draw(function, numbers[0]) for function in (inner, OnlyTarget(inner, target), edited)]
        picture = bar.end(labelled_grid([first_picture(vae.decode(x)) for x in drawn], ["source", "target", "edited"]))
        return io.NodeOutput(attribute, {"loss": losses}, picture, ui=ui.PreviewImage(picture, cls=cls))


def first_picture(pictures: Tensor) -> Tensor:
    """The first picture (h, w, c) of a batch, of a video's first frame."""
    return pictures[(0,) * (pictures.ndim - 3)]


class ApplyAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ApplyAttribute",
            display_name="Apply Attribute",
            category=CATEGORY,
            description="The slider of a learned attribute: edits the noisy latent once, inside the sampler, and lets the run go on under "
            "its own prompt. Strength 0 changes nothing at all. Several can be chained.",
            search_aliases=["avi", "slider", "attribute", "concept slider", "svd", "smile"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="The sampler to edit inside of, from KSamplerSelect or another Apply Attribute."),
                ATTRIBUTE.Input("attribute", tooltip="From Train Attribute, Load Attribute or Mix Attributes."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the attribute: 0 none, 1 as learned, above 1 exaggerates, below 0 does the opposite.",
                ),
                io.Float.Input(
                    "budget",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Above 0: the size of the edit as a share of the way to the target, "
                    "the same for every picture, in place of the strength, of which only the sign counts then.",
                ),
                io.Conditioning.Input(
                    "target",
                    optional=True,
                    tooltip="The prompt with the attribute, in the words of this picture's own prompt. It is run too, "
                    "so that the edit fits the new picture. Empty: the mean change of the seeds that it was learned on, which "
                    "costs no second run.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Edits only where the mask is white; grey edits in part."),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced, or another Apply Attribute.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        sampler: KSAMPLER,
        attribute: Mixture,
        strength: float,
        budget: float,
        target: Conditioning | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        use = Use(attribute, strength, budget, target, mask)
        return io.NodeOutput(with_function(sampler, with_uses(exposing_function(sampler), (use,))))


class ApplyAttributeToModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ApplyAttributeToModel",
            display_name="Apply Attribute to Model",
            category=CATEGORY,
            description="The slider of a learned attribute on the MODEL, so that KSampler serves: does what Apply Attribute does, "
            "bit for bit. Strength 0 changes nothing at all. Several can be chained, with LoRAs and other sliders.",
            search_aliases=["avi", "slider", "attribute", "concept slider", "svd", "smile", "ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="Any model with the kind of latents that the attribute was learned on."),
                ATTRIBUTE.Input("attribute", tooltip="From Train Attribute, Load Attribute or Mix Attributes."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How much of the attribute: 0 none, 1 as learned, above 1 exaggerates, below 0 does the opposite.",
                ),
                io.Conditioning.Input(
                    "target",
                    optional=True,
                    tooltip="The prompt with the attribute, in the words of this picture's own prompt. It is run too, so that the edit "
                    "fits the new picture. Empty: the mean change of the seeds that it was learned on, which costs no second run.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Edits only where the mask is white; grey edits in part."),
                io.Float.Input(
                    "budget",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Above 0: the size of the edit as a share of the way to the target, the same for every picture, in place of "
                    "the strength, of which only the sign counts then.",
                ),
            ],
            outputs=[io.Model.Output("model", tooltip="The model with the attribute, for KSampler and every other sampler node.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        attribute: Mixture,
        strength: float,
        target: Conditioning | None = None,
        mask: Tensor | None = None,
        budget: float = 0.0,
    ) -> io.NodeOutput:
        return io.NodeOutput(with_use(model, Use(attribute, strength, budget, target, mask)))


class MixAttributes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        weight = dict(default=1.0, min=-10.0, max=10.0, step=0.01)
        return io.Schema(
            node_id="SemanticLatents_MixAttributes",
            display_name="Mix Attributes",
            category=CATEGORY,
            description="Two attributes in one, each with its weight, for one slider or one file. Their edits are added up.",
            search_aliases=["avi", "combine attributes", "merge sliders", "blend"],
            inputs=[
                ATTRIBUTE.Input("first", tooltip="An attribute, or a mix."),
                ATTRIBUTE.Input("second", tooltip="Another one of the same kind of latents."),
                io.Float.Input("first_weight", **weight, tooltip="How much of the first; below 0 its opposite."),
                io.Float.Input("second_weight", **weight, tooltip="How much of the second; below 0 its opposite."),
            ],
            outputs=[ATTRIBUTE.Output("attribute", tooltip="For Apply Attribute, Save Attribute or another mix.")],
        )

    @classmethod
    @checked
    def execute(cls, first: Mixture, second: Mixture, first_weight: float, second_weight: float) -> io.NodeOutput:
        parts = [(part, weight * own) for mix, weight in ((first, first_weight), (second, second_weight)) for part, own in mix.parts]
        return io.NodeOutput(Mixture(tuple(parts)))


NODES = [TrainAttribute, ApplyAttribute, ApplyAttributeToModel, MixAttributes]
