"""The folder of a first save, and what other saves may do to it."""

import torch

from pack.core.hspace.file import direction_tensors, load_direction
from pack.tests.campaigns.saver import direction


def is_same(path, other):
    """Whether a file is whole and holds this direction."""
    found = load_direction(path)
    return torch.equal(found.shifts, other.shifts) and found.notes == other.notes


def save(one, prefix="smile"):
    from pack.host.folders import save_whole

    return save_whole(*direction_tensors(one), prefix)


class FirstSave:
    """A file that must not change, and its folder.

    `others` says whether it changed, what else is there, and what is left over.
    """

    def __init__(self, path):
        self.path, self.content = path, path.read_bytes()
        self.folder, self.output = path.parent, path.parent.parent

    def others(self):
        """What stands beside the first file: files under final names, and the rest."""
        assert self.path.read_bytes() == self.content
        beside = set(self.folder.iterdir()) - {self.path}
        return sorted(file for file in beside if file.suffix == ".safetensors"), sorted(
            file for file in beside if file.suffix != ".safetensors"
        )

    def listed(self):
        import folder_paths

        return set(folder_paths.get_filename_list("semantic_latents"))

    def next_save_works(self):
        new = save(direction(3, 4))
        assert is_same(new, direction(3, 4))
        assert new.name in self.listed()
        assert new != self.path
        self.others()
        return new
