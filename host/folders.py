"""The pack's folders of directions and attributes: what is listed there, and files that are saved whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

FOLDER = "semantic_latents"
DEEPEST = 100  # folders in each other
SUFFIXES = {".safetensors", ".pth"}


def output_folder(folder: str = FOLDER) -> str:
    return os.path.join(folder_paths.get_output_directory(), folder)


def register_folders(*more: Path) -> None:
    """Let the host list models/semantic_latents, output/semantic_latents and more folders; calling it twice changes nothing."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.add_model_folder_path(FOLDER, output_folder())
    for folder in more:
        folder_paths.add_model_folder_path(FOLDER, str(folder))
    folder_paths.folder_names_and_paths[FOLDER][1].update(SUFFIXES)


def file_names(folder: str = FOLDER) -> list[str]:
    """The names of all files in these folders, or in others of the host's, for a list to choose from."""
    return folder_paths.get_filename_list(folder)


def path_of(name: str, folder: str = FOLDER) -> Path:
    """Where a file of the list lies; FileNotFoundError if it is gone."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def save_whole(tensors: dict[str, Tensor], metadata: dict[str, str], prefix: str, inside: str = FOLDER) -> Path:
    """Write to the next name of this prefix that no folder has; the file appears when it is whole, and never in another's place.

    inside: one of the host's folders that loaders list. Raises ValueError for a prefix that no file can have, OSError if the folder cannot
    be written.
    """
    check_prefix(prefix)
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, output_folder(inside))
    partial = Path(folder) / f".{uuid.uuid4().hex}.partial"  # not of the prefix, as the host would count it
    try:
        comfy.utils.save_torch_file(tensors, str(partial), metadata=metadata)
        while True:
            path = Path(folder) / f"{name}_{counter:05}_.safetensors"
            try:
                if not is_taken(listed_name(path, inside), inside):
                    give_name(partial, path)
                    return path
            except FileExistsError:
                pass  # taken since then
            counter += 1
    finally:
        partial.unlink(missing_ok=True)


def listed_name(path: Path, inside: str = FOLDER) -> str:
    """The name under which the loaders list a file of the output folder."""
    return str(path.relative_to(output_folder(inside)))


def is_taken(name: str, inside: str = FOLDER) -> bool:
    """Whether one of the folders has something of this name: of two files of one name a loader finds the first folder's alone."""
    return any(os.path.lexists(os.path.join(folder, name)) for folder in folder_paths.get_folder_paths(inside))


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


def fingerprint(file: str, folder: str = FOLDER) -> tuple[str, str | None, float | None]:
    """What changes when a loader would read another file, or other contents: the path that a name leads to, and its time."""
    path = folder_paths.get_full_path(folder, file)
    return file, path, os.path.getmtime(path) if path else None
