"""Nodes that put a slider on a model, and that give it a unit."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.dial import Dial
from ..core.latent import check_latent
from ..core.pictures.channels import as_rgb
from ..core.pictures.figures import dial_figure
from ..host.calibration import TRIED, Way
from ..host.seeds import seeds_from
from ..host.sliders import CalibratedSlider, Slider
from ..host.strips import Rows, Settings, Strip, planned
from ..host.types import VAE, Conditioning, Latent, ModelPatcher
from .base import CATEGORY, SLIDER, checked, sampler_inputs, seed_input, strength_input


class ApplySlider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ApplySlider",
            display_name="Apply Slider",
            category=CATEGORY,
            description="Puts a slider on a model: one that was calibrated, or one of another model of the same family. Strength 0 changes "
            "nothing at all. Several can be chained.",
            search_aliases=["slider", "strength", "attribute", "concept slider", "edit"],
            inputs=[
                io.Model.Input("model", tooltip="The model to put the slider on, with LoRAs or other sliders."),
                SLIDER.Input("slider", tooltip="From Calibrate Slider, Make Slider or Load Slider."),
                strength_input(
                    "The slider. 0 changes nothing at all, below 0 is the opposite. Of a calibrated one -1 and 1 are the ends.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Acts only where the mask is white. One for all pictures, or one for each."),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the slider, for any sampler node; the one that came in is unchanged.")
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, slider: Slider, strength: float, mask: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput(slider.on(model, strength, mask))


class CalibrateSlider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_CalibrateSlider",
            display_name="Calibrate Slider",
            category=CATEGORY,
            is_output_node=True,
            description="Gives a slider a unit: draws a few pictures at 15 strengths from -3 to 3, and re-maps the strength so that equal "
            "steps look equal. -1 and 1 are then the ends: the strongest that was tried, or where the picture becomes another one.",
            search_aliases=["slider", "normalize strength", "unit", "even steps", "range", "remap"],
            inputs=[
                io.Model.Input("model", tooltip="The model that you will draw with, without this slider."),
                SLIDER.Input("slider", tooltip="From Make Slider or Load Slider."),
                io.Conditioning.Input("positive", tooltip="A prompt such as you will draw with."),
                io.Conditioning.Input("negative", tooltip="Its negative prompt; an empty one will do."),
                io.Latent.Input(
                    "latent", tooltip="The size, from Empty Latent Image. Smaller than you will draw at is enough, and faster."
                ),
                io.Vae.Input("vae", tooltip="Turns the latents into pictures, whose distances are measured."),
                seed_input("The first seed; the pictures take the seeds from here up."),
                io.Int.Input("seeds", default=3, min=2, max=32, tooltip="Pictures at each of 15 strengths. More make the unit surer."),
                io.Int.Input("steps", default=12, min=1, max=10000, tooltip="Steps of each run; fewer than you will draw with are enough."),
                io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance, as you will draw with."),
                *sampler_inputs(),
            ],
            outputs=[
                SLIDER.Output("slider", tooltip="The slider with its unit, for Apply Slider, Slider Strip and Save Slider."),
                io.Image.Output("picture", tooltip="How far the pictures go with the strength, with a line at each mark of the unit."),
                io.String.Output("info", tooltip="What strengths -1 and 1 stand for, and how even the steps are before and after."),
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
        seed: int,
        seeds: int,
        steps: int,
        cfg: float,
        sampler_name: str = "euler",
        scheduler: str = "normal",
    ) -> io.NodeOutput:
        check_latent(latent["samples"], "latent")
        plain = slider.slider if isinstance(slider, CalibratedSlider) else slider
        strengths = [-x for x in reversed(TRIED)] + [0.0, *TRIED]
        settings = Settings(negative, first_of(latent), steps, cfg, sampler_name, scheduler, 1.0)
        strip = Strip(planned(plain, strengths, [Rows(model, positive, seeds_from(seed, seeds))], settings, 0), settings, len(strengths))
        pictures = as_rgb(strip.pictures(vae), "vae").movedim(-1, 1).float() * 2 - 1
        way = Way.of(strengths, pictures.unflatten(0, (seeds, len(strengths))))
        dial = way.dial()
        picture = strip.bar.end(dial_figure(strengths, [way.share(strength) for strength in strengths], dial.marks))
        return io.NodeOutput(CalibratedSlider(plain, dial), picture, told(way, dial), ui=ui.PreviewImage(picture, cls=cls))


def first_of(latent: Latent) -> Latent:
    """A latent of a batch alone, with what goes with it."""
    per_picture = {key: latent[key][:1] for key in ("samples", "noise_mask", "batch_index") if latent.get(key) is not None}
    return {**latent, **per_picture}


def told(way: Way, dial: Dial) -> str:
    """What a calibration found, in words."""
    (low, high), most = [dial.strength(shown) for shown in (-1.0, 1.0)], max(way.strengths)
    before, after = way.largest_jump(None), way.largest_jump(dial)
    return (
        f"-1 is strength {low:.2f}, 1 is strength {high:.2f}; there the pictures have gone {way.share(low):.1%} and {way.share(high):.1%} "
        "of the way to those of other seeds.\n"
        + (f"Beyond {most:g} nothing was tried.\n" if most in (-low, high) else "")
        + f"Largest of 8 steps: {before:.0%} of the whole way before, {after:.0%} after."
    )


NODES = [ApplySlider, CalibrateSlider]
