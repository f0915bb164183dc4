"""Guidance of a run by a picture, or by a CLIP model: what edits in h-space are compared with (Kwon et al. 2023, figure 1)."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.hspace.injection import Window
from ..core.hspace.training import difference
from ..core.latent import check_latent, is_off
from ..host.guidance import ClassifierGuidance as Classifier
from ..host.guidance import ImageGuidance as Reference
from ..host.guidance import check_vae, with_guidance
from ..host.scorer import ImageScorer, check_pair, text_embedding
from ..host.types import CLIP, VAE, ClipVisionModel, Latent, ModelPatcher
from .base import CATEGORY, checked

MASK = "Acts only where the mask is white. One for all pictures, or one for each."


def share_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    """The input for an end of the range of steps."""
    bounds: dict[str, float] = {"default": default, "min": 0.0, "max": 1.0, "step": 0.01}
    return io.Float.Input(name, **bounds, optional=True, advanced=True, tooltip=tooltip)


class ImageGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ImageGuidance",
            display_name="Image Guidance",
            category=CATEGORY,
            description="Pulls a run to a reference picture while it is drawn: its coarse shapes and colours (ILVR). A baseline for "
            "edits by meaning: it knows no words, and cannot say which part of the reference it shall take.",
            search_aliases=["ilvr", "reference", "image to image", "low frequencies", "sdedit", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that draws: UNet or transformer, with LoRAs or sliders."),
                io.Latent.Input("reference", tooltip="The picture to go to, from VAE Encode, at the size that is drawn. One, or one each."),
                io.Float.Input(
                    "strength",
                    default=0.5,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How far a step goes to the reference. 0 changes nothing at all, 1 takes it over, below 0 goes away from it.",
                ),
                io.Int.Input(
                    "downsample",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Only what is left of the reference when its latent is made smaller by this factor: more takes less of it. "
                    "1 takes all of it.",
                ),
                share_input("start_percent", 0.0, "Where in the run it starts. Later leaves the shapes to the model."),
                share_input("end_percent", 0.5, "Where in the run it ends. Later takes more of the reference."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
            ],
            outputs=[io.Model.Output("model", tooltip="The guided model, for any sampler node; the one that came in is unchanged.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        reference: Latent,
        strength: float,
        downsample: int,
        start_percent: float = 0.0,
        end_percent: float = 0.5,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        window, samples = Window(start_percent, end_percent), reference["samples"]
        check_latent(samples, "reference")
        return io.NodeOutput(with_guidance(model, Reference(samples, strength, downsample, window, mask)))


class ClassifierGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ClassifierGuidance",
            display_name="Classifier Guidance",
            category=CATEGORY,
            description="Pushes a run to what a CLIP model takes for one text rather than another, by gradients through the VAE's decoder "
            "at each step. A baseline for edits by meaning: it is slow, and may please the scorer more than the eye.",
            search_aliases=["clip guidance", "classifier guidance", "guided diffusion", "scorer", "gradient", "guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that draws: UNet or transformer, with LoRAs or sliders."),
                io.Vae.Input("vae", tooltip="The model's own VAE. Gradients pass its decoder at each step, which needs memory."),
                io.ClipVision.Input("clip_vision", tooltip="What judges: the image tower from Load CLIP Vision, or Load Demo Scorer."),
                io.Clip.Input("clip", tooltip="The text tower that belongs to clip_vision, from Load CLIP, or Load Demo Scorer."),
                io.String.Input("source_text", default="a portrait", tooltip="What the pictures show anyway, in the scorer's words."),
                io.String.Input("target_text", default="a portrait, sunglasses", tooltip="What they shall show."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-3.0,
                    max=3.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How far each step goes to the target text. 0 changes nothing at all, below 0 goes to the source text.",
                ),
                share_input("start_percent", 0.1, "Where in the run it starts. Before, what is foreseen is too blurred to be judged."),
                share_input("end_percent", 0.8, "Where in the run it ends. Later shows in the grain of the picture, not in what it shows."),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
            ],
            outputs=[io.Model.Output("model", tooltip="The guided model, for any sampler node; the one that came in is unchanged.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        vae: VAE,
        clip_vision: ClipVisionModel,
        clip: CLIP,
        source_text: str,
        target_text: str,
        strength: float,
        start_percent: float = 0.1,
        end_percent: float = 0.8,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        window = Window(start_percent, end_percent)
        if is_off(strength, mask):
            return io.NodeOutput(model)
        check_vae(vae, model)
        change = change_of(clip_vision, clip, source_text, target_text)
        return io.NodeOutput(with_guidance(model, Classifier(vae, clip_vision, change, strength, window, mask)))


def change_of(clip_vision: ClipVisionModel, clip: CLIP, source_text: str, target_text: str) -> Tensor:
    """From one text's unit embedding to another's (e,); ValueError for towers that are no pair, and for texts that say the same."""
    with torch.inference_mode(False), torch.no_grad():
        texts = [text_embedding(clip, text).clone() for text in (source_text, target_text)]
        check_pair(ImageScorer(clip_vision).embed(torch.zeros(1, 3, 64, 64)), texts[0])
        change = difference(*texts)
    if float(change.norm()) < 1e-4:
        raise ValueError("target_text: it says the same as source_text to the scorer; describe what the pictures shall show.")
    return change


NODES = [ImageGuidance, ClassifierGuidance]
