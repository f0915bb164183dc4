"""Files of attributes: what is damaged or foreign is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from pack.core.avi.attribute import Attribute, LatentKind, Mixture, Recipe, mean_change
from pack.core.avi.file import PARTS, attribute_tensors, load_attribute
from pack.tests.core.avi.pairs import pair


def learned():
    x, z = pair((1, 4, 16, 16))
    return Mixture(((Attribute(Recipe(), mean_change([z - x], 4), LatentKind("PortraitLatents", 4)), 1.0),))


def damaged(kind, path):
    tensors, metadata = attribute_tensors(learned())
    parts = json.loads(metadata["parts"])
    changes = {
        "foreign": {"format": "semantic_latents.direction"},
        "newer": {"version": "2"},
        "channels": {"channels": "3"},
        "parts": {"parts": "{"},
        "deep": {"parts": "[" * 5000},
        "none": {"parts": "[]"},
    }
    if kind == "missing":
        del metadata["latents"]
    if kind == "tensor":
        del tensors["0.U"]
    if kind == "more":
        tensors["7.U"] = torch.zeros(3)
    if kind == "shapes":
        tensors["0.S"] = tensors["0.S"][:1].contiguous()
    if kind == "scalar":
        tensors["0.S"] = torch.tensor(1.0)
    if kind == "nan":
        tensors["0.S"][0, 0] = float("nan")
    edits = {
        "recipe": ("recipe", {}),
        "percent": ("recipe", {**parts[0]["recipe"], "percent": "half"}),
        "past": ("recipe", {**parts[0]["recipe"], "percent": 3.0}),
        "shape": ("shape", [1, 4, -16, 16]),
        "huge": ("shape", [1, 3, 10**9, 10**9]),
        "weight": ("weight", "much"),
        "nan weight": ("weight", float("nan")),
        "notes": ("notes", {"seed": 3}),
    }
    if kind in edits:
        parts[0][edits[kind][0]] = edits[kind][1]
        metadata["parts"] = json.dumps(parts)
    save_file(tensors, path, {**metadata, **changes.get(kind, {})})
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    if kind == "garbage":
        path.write_bytes(os.urandom(500))


@pytest.mark.parametrize(
    "kind",
    [
        "foreign",
        "newer",
        "channels",
        "parts",
        "deep",
        "none",
        "missing",
        "tensor",
        "more",
        "shapes",
        "scalar",
        "nan",
        "recipe",
        "percent",
        "past",
        "shape",
        "huge",
        "weight",
        "nan weight",
        "notes",
        "truncated",
        "garbage",
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, kind):
    damaged(kind, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="file: x.safetensors|attribute:|weights:"):
        load_attribute(tmp_path / "x.safetensors")


def test_a_mix_that_no_loader_would_take_is_refused_when_it_is_saved():
    (part,) = learned().parts
    assert attribute_tensors(Mixture((part,) * PARTS))
    with pytest.raises(ValueError, match="attribute: a mix has more than 64 attributes"):
        attribute_tensors(Mixture((part,) * (PARTS + 1)))


def test_whole_numbers_are_numbers_of_losses(tmp_path):
    tensors, metadata = attribute_tensors(learned())
    parts = json.loads(metadata["parts"])
    parts[0]["losses"] = {"exact": 1}
    save_file(tensors, tmp_path / "x.safetensors", {**metadata, "parts": json.dumps(parts)})
    assert load_attribute(tmp_path / "x.safetensors").parts[0][0].losses == {"exact": 1}
