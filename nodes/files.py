"""Directions and attributes on disk: saved to output/semantic_latents, loaded from there and from models/semantic_latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from comfy_api.latest import io

from ..core.avi.attribute import Mixture, described
from ..core.avi.file import attribute_tensors, load_attribute
from ..core.files import OtherFormat
from ..core.hspace.file import direction_tensors, load_direction
from ..core.hspace.published import PUBLISHED_CONCEPTS, load_published
from ..core.hspace.trained import AnyDirection
from ..host.folders import file_names, fingerprint, listed_name, path_of, save_whole
from .base import ATTRIBUTE, CATEGORY, DIRECTION, checked

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
            description="Loads a direction that was saved, or one of the h-space vectors published for SD 1.4 (InterpretDiffusion).",
            search_aliases=["h-space", "import direction", "load slider", "interpretdiffusion", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=file_names(),
                    tooltip="A file in models/semantic_latents or output/semantic_latents.",
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
                    "direction", tooltip="For Apply Direction or Combine Directions, on the model family that it was found on."
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


NODES = [SaveDirection, LoadDirection, SaveAttribute, LoadAttribute]
