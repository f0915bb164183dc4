"""The node that shows what a slider does: its strengths from left to right."""

from __future__ import annotations

import re

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.latent import check_latent
from ..core.pictures.channels import as_rgb
from ..core.pictures.sheet import labelled_grid
from ..host.seeds import seeds_from
from ..host.sliders import Slider
from ..host.strips import Rows, Settings, Strip, planned
from ..host.types import CLIP, VAE, ClipVisionModel, Conditioning, Latent, ModelPatcher
from ..host.words import prompt
from .base import CATEGORY, SLIDER, checked, sampler_inputs, seed_input
from .pictures import embedded
from .trajectories import numbers_in

MOST = 100  # strengths of a slider


class SliderStrip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SliderStrip",
            display_name="Slider Strip",
            category=CATEGORY,
            is_output_node=True,
            description="Shows what a slider does: one picture for each strength, side by side; down the sheet a second slider, other "
            "seeds, or other prompts. Each is drawn as KSampler draws it.",
            search_aliases=["xy plot", "slider", "sweep", "contact sheet", "compare", "strength range", "grid"],
            inputs=[
                io.Model.Input("model", tooltip="The model to try the slider on, with LoRAs or other patches, without this slider."),
                SLIDER.Input("slider", tooltip="From Make Slider (its second output), Calibrate Slider or Load Slider."),
                io.Conditioning.Input("positive", tooltip="The prompt of every picture, unless prompts are written below."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of every picture; an empty one will do."),
                io.Latent.Input(
                    "latent", tooltip="As for KSampler: an Empty Latent Image, or a picture to start from. Each of a batch has its own row."
                ),
                io.Vae.Input("vae", tooltip="Turns the latents into pictures. Of a video its first frame is shown."),
                io.String.Input(
                    "strengths",
                    default="-1, -0.5, 0, 0.5, 1",
                    tooltip="A picture for each, from left to right: -1, 0, 1, or -1 to 1 in 9. 0 is the unedited picture. At most 100.",
                ),
                seed_input("The seed of every picture, as in KSampler; with several seeds the first of them."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of each run, as in KSampler."),
                io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance of each run, as in KSampler."),
                *sampler_inputs(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="As in KSampler: below 1 the pictures start from the one in latent and keep more of it.",
                ),
                io.Int.Input("seeds", default=1, min=1, max=100, optional=True, tooltip="Rows: this many seeds, from seed up."),
                SLIDER.Input("slider_2", optional=True, tooltip="Rows: a second slider, beside the first."),
                io.String.Input("strengths_2", default="-1, 0, 1", optional=True, tooltip="A row for each strength of slider_2."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Rows: a prompt in each line, in the place of positive. Needs prompts_clip.",
                ),
                io.Clip.Input("prompts_clip", optional=True, tooltip="The model's CLIP, which reads prompts."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="A scorer: puts a number under each picture. From Load CLIP Vision, or Load Demo Scorer; with clip.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text tower that belongs to clip_vision, from Load CLIP, or Load Demo Scorer."
                ),
                io.String.Input(
                    "scorer_text",
                    default="a portrait, smiling",
                    optional=True,
                    tooltip="With a scorer: what the number says how well the picture fits, a cosine from -1 to 1.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="How many seeds of a column are drawn at once; 0 for as many as the host expects to fit. At 1 each picture is "
                    "KSampler's to the last bit, else up to rounding.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="All pictures on one sheet, with strengths above and what the rows are at the left."),
                io.Image.Output("images", tooltip="The pictures by themselves, in one batch, row by row."),
                io.String.Output("table", tooltip="With a scorer: its numbers, a line for each row, for Preview Text; else empty."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        slider: Slider,
        positive: Conditioning,
        negative: Conditioning,
        latent: Latent,
        vae: VAE,
        strengths: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str = "euler",
        scheduler: str = "normal",
        denoise: float = 1.0,
        seeds: int = 1,
        slider_2: Slider | None = None,
        strengths_2: str = "-1, 0, 1",
        prompts: str = "",
        prompts_clip: CLIP | None = None,
        clip_vision: ClipVisionModel | None = None,
        clip: CLIP | None = None,
        scorer_text: str = "a portrait, smiling",
        batch_size: int = 0,
    ) -> io.NodeOutput:
        check_latent(latent["samples"], "latent")
        settings = Settings(negative, latent, steps, cfg, sampler_name, scheduler, denoise)
        across = strengths_in(strengths, "strengths")
        second = None if slider_2 is None else (slider_2, strengths_in(strengths_2, "strengths_2"))
        rows, sides = rows_of(model, positive, seeds_from(seed, seeds), second, lines_of(prompts), prompts_clip)
        if clip_vision is not None or clip is not None:
            embedded(clip_vision, clip, [scorer_text], [])  # what is wrong with a scorer is said before anything is drawn
        strip = Strip(planned(slider, across, rows, settings, batch_size), settings, len(across))
        images = strip.pictures(vae)
        heads, sides = [told(strength) for strength in across], each_picture(sides, strip.batch)
        scores = [] if clip_vision is None else scores_of(images, clip_vision, clip, scorer_text)
        title = slider.name if slider_2 is None else f"across: {slider.name}; down: {slider_2.name}"
        sheet = strip.bar.end(sheet_of(images, heads, sides, scores, title))
        return io.NodeOutput(sheet, images, table_of(heads, sides, scores), ui=ui.PreviewImage(sheet, cls=cls))


def strengths_in(text: str, name: str) -> list[float]:
    """Strengths out of a text such as `-1, 0, 1` or `-1 to 1 in 9`; ValueError that names the input."""
    evenly = re.fullmatch(r"\s*(\S+)\s+to\s+(\S+)\s+in\s+(\d+)\s*", text)
    try:
        found = numbers_in(" ".join(evenly.groups()[:2]) if evenly else text, name, whole=False)
        count = numbers_in(evenly[3], name, whole=True)[0] if evenly else len(found)
    except ValueError:
        raise ValueError(f"{name}: {text!r} cannot be read; write strengths such as -1, 0, 1, or -1 to 1 in 9.") from None
    if count > MOST:
        raise ValueError(f"{name}: got {count} strengths, {MOST} are the most; each costs a whole run.")
    return [round(strength, 6) for strength in torch.linspace(found[0], found[-1], count).double().tolist()] if evenly else found


def told(strength: float) -> str:
    return f"{strength:+.3g}" if strength else "0"


def lines_of(prompts: str) -> list[str]:
    """The prompts, a line each."""
    return [line.strip() for line in prompts.splitlines() if line.strip()]


def rows_of(
    model: ModelPatcher,
    positive: Conditioning,
    seeds: list[int],
    second: tuple[Slider, list[float]] | None,
    prompts: list[str],
    clip: CLIP | None,
) -> tuple[list[Rows], list[str]]:
    """The rows of a strip, and a label for each; ValueError if more than one input asks for them."""
    asked = {"slider_2": second is not None, "seeds": len(seeds) > 1, "prompts": bool(prompts)}
    if sum(asked.values()) > 1:
        names = ", ".join(name for name, given in asked.items() if given)
        raise ValueError(f"{names}: each asks for rows of its own; keep one, disconnect slider_2, set seeds to 1 or empty prompts.")
    if second is not None:
        slider, strengths = second
        models = [slider.on(model, strength, name="slider_2") for strength in strengths]
        return [Rows(one, positive, seeds) for one in models], [told(strength) for strength in strengths]
    if prompts and clip is None:
        raise ValueError("prompts_clip: prompts are read by the model's CLIP; connect it, or leave prompts empty.")
    if prompts and clip is not None:
        return [Rows(model, prompt(clip, words), seeds) for words in prompts], prompts
    return [Rows(model, positive, seeds)], [f"seed {seed}" for seed in seeds]


def each_picture(sides: list[str], batch: int) -> list[str]:
    """The labels of rows, repeated for each picture of a batch of latents."""
    return sides if batch == 1 else [f"{side}, picture {i + 1}" for side in sides for i in range(batch)]


def scores_of(images: Tensor, clip_vision: ClipVisionModel | None, clip: CLIP | None, text: str) -> list[str]:
    """How well each picture (n, h, w, c) fits a text, as cosines in words."""
    words, (pictures,) = embedded(clip_vision, clip, [text], [as_rgb(images, "vae")])
    return [f"{score:.3f}" for score in (pictures @ words[0]).tolist()]


def sheet_of(images: Tensor, heads: list[str], sides: list[str], scores: list[str], title: str) -> Tensor:
    """The sheet (1, H, W, 3); a single row is named in its title."""
    if len(sides) == 1:
        title, sides = f"{title}, {sides[0]}", []
    return labelled_grid(list(images), scores, columns=len(heads), title=title, heads=heads, sides=sides)


def table_of(heads: list[str], sides: list[str], scores: list[str]) -> str:
    """The scores as lines of cells with tabs between them, under the strengths; empty if there are none."""
    rows = [[side, *scores[i * len(heads) : (i + 1) * len(heads)]] for i, side in enumerate(sides)]
    return "\n".join("\t".join(row) for row in [["", *heads], *rows]) if scores else ""


NODES = [SliderStrip]
