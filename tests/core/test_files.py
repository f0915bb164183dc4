"""Files of this pack: what is checked before a tensor is read, and what a reader is told."""

import pytest
import torch
from safetensors.torch import save_file

from pack.core.files import LONGEST_TEXT, READABLE, Kind, channels_in, names_damage, notes_in, read_checked, require

KIND = Kind("semantic_latents.thing", "thing", "Save Thing", 2)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def written(folder, tensors=TENSORS, **metadata):
    """A file of this kind, with other tensors or metadata."""
    path = folder / "x.safetensors"
    save_file(tensors, path, {"format": KIND.format, "version": "2", **metadata})
    return path


def read(path, check=lambda metadata, shapes: None):
    return read_checked(path, KIND, check)


def test_what_is_saved_is_read(tmp_path):
    metadata, tensors = read(written(tmp_path, name="smile"))
    assert metadata == {"format": KIND.format, "version": "2", "name": "smile"}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)
    assert all(tensors[key].dtype == TENSORS[key].dtype for key in TENSORS)


def test_what_happens_to_the_file_afterwards_does_not_reach_the_tensors(tmp_path):
    path = written(tmp_path)
    _, tensors = read(path)
    with path.open("r+b") as file:
        file.seek(-40, 2)
        file.write(bytes(40))
    assert all(torch.equal(tensors[key], TENSORS[key]) for key in TENSORS)


def test_the_check_of_a_kind_sees_metadata_and_shapes_and_may_refuse(tmp_path):
    seen = []
    read(written(tmp_path, name="smile"), lambda metadata, shapes: seen.append((metadata["name"], shapes)))
    assert seen == [("smile", {"a": (2, 3), "b": (4,)})]

    def refuse(metadata, shapes):
        raise ValueError("file: x.safetensors is none of mine.")

    with pytest.raises(ValueError, match="none of mine"):
        read(written(tmp_path), refuse)


@pytest.mark.parametrize(
    ("tensors", "metadata", "said"),
    [
        (TENSORS, {"format": "lora"}, "holds no thing .*'lora'.* choose a file of Save Thing"),
        (TENSORS, {"version": "3"}, "version '3', this pack reads up to 2"),
        (TENSORS, {"version": "two"}, "version 'two'"),
        (TENSORS, {"version": "9" * 5000}, "version '999"),
        (TENSORS, {"notes": " " * LONGEST_TEXT}, "longer than any thing's"),
        ({"a": torch.arange(3)}, {}, "no real numbers"),
        ({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(1)}, {}, "damaged: a contain NaN or Inf"),
    ],
)
def test_a_file_of_another_kind_or_with_other_tensors_is_refused(tmp_path, tensors, metadata, said):
    with pytest.raises(ValueError, match=f"^file: x.safetensors .*{said}"):
        read(written(tmp_path, tensors, **metadata))


@pytest.mark.parametrize("error", [KeyError("S"), RuntimeError(), OSError(5, "Input/output error"), RecursionError("deep")])
def test_what_goes_wrong_in_a_loader_becomes_an_error_that_names_the_file(tmp_path, error):
    @names_damage
    def load(path):
        raise error

    with pytest.raises(ValueError, match="^file: x.safetensors cannot be read .*damaged, cut short or of another kind") as caught:
        load(tmp_path / "x.safetensors")
    assert caught.value.__cause__ is error


def test_an_error_that_names_the_file_stays_and_a_long_one_is_cut(tmp_path):
    @names_damage
    def load(path, text):
        raise ValueError(text)

    with pytest.raises(ValueError, match="^file: x.safetensors lacks a concept.$"):
        load(tmp_path / "x.safetensors", "file: x.safetensors lacks a concept.")
    with pytest.raises(ValueError, match="another kind.$") as caught:
        load(tmp_path / "x.safetensors", "e" * 10_000)
    assert len(str(caught.value)) < READABLE


def test_an_interruption_passes_through(tmp_path):
    @names_damage
    def load(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "x.safetensors")


def test_metadata_that_is_missing_or_garbled_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    require(path, {"family": "SD15", "method": "PCA"}, "family", "method")
    with pytest.raises(ValueError, match="^file: x.safetensors .* lacks method, notes"):
        require(path, {"family": "SD15"}, "family", "method", "notes")
    assert channels_in(path, {"channels": "1280"}) == 1280
    for channels in ({}, {"channels": "-4"}, {"channels": "four"}, {"channels": "1" * 5000}):
        with pytest.raises(ValueError, match="^file: x.safetensors .* channels"):
            channels_in(path, channels)
    assert notes_in(path, '{"seed": "3"}') == {"seed": "3"}
    for text in ("", "[]", '{"seed": 3}', "[" * 5000):
        with pytest.raises(ValueError, match="^file: x.safetensors .* notes"):
            notes_in(path, text)
