"""Checkpoints of diffusion models that draw pixels: DDPM, improved diffusion, guided diffusion (ADM, P2), diffusers' UNet2DModel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.pixel.configuration import STEPS, Reading, default_reading
from ..core.pixel.file import Checkpoint, load_checkpoint
from ..host.folders import file_names, fingerprint, path_of
from ..host.pixel_model import DTYPES, LARGEST_LABEL, conditioning_of, described, model_of, pixel_vae
from .base import CATEGORY, checked

FOLDER = "diffusion_models"  # the host's
AUTO = "auto"
EACH = " channels each"
HEADS = [AUTO, "1", "2", "4", "8", "16", f"8{EACH}", f"16{EACH}", f"32{EACH}", f"64{EACH}"]


class LoadPixelModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        how: dict[str, bool] = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="SemanticLatents_LoadPixelModel",
            display_name="Load Pixel Diffusion Model",
            category=CATEGORY,
            description="Loads a diffusion model that draws pixels without a prompt, such as those of the Asyrp paper: DDPM, improved "
            "diffusion, guided diffusion (ADM, P2) or diffusers' UNet2DModel. KSampler and every node for h-space work on it.",
            search_aliases=["ddpm", "adm", "guided diffusion", "asyrp", "p2 weighting", "unet2dmodel", "celeba", "lsun", "pixel space"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_names(FOLDER),
                    tooltip="A checkpoint in models/diffusion_models: .safetensors, .pt, .pth, .ckpt or .bin. No code in it is run.",
                ),
                io.Int.Input(
                    "label",
                    default=0,
                    min=0,
                    max=LARGEST_LABEL,
                    tooltip="The class that is drawn, by its number in the training set; only for class-conditional networks.",
                ),
                io.Combo.Input(
                    "heads",
                    options=HEADS,
                    default=AUTO,
                    **how,
                    tooltip="Heads of each attention, which the file does not tell; wrong ones draw worse pictures. auto: as the published "
                    "networks of this shape have them.",
                ),
                io.Combo.Input(
                    "attention_order",
                    options=[AUTO, "by head", "by kind"],
                    default=AUTO,
                    **how,
                    tooltip="How q, k and v lie in one weight. by kind: use_new_attention_order of guided diffusion. Files of DDPM and "
                    "diffusers have them apart.",
                ),
                io.Combo.Input(
                    "noise_schedule",
                    options=[AUTO, "linear", "cosine"],
                    default=AUTO,
                    **how,
                    tooltip="The noise schedule of its training. auto: cosine for improved diffusion with scale-shift and for ADM 64, else "
                    "linear.",
                ),
                io.Combo.Input(
                    "training_steps",
                    options=[AUTO, *map(str, STEPS)],
                    default=AUTO,
                    **how,
                    tooltip="The steps of its training, not of your runs. auto: 4000 for improved diffusion with scale-shift, else 1000.",
                ),
                io.Combo.Input(
                    "conventions",
                    options=[AUTO, "DDPM", "guided diffusion"],
                    default=AUTO,
                    **how,
                    tooltip="Group norms, time embedding and padding. auto: by the layout. guided diffusion for networks that were trained "
                    "with the defaults of diffusers' UNet2DModel.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="fp32",
                    **how,
                    tooltip="The type of its weights in memory. fp32 is what these networks were trained in; the others take half of it.",
                ),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model, for any sampler node and every node here that takes one."),
                io.Vae.Output("vae", tooltip="ComfyUI's pixel-space VAE, as this model's latents are pictures: for VAE Decode and Encode."),
                io.Conditioning.Output(
                    "conditioning", tooltip="What samplers take as positive and negative prompt: empty, or the label of a class."
                ),
                io.String.Output("info", tooltip="What the file holds and how it is read; for Preview Text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: object) -> tuple[object, ...]:
        return fingerprint(file, FOLDER)

    @classmethod
    @checked
    def execute(
        cls,
        file: str,
        label: int,
        heads: str = AUTO,
        attention_order: str = AUTO,
        noise_schedule: str = AUTO,
        training_steps: str = AUTO,
        conventions: str = AUTO,
        weight_dtype: str = "fp32",
    ) -> io.NodeOutput:
        path = path_of(file, FOLDER)
        checkpoint = load_checkpoint(path)
        conditioning = conditioning_of(checkpoint, label)
        reading = reading_of(checkpoint, heads, attention_order, noise_schedule, training_steps, conventions)
        model = model_of(checkpoint, reading, DTYPES[weight_dtype])
        return io.NodeOutput(model, pixel_vae(), conditioning, described(path, checkpoint, reading))


def reading_of(checkpoint: Checkpoint, heads: str, order: str, schedule: str, steps: str, conventions: str) -> Reading:
    """How a checkpoint is read: as its kin is published, except for what is chosen.

    Raises ValueError for an order of q, k and v that lie apart in the file.
    """
    reading = default_reading(checkpoint.configuration, checkpoint.layout)
    if order != AUTO and order != reading.order and not checkpoint.layout.joint:
        raise ValueError(
            f"attention_order: got {order!r}, but q, k and v lie apart in a file of the {checkpoint.layout.name} layout. Choose auto."
        )
    counted = {"heads": None, "head_channels": int(heads.removesuffix(EACH))} if heads.endswith(EACH) else {}
    chosen: dict[str, Any] = {
        **({} if heads == AUTO else counted or {"heads": int(heads), "head_channels": None}),
        **({} if order == AUTO else {"order": order}),
        **({} if schedule == AUTO else {"schedule": schedule}),
        **({} if steps == AUTO else {"steps": int(steps)}),
        **({} if conventions == AUTO else {"conventions": conventions}),
    }
    return replace(reading, **chosen)


NODES = [LoadPixelModel]
