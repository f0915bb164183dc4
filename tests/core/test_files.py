"""Files of this pack: what is checked before a tensor is read, and what a reader is told."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from pack.core.files import (
    LONGEST_TEXT,
    READABLE,
    Format,
    OtherFormat,
    channels_in,
    entry_of,
    is_number,
    names_damage,
    notes_in,
    read_checked,
    require,
)

THING = Format("semantic_latents.thing", "thing", 2)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


def written(folder, tensors=TENSORS, **metadata):
    """A file of this format, with other tensors or metadata."""
    path = folder / "x.safetensors"
    save_file(tensors, path, {"format": THING.name, "version": "2", **metadata})
    return path


def read(path, parse=lambda metadata, shapes: metadata):
    return read_checked(path, THING, parse)


def test_what_is_saved_is_read(tmp_path):
    metadata, tensors = read(written(tmp_path, name="smile"))
    assert metadata == {"format": THING.name, "version": "2", "name": "smile"}
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


def test_the_parser_of_a_format_sees_metadata_and_shapes_and_may_refuse(tmp_path):
    seen = []
    read(written(tmp_path, name="smile"), lambda metadata, shapes: seen.append((metadata["name"], shapes)))
    assert seen == [("smile", {"a": (2, 3), "b": (4,)})]

    def refuse(metadata, shapes):
        raise ValueError("it is none of mine")

    with pytest.raises(ValueError, match="^file: x.safetensors is damaged: it is none of mine.$"):
        read(written(tmp_path), refuse)


@pytest.mark.parametrize(
    ("tensors", "metadata", "said"),
    [
        (TENSORS, {"format": "lora"}, "holds no thing .*'lora'"),
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


@pytest.mark.parametrize("error", [ValueError("of no use"), SafetensorError("cut"), OSError(5, "Input/output error")])
def test_what_reading_a_file_can_raise_becomes_an_error_that_names_the_file(tmp_path, error):
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


@pytest.mark.parametrize("error", [KeyboardInterrupt, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, OtherFormat])
def test_an_interruption_and_a_fault_of_the_program_pass_through(tmp_path, error):
    @names_damage
    def load(path):
        raise error("ours")

    with pytest.raises(error, match="^'?ours'?$"):
        load(tmp_path / "x.safetensors")


def test_metadata_that_is_missing_or_garbled_is_named():
    require({"family": "SD15", "method": "PCA"}, "family", "method")
    with pytest.raises(ValueError, match="^its metadata lacks method, notes$"):
        require({"family": "SD15"}, "family", "method", "notes")
    assert channels_in({"channels": "1280"}) == 1280
    for channels in ({}, {"channels": "-4"}, {"channels": "four"}, {"channels": "1" * 5000}):
        with pytest.raises(ValueError, match="lacks or garbles channels$"):
            channels_in(channels)
    assert notes_in({"notes": '{"seed": "3"}'}) == {"seed": "3"}
    for text in ("", "[]", '{"seed": 3}', "[" * 5000):
        with pytest.raises(ValueError, match="lacks or garbles notes$"):
            notes_in({"notes": text})
    with pytest.raises(ValueError, match="lacks or garbles notes$"):
        notes_in({})


def test_an_entry_gives_its_values_by_name_if_they_have_their_types():
    entry = {"number": 3, "share": 1, "on": True, "more": None}
    assert entry_of(entry, on=bool, number=int, share=float) == (True, 3, 1)
    for wrong in (dict(number=bool), dict(on=int), dict(on=float), dict(more=str), dict(missing=int)):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is missing or no "):
            entry_of(entry, **wrong)
    with pytest.raises(ValueError, match="is no mapping"):
        entry_of([1], number=int)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "1", None])
def test_what_is_no_finite_number_is_none(value):
    assert not is_number(value)
    assert is_number(-1)
    assert is_number(0.5)
