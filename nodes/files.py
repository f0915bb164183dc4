"""Sliders, directions and attributes on disk: saved to output/semantic_latents, loaded from there and from models/semantic_latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from comfy_api.latest import io
from torch import Tensor

from ..core.avi.attribute import Mixture, described
from ..core.avi.file import attribute_tensors, load_attribute
from ..core.files import OtherFormat
from ..core.hspace.file import direction_tensors, load_direction
from ..core.hspace.published import PUBLISHED_CONCEPTS, load_published
from ..core.hspace.trained import AnyDirection
from ..host.folders import file_names, fingerprint, listed_name, path_of, save_whole
from ..host.slider_files import folder_of, home_of, slider_names, slider_of, tensors_of
from ..host.sliders import Slider
from ..host.types import ModelPatcher
from .base import ATTRIBUTE, CATEGORY, DIRECTION, SLIDER, checked, strength_input

T = TypeVar("T")


def loaded(load: Callable[[Path], T], path: Path, writer: str) -> T:
    """What load makes of a file. Raises ValueError that names the node which writes such files, for a file of another format."""
    try:
        return load(path)
    except OtherFormat as error:
        raise ValueError(f"{str(error).removesuffix('.')}; choose a file of {writer}.") from error


class SaveDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SaveDirection",
            display_name="Save Direction",
            category=CATEGORY,
            description="Saves a direction to output/semantic_latents, with what it fits and how it was found. Never overwrites.",
            search_aliases=["h-space", "export direction", "save slider", "safetensors"],
            is_output_node=True,
            inputs=[
                DIRECTION.Input("direction", tooltip="The direction to keep."),
                io.String.Input(
                    "filename_prefix",
                    default="direction",
                    tooltip="The file's name, before its number; a folder may stand before it: faces/smile.",
                ),
            ],
            outputs=[DIRECTION.Output("direction", tooltip="The same direction, to go on with.")],
        )

    @classmethod
    @checked
    def execute(cls, direction: AnyDirection, filename_prefix: str) -> io.NodeOutput:
        path = save_whole(*direction_tensors(direction), filename_prefix)
        return io.NodeOutput(direction, ui={"text": [listed_name(path)]})


class LoadDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_LoadDirection",
            display_name="Load Direction",
            category=CATEGORY,
            description="Loads a direction that was saved, one of the h-space vectors published for SD 1.4 (InterpretDiffusion), or a "
            "block that Asyrp's authors released for pixel-space models.",
            search_aliases=["h-space", "import direction", "load slider", "interpretdiffusion", "asyrp", "delta block", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_names(),
                    tooltip="A file in models/semantic_latents or output/semantic_latents: of Save Direction, InterpretDiffusion's "
                    "unet.pth, or one of Asyrp's blocks (.pth).",
                ),
                io.Combo.Input(
                    "concept",
                    options=list(PUBLISHED_CONCEPTS),
                    default=PUBLISHED_CONCEPTS[0],
                    tooltip="For the published file unet.pth only: which of its eight vectors. Use it with branch conditional.",
                ),
            ],
            outputs=[
                DIRECTION.Output(
                    "direction",
                    tooltip="For Apply Direction or Combine Directions, on the model family that it was found on; Asyrp's blocks act on "
                    "pixel-space models of their channels.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, concept: str) -> tuple[str, str, str | None, float | None]:
        return (concept, *fingerprint(file))

    @classmethod
    @checked
    def execute(cls, file: str, concept: str) -> io.NodeOutput:
        path = path_of(file)
        published = path.suffix == ".pth"
        return io.NodeOutput(load_published(path, concept) if published else loaded(load_direction, path, "Save Direction"))


class SaveAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SaveAttribute",
            display_name="Save Attribute",
            category=CATEGORY,
            description="Saves an attribute or a mix to output/semantic_latents, with what it fits and how it was learned. "
            "Never overwrites.",
            search_aliases=["avi", "export attribute", "save slider", "safetensors"],
            is_output_node=True,
            inputs=[
                ATTRIBUTE.Input("attribute", tooltip="The attribute to keep."),
                io.String.Input(
                    "filename_prefix",
                    default="attribute",
                    tooltip="The file's name, before its number; a folder may stand before it: faces/beard.",
                ),
            ],
            outputs=[ATTRIBUTE.Output("attribute", tooltip="The same attribute, to go on with.")],
        )

    @classmethod
    @checked
    def execute(cls, attribute: Mixture, filename_prefix: str) -> io.NodeOutput:
        path = save_whole(*attribute_tensors(attribute), filename_prefix)
        return io.NodeOutput(attribute, ui={"text": [listed_name(path)]})


class LoadAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_LoadAttribute",
            display_name="Load Attribute",
            category=CATEGORY,
            description="Loads an attribute that was saved, and says what it was learned on.",
            search_aliases=["avi", "import attribute", "load slider", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_names(),
                    tooltip="A file in models/semantic_latents or output/semantic_latents.",
                ),
            ],
            outputs=[
                ATTRIBUTE.Output("attribute", tooltip="For Apply Attribute or Mix Attributes, on models with the same kind of latents."),
                io.String.Output("info", tooltip="What it fits, its prompts and settings, and the losses reached; for Preview Text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str) -> tuple[str, str | None, float | None]:
        return fingerprint(file)

    @classmethod
    @checked
    def execute(cls, file: str) -> io.NodeOutput:
        attribute = loaded(load_attribute, path_of(file), "Save Attribute")
        return io.NodeOutput(attribute, described(attribute))


class SaveSlider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SaveSlider",
            display_name="Save Slider",
            category=CATEGORY,
            description="Saves a slider to output/semantic_latents, with the model family that it fits and the words that it was made "
            "from; Load Slider needs no CLIP. A trained LoRA goes to output/loras. Never overwrites.",
            search_aliases=["export slider", "concept slider", "keep slider", "safetensors"],
            is_output_node=True,
            inputs=[
                SLIDER.Input("slider", tooltip="The slider to keep, from Make Slider, Train Slider LoRA or Calibrate Slider."),
                io.String.Input(
                    "filename_prefix",
                    default="slider",
                    tooltip="The file's name, before its number; a folder may stand before it: faces/smile.",
                ),
            ],
            outputs=[SLIDER.Output("slider", tooltip="The same slider, to go on with.")],
        )

    @classmethod
    @checked
    def execute(cls, slider: Slider, filename_prefix: str) -> io.NodeOutput:
        home = home_of(slider)
        path = save_whole(*tensors_of(slider), filename_prefix, home)
        return io.NodeOutput(slider, ui={"text": [listed_name(path, home)]})


class LoadSlider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_LoadSlider",
            display_name="Load Slider",
            category=CATEGORY,
            description="Any saved slider on the model, whatever its kind: of Save Slider, Save Attribute or Save Direction, or a "
            "slider LoRA. Between Load Checkpoint and KSampler; several can be chained, like LoRAs.",
            search_aliases=["slider", "concept slider", "lora slider", "load lora", "attribute", "direction", "smile", "age"],
            inputs=[
                io.Model.Input("model", tooltip="The model to put the slider on; of the family that the slider was made on."),
                io.Combo.Input(
                    "file",
                    options=slider_names(),
                    tooltip="A file in models/semantic_latents or output/semantic_latents, or a LoRA of models/loras.",
                ),
                strength_input(
                    "The slider. 0 changes nothing at all, more is stronger, below 0 is the opposite. Of a calibrated one -1 and 1 "
                    "are the ends.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Acts only where the mask is white; LoRAs take none."),
            ],
            outputs=[
                io.Model.Output("model", tooltip="The model with the slider, for any sampler node; the one that came in is unchanged."),
                SLIDER.Output("slider", tooltip="The slider by itself, for Slider Strip, Calibrate Slider and Apply Slider."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: object) -> tuple[str, str | None, float | None]:
        return fingerprint(*folder_of(file))

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, file: str, strength: float, mask: Tensor | None = None) -> io.NodeOutput:
        slider = slider_of(file)
        return io.NodeOutput(slider.on(model, strength, mask, "file"), slider)


NODES = [SaveSlider, LoadSlider, SaveDirection, LoadDirection, SaveAttribute, LoadAttribute]
