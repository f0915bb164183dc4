"""One file name in several folders: what Save reports is what Load lists and finds, and what was found before is found still."""

import os
from pathlib import Path

import pytest
import torch

from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Recipe
from pack.core.hspace.direction import Direction, Family
from pack.core.svd.decomposition import compose, decompose
from pack.tests.wiring import random

KINDS = ["Direction", "Attribute"]


def made(kind, seed):
    """A direction or an attribute that is told from others by its numbers."""
    if kind == "Direction":
        return Direction(random(seed, 1, 8, 2, 2), (1.0,), Family("SD15", "EPS", 8), "random")
    return Mixture(((Attribute(Recipe(), decompose(random(seed, 1, 4, 8, 8)), LatentKind("SD15", 4)), 1.0),))


def numbers(thing):
    return thing.shifts if isinstance(thing, Direction) else compose(thing.parts[0][0].stored)


@pytest.fixture(params=KINDS)
def shelf(request, folders, pack_nodes):
    """Saves and loads things of one kind by the nodes."""
    import folder_paths

    class Shelf:
        kind = request.param
        models, output = folders / "models/semantic_latents", folders / "output/semantic_latents"

        def save(self, seed, prefix="smile"):
            """The name that the node reports."""
            thing, node = {self.kind.lower(): made(self.kind, seed)}, pack_nodes[f"SemanticLatents_Save{self.kind}"]
            output = node.execute(**thing, filename_prefix=prefix)
            return output.ui["text"][0]

        def loader(self):
            return pack_nodes[f"SemanticLatents_Load{self.kind}"], {"concept": "young"} if self.kind == "Direction" else {}

        def holds(self, name, seed):
            """Whether the loader lists a name and finds this under it."""
            node, more = self.loader()
            listed = name in folder_paths.get_filename_list("semantic_latents")
            return listed and torch.allclose(numbers(node.execute(file=name, **more).args[0]), numbers(made(self.kind, seed)), atol=1e-5)

        def fingerprint(self, name):
            node, more = self.loader()
            return node.fingerprint_inputs(file=name, **more)

        def put(self, folder, name, seed):
            """A file as a user copies it into a folder."""
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.output / self.save(seed, "elsewhere")).rename(folder / name)

    return Shelf()


def registered(folder, first):
    import folder_paths

    folder_paths.add_model_folder_path("semantic_latents", str(folder), is_default=first)
    return folder


PLACES = {
    "models": lambda shelf, root: shelf.models,
    "a folder of the user's, the first": lambda shelf, root: registered(root / "extra", True),
    "a folder of the user's, the last": lambda shelf, root: registered(root / "extra", False),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("prefix", ["smile", "faces/smile"])
def test_a_name_that_another_folder_has_is_not_given(shelf, folders, place, prefix):
    other = place(shelf, folders)
    taken = {f"{prefix}_{i:05}_.safetensors": i for i in (1, 3)}
    for name, seed in taken.items():
        shelf.put(other, name, seed)
    names = [shelf.save(seed, prefix) for seed in (10, 11, 12)]
    assert names == [f"{prefix}_{i:05}_.safetensors" for i in (2, 4, 5)]
    for name, seed in [*taken.items(), *zip(names, (10, 11, 12), strict=True)]:
        assert shelf.holds(name, seed), name


def test_a_reported_name_is_the_listed_one_in_folders_too(shelf):
    assert shelf.save(1) == "smile_00001_.safetensors"
    assert shelf.holds("smile_00001_.safetensors", 1)
    name = shelf.save(2, "a/./b/../smile")
    assert Path(name) == Path("a/smile_00001_.safetensors")
    assert shelf.holds(name, 2)


def test_a_link_that_leads_nowhere_keeps_its_name(shelf, folders):
    """What it leads to may come back, as a drive does."""
    (shelf.models / "smile_00001_.safetensors").symlink_to(folders / "away.safetensors")
    assert shelf.save(1) == "smile_00002_.safetensors"


def test_one_folder_under_two_names_is_no_second_folder(shelf, folders):
    shelf.output.mkdir(parents=True)
    registered(folders / "link", True)
    (folders / "link").symlink_to(shelf.output)
    assert [shelf.save(seed) for seed in (1, 2)] == ["smile_00001_.safetensors", "smile_00002_.safetensors"]
    assert shelf.holds("smile_00001_.safetensors", 1)
    assert shelf.holds("smile_00002_.safetensors", 2)


def test_of_two_files_of_one_name_the_first_folder_s_is_loaded_again_when_it_comes(shelf):
    name = shelf.save(1)
    before = shelf.fingerprint(name)
    shelf.put(shelf.models, name, 2)
    time = os.path.getmtime(shelf.output / name)
    os.utime(shelf.models / name, (time, time))
    assert shelf.holds(name, 2)
    assert shelf.fingerprint(name) != before


@pytest.mark.parametrize("prefix", [".git/smile", "a/.git/smile"])
def test_a_folder_that_is_not_listed_is_refused(shelf, prefix):
    with pytest.raises(ValueError, match="filename_prefix: .*loaders do not look"):
        shelf.save(1, prefix)
    assert not list(shelf.output.rglob("*"))
    assert shelf.save(1, ".git") == ".git_00001_.safetensors"
