"""When to edit and when to add noise, measured on a few pictures of a model (Kwon et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.hspace.phases import BOOST_AT, EDIT_AT, Phases
from ..core.pictures.channels import as_rgb
from ..core.pictures.distances import feature_distance, rms, structural_distance
from ..core.pictures.figures import schedule_figure
from ..host.denoisers import percent_of
from ..host.families import unet_of
from ..host.inversion import inverted
from ..host.progress import Bar
from ..host.runs import euler, guided, noise_for, run, schedule
from ..host.scorer import ImageScorer, text_embedding
from ..host.types import CLIP, VAE, CFGGuider, ClipVisionModel, Conditioning, Latent, ModelPatcher
from .base import CATEGORY, checked, seed_input

Distance = Callable[[Tensor, Tensor], Tensor]


class EditingSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_EditingSchedule",
            display_name="Editing Schedule",
            category=CATEGORY,
            description="Measures on a few pictures until when an edit has to act (editing strength, t_edit), and from when on fresh "
            "noise only sharpens (quality deficiency, t_boost), and draws both curves.",
            search_aliases=["asyrp", "t_edit", "t_boost", "quality boosting", "editing strength", "h-space"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x, SDXL or Portrait, without edits."),
                io.Conditioning.Input("positive", tooltip="The prompt without the attribute."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of the runs; an empty one will do."),
                io.Vae.Input("vae", tooltip="Turns what the model foresees into pictures, which are compared."),
                io.Latent.Input("latent", tooltip="An Empty Latent Image of the size that you will edit; only its size matters."),
                io.Combo.Input(
                    "distance",
                    options=["SSIM", "RMS", "CLIP vision"],
                    default="SSIM",
                    tooltip="How pictures are compared. SSIM: structure at all "
                    "scales. RMS: pixels. CLIP vision: what a CLIP model sees; needs clip_vision.",
                ),
                io.Int.Input(
                    "images", default=8, min=1, max=256, tooltip="How many pictures are drawn and measured, if pictures is not connected."
                ),
                io.Int.Input("steps", default=20, min=4, max=200, tooltip="Steps of each run, which are the points of the curves."),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance of the runs, as you will draw with; 1 for given pictures.",
                ),
                seed_input("The first seed; the pictures take the seeds from here up."),
                io.Float.Input(
                    "edit_threshold",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    tooltip="Sets t_edit, by editing strength: the edit acts for as long as the foreseen picture is this far "
                    "from the finished one. Lower edits longer; 0 for this pack's own.",
                ),
                io.Float.Input(
                    "boost_threshold",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.001,
                    tooltip="Sets t_boost, by quality deficiency: fresh noise from where the noisy picture is nearer than this "
                    "to the finished one. Lower boosts less; 0 for this pack's own.",
                ),
                io.String.Input("source_text", default="a portrait", tooltip="With clip: what the pictures show."),
                io.String.Input(
                    "target_text",
                    default="a portrait, smiling",
                    tooltip="With clip: what the edit shall show. The farther from source_text, the longer the edit acts.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="Scales edit_threshold by the likeness of the two texts, as in the paper."),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="For the distance CLIP vision: Load CLIP Vision, or Load Demo Scorer."
                ),
                io.Latent.Input(
                    "pictures", optional=True, tooltip="Given pictures, from VAE Encode, in place of drawn ones. They are inverted first."
                ),
            ],
            outputs=[
                io.Float.Output("start_percent", tooltip="For Apply Direction: 0, the first step."),
                io.Float.Output("end_percent", tooltip="For Apply Direction: where the edit ends (t_edit)."),
                io.Float.Output("boost_percent", tooltip="For DDIM Sampler: from where on every step takes fresh noise (t_boost)."),
                io.Image.Output("picture", tooltip="Both distances over the run, their thresholds, and where they pass them."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        positive: Conditioning,
        negative: Conditioning,
        vae: VAE,
        latent: Latent,
        distance: str,
        images: int,
        steps: int,
        cfg: float,
        seed: int,
        edit_threshold: float,
        boost_threshold: float,
        source_text: str,
        target_text: str,
        clip: CLIP | None = None,
        clip_vision: ClipVisionModel | None = None,
        pictures: Latent | None = None,
    ) -> io.NodeOutput:
        unet_of(model)
        apart = distance_of(distance, clip_vision)
        edit_at, boost_at = edit_threshold or EDIT_AT[distance], boost_threshold or BOOST_AT[distance]
        if clip is not None:
            edit_at *= max(0.0, float(F.cosine_similarity(text_embedding(clip, source_text), text_embedding(clip, target_text), dim=0)))
        sigmas = schedule(model, steps)
        noise = noise_for(model, latent, images, seed) if pictures is None else inverted(model, positive, [pictures], sigmas)
        bar = Bar(3 * (len(sigmas) - 1) * len(noise), model)
        guider = guided(model, {"positive": positive, "negative": negative}, cfg)
        strengths, deficiencies = measured(guider, vae, noise, sigmas, apart, bar)
        levels = model.get_model_object("model_sampling")
        percents = [percent_of(levels, sigma) for sigma in sigmas[:-1].tolist()]
        phases = Phases.of(percents, strengths, deficiencies, edit_at, boost_at)
        curves = {
            "foreseen picture: edit": (strengths, edit_at, phases.end),
            "noisy picture: no boost": (deficiencies, boost_at, phases.boost),
        }
        picture = bar.end(schedule_figure(percents, curves))
        return io.NodeOutput(0.0, round(phases.end, 3), round(phases.boost, 3), picture, ui=ui.PreviewImage(picture, cls=cls))


def distance_of(name: str, clip_vision: ClipVisionModel | None) -> Distance:
    """A distance (b,) of pictures (b, 3, h, w) in [-1, 1]; ValueError if what it needs is not there."""
    if name != "CLIP vision":
        return {"SSIM": structural_distance, "RMS": rms}[name]
    if clip_vision is None:
        raise ValueError(
            "clip_vision: the distance CLIP vision needs one; connect Load CLIP Vision (Load Demo Scorer for the demo models), "
            "or choose SSIM."
        )
    with torch.inference_mode(False), torch.no_grad():
        scorer = ImageScorer(clip_vision)

    def apart(a: Tensor, b: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return feature_distance(*(scorer.output((pictures.clone() + 1) / 2)[0].float() for pictures in (a, b))).cpu()

    return apart


def followed(guider: CFGGuider, noise: Tensor, sigmas: Tensor, bar: Bar) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A run by euler from noise (1, c, h, w): the finished latent, and at each step the foreseen and the noisy one, of unit variance."""
    foreseen, noisy = [], []

    def on_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        bar.tick(denoised)
        foreseen.append(denoised)
        noisy.append(x / (1 + float(sigmas[step]) ** 2) ** 0.5)

    return run(guider, noise, euler(), sigmas, callback=on_step), foreseen, noisy


def measured(guider: CFGGuider, vae: VAE, noise: Tensor, sigmas: Tensor, apart: Distance, bar: Bar) -> tuple[Tensor, Tensor]:
    """Distances (steps, pictures) from the finished picture of the foreseen and of the noisy one, over runs by euler."""
    process_out = guider.model_patcher.get_model_object("latent_format").process_out
    strengths: list[list[float]] = []
    deficiencies: list[list[float]] = []

    def decoded(latent: Tensor) -> Tensor:
        return as_rgb(vae.decode(latent), "vae").movedim(-1, 1).float() * 2 - 1

    def distance(finished: Tensor, latent: Tensor) -> float:
        bar.tick()
        return float(apart(finished, decoded(process_out(latent))))

    for one in noise.split(1):
        latent, *steps = followed(guider, one, sigmas, bar)
        finished = decoded(latent)
        for distances, latents in zip((strengths, deficiencies), steps):
            distances.append([distance(finished, latent) for latent in latents])
    return torch.tensor(strengths).T, torch.tensor(deficiencies).T


NODES = [EditingSchedule]
