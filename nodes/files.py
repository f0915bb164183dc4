"""Directions and attributes on disk: saved to output/semantic_latents, loaded from there and from models/semantic_latents."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..core.attribute import described
from ..core.attribute_files import attribute_tensors, load_attribute
from ..core.direction_files import PUBLISHED_CONCEPTS, direction_tensors, load_direction, load_published
from ..demo import SLIDERS
from .node import checked
from .types import ATTRIBUTE, CATEGORY, DIRECTION

FOLDER = "semantic_latents"
DEEPEST = 100  # folders in each other
SUFFIXES = {".safetensors", ".pth"}


def output_folder() -> str:
    return os.path.join(folder_paths.get_output_directory(), FOLDER)


def register_folder() -> None:
    """Let the host list models/semantic_latents, output/semantic_latents and the demo's own; calling it twice changes nothing."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, output_folder())
    folder_paths.add_model_folder_path(FOLDER, str(SLIDERS))
    folder_paths.folder_names_and_paths[FOLDER][1].update(SUFFIXES)


def save_whole(tensors, metadata: dict[str, str], prefix: str) -> Path:
    """Write to the next name of this prefix that no folder has; the file appears when it is whole, and never in another's place.

    Raises ValueError for a prefix that no file can have, OSError if the folder cannot be written.
    """
    check_prefix(prefix)
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, output_folder())
    partial = Path(folder) / f".{uuid.uuid4().hex}.partial"  # not of the prefix, as the host would count it
    try:
        comfy.utils.save_torch_file(tensors, str(partial), metadata=metadata)
        while True:
            path = Path(folder) / f"{name}_{counter:05}_.safetensors"
            try:
                if not is_taken(listed_name(path)):
                    give_name(partial, path)
                    return path
            except FileExistsError:
                pass  # taken since then
            counter += 1
    finally:
        partial.unlink(missing_ok=True)


def listed_name(path: Path) -> str:
    """The name under which the loaders list a file of the output folder."""
    return str(path.relative_to(output_folder()))


def is_taken(name: str) -> bool:
    """Whether one of the folders has something of this name: of two files of one name a loader finds the first folder's alone."""
    return any(os.path.lexists(os.path.join(folder, name)) for folder in folder_paths.get_folder_paths(FOLDER))


def check_prefix(prefix: str) -> None:
    """Raise ValueError for a prefix that cannot be the name of a file that the loaders list."""
    if not prefix or prefix.endswith(("/", "/..")):
        raise ValueError(f"filename_prefix: {prefix!r} has no name after its folder; write one, such as faces/smile.")
    is_text = prefix == prefix.encode(errors="ignore").decode()  # half of a surrogate pair is none
    if not is_text or "\0" in prefix or prefix.count("/") > DEEPEST:
        raise ValueError(f"filename_prefix: {prefix[:50]!r} cannot be a file's name; write plain text, such as faces/smile.")
    if ".git" in Path(prefix).parts[:-1]:
        raise ValueError(f"filename_prefix: {prefix!r} lies in a folder .git, into which the loaders do not look; choose another folder.")


def give_name(partial: Path, path: Path) -> None:
    """Give a whole file its name. Raises FileExistsError if there is a file of that name already."""
    try:
        os.link(partial, path)  # which does not replace a file, as renaming does
    except (OSError, AttributeError) as error:
        if isinstance(error, FileExistsError) or getattr(error, "errno", errno.EPERM) not in (
            errno.EPERM,
            errno.ENOTSUP,
            errno.ENOSYS,
            errno.EINVAL,
            errno.EMLINK,
        ):
            raise
        path.touch(exist_ok=False)  # a file system without links: take the name first
        os.replace(partial, path)


class SaveDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, direction, filename_prefix) -> io.NodeOutput:
        path = save_whole(*direction_tensors(direction), filename_prefix)
        return io.NodeOutput(direction, ui={"text": [listed_name(path)]})


def fingerprint(file: str) -> tuple[str, str | None, float | None]:
    """What changes when a loader would read another file, or other contents: the path that a name leads to, and its time."""
    path = folder_paths.get_full_path(FOLDER, file)
    return file, path, os.path.getmtime(path) if path else None


class LoadDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_LoadDirection",
            display_name="Load Direction",
            category=CATEGORY,
            description="Loads a direction that was saved, or one of the h-space vectors published for SD 1.4 (InterpretDiffusion).",
            search_aliases=["h-space", "import direction", "load slider", "interpretdiffusion", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(FOLDER),
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
    def fingerprint_inputs(cls, file, concept):
        return (concept, *fingerprint(file))

    @classmethod
    @checked
    def execute(cls, file, concept) -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise(FOLDER, file))
        return io.NodeOutput(load_published(path, concept) if path.suffix == ".pth" else load_direction(path))


class SaveAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, attribute, filename_prefix) -> io.NodeOutput:
        path = save_whole(*attribute_tensors(attribute), filename_prefix)
        return io.NodeOutput(attribute, ui={"text": [listed_name(path)]})


class LoadAttribute(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_LoadAttribute",
            display_name="Load Attribute",
            category=CATEGORY,
            description="Loads an attribute that was saved, and says what it was learned on.",
            search_aliases=["avi", "import attribute", "load slider", "safetensors"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/semantic_latents or output/semantic_latents.",
                ),
            ],
            outputs=[
                ATTRIBUTE.Output("attribute", tooltip="For Apply Attribute or Mix Attributes, on models with the same kind of latents."),
                io.String.Output("info", tooltip="What it fits, its prompts and settings, and the losses reached; for Preview Text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        return fingerprint(file)

    @classmethod
    @checked
    def execute(cls, file) -> io.NodeOutput:
        attribute = load_attribute(Path(folder_paths.get_full_path_or_raise(FOLDER, file)))
        info = described(attribute)
        return io.NodeOutput(attribute, info)


NODES = [SaveDirection, LoadDirection, SaveAttribute, LoadAttribute]
