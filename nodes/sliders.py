"""The node that makes a slider from words, on any model."""

from __future__ import annotations

from typing import Literal

from comfy_api.latest import io
from torch import Tensor

from ..core.hspace.injection import Window
from ..host.contrasts import Place, encoded, has_cross_attention
from ..host.families import family_name
from ..host.sliders import WordSlider
from ..host.types import CLIP, ModelPatcher
from .base import CATEGORY, SLIDER, checked

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
                "face",
                "expression",
                "smile",
                "age",
                "beard",
                "semantic edit",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The model to put the slider on: UNet or transformer, with LoRAs or another slider."),
                io.Clip.Input("clip", tooltip="Its CLIP, which reads the words."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-3.0,
                    max=3.0,
                    step=0.05,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="The slider. 0 changes nothing at all, 1 is about what the words would draw, below 0 is the opposite.",
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
                    tooltip="Where it acts. cross-attention: in every layer that reads the prompt, for the UNets of SD 1.x, SD 2.x and "
                    "SDXL. prediction: on what the model foresees, for every model, at two more calls a step. auto: the first there is.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.15,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where in the run it starts. Later keeps more of the picture and changes less.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Where it ends; the last part of a run draws detail only.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Acts only where the mask is white. One for all pictures, or one for each."),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the slider, for any sampler node; the one that came in is unchanged."),
                SLIDER.Output("slider", tooltip="The slider by itself, for Slider Strip and Save Slider."),
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
        start_percent: float = 0.15,
        end_percent: float = 0.8,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        window = Window(start_percent, end_percent)
        plus, minus = encoded(clip, wanted, without, "wanted")
        lesser = encoded(clip, opposite, without, "opposite")[0] if opposite.strip() else None
        words = {"without": without, "wanted": wanted, "opposite": opposite if lesser else ""}
        slider = WordSlider(wanted, plus, minus, lesser, place_of(model, place), window, family_name(model), words)
        return io.NodeOutput(slider.on(model, strength, mask), slider)


def place_of(model: ModelPatcher, choice: Choice) -> Place:
    """The place that is meant: of auto, cross-attention where the model has it."""
    if choice != "auto":
        return choice
    return "cross-attention" if has_cross_attention(model) else "prediction"


NODES = [MakeSlider]
