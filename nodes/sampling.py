"""Nodes of sampling: latent operations inside a sampler, DDIM with quality boosting, and the inversion of a given picture."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.sampling.steering import Target
from ..host.carried import check_carries_none
from ..host.denoisers import picture_share
from ..host.edits import check_no_asymmetric_edit
from ..host.inversion import AlongPath, Inversion, InvertedNoise, check_schedule
from ..host.runs import fitted, guided, run
from ..host.samplers import DDIM, EditedSampler, check_target, inner_function, sampler_of, with_function
from ..host.types import KSAMPLER, Conditioning, Latent, ModelPatcher
from ..host.unedited import in_one_pass
from .base import CATEGORY, checked


class EditDuringSampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_EditDuringSampling",
            display_name="Edit During Sampling",
            category=CATEGORY,
            description="Changes the picture while it is being drawn: runs a latent operation inside the sampler, at one "
            "step or over a range, everywhere or under a mask. The seed's composition stays.",
            search_aliases=["latent operation", "svd sampling", "sampler wrapper", "slider", "edit sampler"],
            inputs=[
                io.Sampler.Input(
                    "sampler",
                    tooltip="The sampler to edit inside of, from KSamplerSelect or another sampler node; several edits can be chained.",
                ),
                io.LatentOperation.Input(
                    "operation", tooltip="What to do to the latent: Spectrum Operation, or any other latent operation."
                ),
                io.Combo.Input(
                    "target",
                    options=["x0", "x_t"],
                    default="x0",
                    tooltip="What is edited. x0: the finished picture that the model foresees at a step; gentle, works with "
                    "every sampler. x_t: the noisy latent itself, as in the paper; the later steps can repair it.",
                ),
                io.Combo.Input(
                    "steps",
                    options=["all in range", "first in range"],
                    default="all in range",
                    tooltip="Edits every step of the range, or only the first of them. Editing all is stronger.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where the range starts: 0 is the first step (layout, large shapes), towards 1 only detail is left.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Where the range ends: 1 is the last step. Leave the last steps free to clean up.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Edits only where the mask is white; grey edits in part. It is resized to the latent. "
                    "One mask for all pictures, or one for each.",
                ),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced, or another Edit During Sampling.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        sampler: KSAMPLER,
        operation: io.LatentOperation.Type,
        target: Target,
        steps: str,
        start_percent: float,
        end_percent: float,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        inner = inner_function(sampler)
        if start_percent > end_percent:
            raise ValueError(f"start_percent: got {start_percent}, which is after end_percent {end_percent}; exchange them.")
        edited = EditedSampler(inner, operation, target, steps == "first in range", start_percent, end_percent, mask)
        check_target(target, inner)
        return io.NodeOutput(with_function(sampler, edited))


class DDIMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_DDIMSampler",
            display_name="DDIM Sampler",
            category=CATEGORY,
            description="DDIM with an adjustable share of fresh noise, and fresh noise at the end of the run only, which sharpens edited "
            "pictures (quality boosting). Equals the host's ddim as it stands.",
            search_aliases=["ddim", "eta", "asyrp", "quality boosting", "stochastic", "sampler"],
            inputs=[
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of fresh noise in every step: 0 is deterministic, 1 is ancestral.",
                ),
                io.Float.Input(
                    "boost_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="From this part of the run on, the paper's t_boost, every step takes fresh noise (eta 1): 0.8 is a good "
                    "start, 1 turns it off.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced; takes asymmetric edits of Apply Direction."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, eta: float, boost_percent: float) -> io.NodeOutput:
        return io.NodeOutput(sampler_of(DDIM(eta, boost_percent)))


class Invert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_Invert",
            display_name="Invert",
            category=CATEGORY,
            description="Finds the noise from which a real picture would be drawn, so that it can be edited like a generated one.",
            search_aliases=["inversion", "ddim inversion", "noise inversion", "unsampler", "real image", "edit photo", "noise"],
            inputs=[
                io.Model.Input("model", tooltip="The model that you will draw with, without edits."),
                io.Conditioning.Input("positive", tooltip="A prompt that describes the picture; use the same one for drawing it again."),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.Sigmas.Input(
                    "sigmas", tooltip="From BasicScheduler, down to 0; use the same ones for drawing. More steps invert more exactly."
                ),
                io.Int.Input(
                    "refinements",
                    default=5,
                    min=0,
                    max=100,
                    tooltip="How often each step is corrected at most; 0 is plain DDIM inversion. Each costs one more model call.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.0001,
                    min=0.0,
                    max=0.1,
                    step=0.00001,
                    round=0.0000001,
                    tooltip="A step is done when a correction changes less than this, in units of the noise.",
                ),
            ],
            outputs=[
                io.Noise.Output(
                    "noise", tooltip="For SamplerCustomAdvanced, with the same sigmas and the latent that came in or an empty one."
                ),
                io.Latent.Output(
                    "latent",
                    tooltip="The same as a noisy latent, for KSampler (Advanced) with add_noise disabled; a flow model (SD3, "
                    "Flux) takes it only from below its highest noise level.",
                ),
                io.Sampler.Output(
                    "exact",
                    tooltip="A sampler that returns to the picture exactly as long as nothing is edited; same sigmas, same prompt, cfg 1.",
                ),
                io.Float.Output(
                    "error",
                    tooltip="Root mean square difference of the picture drawn again by plain ddim, in units of the latent's own deviation.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model: ModelPatcher, positive: Conditioning, latent: Latent, sigmas: Tensor, refinements: int, tolerance: float
    ) -> io.NodeOutput:
        check_schedule(sigmas)
        check_no_asymmetric_edit(model, "which has no way back")
        check_carries_none(model, "which has no way back")
        latent = fitted(model, latent)
        inverse = Inversion(refinements, tolerance)
        samples = latent["samples"]
        back = run(guided(in_one_pass(model), {"positive": positive}), torch.zeros_like(samples), inverse, sigmas, latent=samples)
        levels, latent_format = model.get_model_object("model_sampling"), model.get_model_object("latent_format")
        start, clean = inverse.path.trajectory[0].cpu(), inverse.path.trajectory[-1].cpu()
        noise = InvertedNoise(start, float(sigmas[0]), levels, latent_format, latent)
        exact = sampler_of(AlongPath(inverse.path.to(start), tuple(sigmas.tolist())))
        drawn = latent_format.process_in(back.cpu())
        error = (drawn - clean).square().mean().sqrt() / clean.std().clamp(min=1e-12)
        noisy = start / (picture_share(levels, float(sigmas[0])) or 1.0)
        return io.NodeOutput(noise, {**latent, "samples": latent_format.process_out(noisy)}, exact, float(error))


NODES = [EditDuringSampling, DDIMSampler, Invert]
