"""The node that makes a slider from words, on any model."""

from __future__ import annotations

from typing import Literal

from comfy_api.latest import io
from torch import Tensor

from ..core.hspace.injection import Window
from ..host.families import check_reads_prompts, family_name
from ..host.sliders import WordSlider
from ..host.types import CLIP, ModelPatcher
from ..host.words import prompt, prompt_beside
from .base import CATEGORY, SLIDER, checked, strength_input

Choice = Literal["auto", "cross-attention", "prediction"]


class MakeSlider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_MakeSlider",
            display_name="Make Slider",
            category=CATEGORY,
            description="A slider from words, on any model: adds what the wanted words do beyond those without, by a strength of both "
            "signs. The seed, the prompt and the rest of the picture stay. Nothing is learned or downloaded; several can be chained.",
            search_aliases=[
                "slider",
                "attribute slider",
                "concept slider",
                "edit",
                "edit face",
                "face",
                "expression",
                "smile",
                "age",
                "older",
                "younger",
                "beard",
                "hair",
                "glasses",
                "semantic edit",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to put the slider on: UNet or transformer, with LoRAs or another slider."),
                io.Clip.Input("clip", tooltip="Its CLIP, which reads the words."),
                strength_input(
                    "The slider. 0 changes nothing at all, 1 is about what the words would draw, below 0 is the opposite.",
                ),
                io.String.Input("without", default="a portrait", tooltip="What is there anyway, in a few words: a face, a street, a cat."),
                io.String.Input(
                    "wanted", default="a portrait, smiling", tooltip="The same with the attribute: a smiling face, a street at night."
                ),
                io.String.Input(
                    "opposite",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="What strengths below 0 shall draw, if words for it are better than the mere opposite: a frowning face.",
                ),
                io.Combo.Input(
                    "place",
                    options=["auto", "cross-attention", "prediction"],
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="Where it acts. prediction: on what the model foresees, for every model, at one or two more calls a step; "
                    "keeps most of the picture. cross-attention: in every layer that reads the prompt, for the UNets of SD 1.x, SD 2.x "
                    "and SDXL; faster, and keeps less. auto: prediction.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it starts. Later keeps more of the picture and changes less.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it ends.",
                ),
                io.Float.Input(
                    "focus",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="In the prediction: acts only where the words change most, from this share of the largest change up; 0 acts "
                    "everywhere, as for a season or a light. The cross-attention has no focus.",
                ),
                io.Boolean.Input(
                    "hold_rest",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="In the prediction, with a focus or a mask: the rest of the picture stays exactly that of the run without the "
                    "slider, which is made first and costs as much again. Off, the rest may follow a little.",
                ),
                io.Boolean.Input(
                    "spread",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="The focus takes in what is joined to the place that the words change most, as the crown of a hat: more "
                    "comes whole, and less of the rest is kept.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Acts only where the mask is white. One for all pictures, or one for each."),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the slider, for any sampler node; the one that came in is unchanged."),
                SLIDER.Output("slider", tooltip="The slider by itself, for Slider Strip, Calibrate Slider, Apply Slider and Save Slider."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        strength: float,
        without: str,
        wanted: str,
        opposite: str = "",
        place: Choice = "auto",
        start_percent: float = 0.1,
        end_percent: float = 1.0,
        focus: float = 0.6,
        hold_rest: bool = True,
        spread: bool = False,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        check_reads_prompts(model, "model", "Find a direction with Discover Directions, or train one with Train Direction.")
        window = Window(start_percent, end_percent)
        minus = prompt(clip, without)
        plus = prompt_beside(minus, clip, without, wanted, "wanted")
        lesser = prompt_beside(minus, clip, without, opposite, "opposite") if opposite.strip() else None
        words = {"without": without, "wanted": wanted, "opposite": opposite if lesser else ""}
        where = "prediction" if place == "auto" else place
        how = (window, family_name(model), words, focus, hold_rest, spread)
        slider = WordSlider(wanted, plus, minus, lesser, where, *how)
        return io.NodeOutput(slider.on(model, strength, mask), slider)


NODES = [MakeSlider]
