"""Folders that are built once, used while they are whole, and built again when they are not."""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from .system import say

STAMP = ".stamp.json"
RECIPE = 1  # raised when the way of building changes, so that older set-ups are built again


def manifest(folder):
    """Sizes of all files in a folder by relative path, compiled Python and the stamp left out."""
    sizes = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            path = os.path.join(parent, name)
            sizes[os.path.relpath(path, folder)] = os.lstat(path).st_size
    sizes.pop(STAMP, None)
    return sizes


def changed_file(folder, sizes):
    """The first file that is gone or has another size than the manifest says, or None."""
    for path, size in sizes.items():
        try:
            if os.lstat(os.path.join(folder, path)).st_size != size:
                return path
        except OSError:
            return path
    return None


def digest(*inputs):
    """One hash over all that decides how a part is built."""
    return hashlib.sha256(json.dumps([RECIPE, *inputs]).encode()).hexdigest()


class Part:
    """A folder built from known inputs; its stamp, written last, says that it is whole."""

    def __init__(self, folder, inputs, build, works=lambda folder: True):
        self.folder, self.inputs, self.build, self.works = Path(folder), inputs, build, works
        self.stamp = self.folder / STAMP

    def damage(self):
        """Why the folder has to be built again, or None when it is whole."""
        try:
            stamp = json.loads(self.stamp.read_text())
            inputs, files = stamp["inputs"], stamp["files"]
        except FileNotFoundError:
            return "unfinished" if self.folder.exists() else "not there yet"
        except (OSError, ValueError, KeyError, TypeError):
            return "its stamp cannot be read"
        if inputs != self.inputs:
            return "made from other versions"
        changed = changed_file(self.folder, files)
        if changed:
            return f"{changed} is damaged"
        return None if self.works(self.folder) else "its interpreter does not run"

    def ensure(self):
        """Build the folder unless it is whole."""
        reason = self.damage()
        if reason:
            say(f"{os.path.relpath(self.folder)}: {reason}, building it")
            self.clear()
            self.folder.mkdir(parents=True)
            self.build(self.folder)
            self.write_stamp()

    def clear(self):
        """Remove the folder; the stamp goes first, so that the rest is never taken for whole."""
        with contextlib.suppress(OSError):
            self.stamp.unlink()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def write_stamp(self):
        """Write down inputs and files, in one step."""
        partial = self.folder.with_name(f"{self.folder.name}{STAMP}")
        partial.write_text(json.dumps({"inputs": self.inputs, "files": manifest(self.folder)}))
        partial.replace(self.stamp)
