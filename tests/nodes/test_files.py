"""Savers and loaders: what is saved loads back, and both stay inside their folders whatever name comes over a link."""

import json

import pytest
import torch

from pack.core.avi.attribute import Mixture
from pack.tests.attributes import TARGET, draw, train
from pack.tests.campaigns.fuzz.files import attribute as small_attribute
from pack.tests.campaigns.fuzz.files import load, table, whole
from pack.tests.edits import with_attribute


def test_a_saved_direction_loads_back_equal(folders, run, random_direction):
    direction = random_direction(3)
    for _ in range(2):
        run("SaveDirection", direction=direction, filename_prefix="smile")
    names = sorted(path.name for path in (folders / "output/semantic_latents").iterdir())
    assert names == ["smile_00001_.safetensors", "smile_00002_.safetensors"]  # never overwritten
    loaded = run("LoadDirection", file=names[0], concept="female")[0]
    assert torch.equal(loaded.shifts, direction.shifts)
    assert (loaded.sigmas, loaded.family, loaded.method, loaded.notes) == (direction.sigmas, direction.family, "random", {"seed": "3"})


def test_the_file_says_what_it_is(folders, run, random_direction):
    from safetensors import safe_open

    run("SaveDirection", direction=random_direction(3), filename_prefix="a/b")
    with safe_open(folders / "output/semantic_latents/a/b_00001_.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "semantic_latents.direction"
    assert metadata["family"] == "Portrait"
    assert metadata["prediction"] == "V_PREDICTION"
    assert json.loads(metadata["notes"]) == {"seed": "3"}
    assert float(metadata["norm"]) == pytest.approx(random_direction(3).norm, rel=1e-4)


@pytest.mark.parametrize(
    "node, message",
    [
        ("Direction", "file: x.safetensors holds no direction (its format is 'lora'); choose a file of Save Direction."),
        ("Attribute", "file: x.safetensors holds no attribute (its format is 'lora'); choose a file of Save Attribute."),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_node_that_writes_the_right_one(folders, run, node, message):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, folders / "models/semantic_latents/x.safetensors", {"format": "lora"})
    with pytest.raises(ValueError) as caught:
        run(f"Load{node}", file="x.safetensors", **({"concept": "female"} if node == "Direction" else {}))
    assert str(caught.value) == message


def test_vectors_in_the_published_layout_act_on_sd15(folders, run):
    matrix = torch.arange(81920 * 8).reshape(81920, 8).float()
    torch.save({"controlnet.fc1.weight": matrix}, folders / "models/semantic_latents/unet.pth")
    direction = run("LoadDirection", file="unet.pth", concept="young")[0]
    assert torch.equal(direction.shifts[0].flatten(), matrix[:, 2])
    assert direction.notes["target"] == "young"


def test_a_saved_attribute_loads_back_and_says_what_it_is(demo, folders, run, sampler_of, attribute):
    learned = train(run, demo, sampler_of("euler"), solver="MLP", seeds=2)[0]
    mix = run("MixAttributes", first=attribute, second=learned, first_weight=0.5, second_weight=1.5)[0]
    for one in (attribute, learned, mix):
        assert run("SaveAttribute", attribute=one, filename_prefix="hair")[0] is one
    files = sorted(path.name for path in (folders / "output/semantic_latents").iterdir())
    assert files == [f"hair_0000{i}_.safetensors" for i in (1, 2, 3)]
    for one, file in zip((attribute, learned, mix), files):
        loaded, info = run("LoadAttribute", file=file)
        assert loaded.kind == one.kind
        assert [p.recipe for p, _ in loaded.parts] == [p.recipe for p, _ in one.parts]
        for target in (None, demo.encode(TARGET)):
            assert torch.equal(
                draw(demo, with_attribute(run, sampler_of("euler"), loaded, target=target)),
                draw(demo, with_attribute(run, sampler_of("euler"), one, target=target)),
            )
        assert "4 channels" in info
        assert "latent 8 x 8" in info
        assert "T_x 0.5" in info
        assert "exact 0." in info
    assert "MLP 0." in info
    assert "weight 1.5" in info


LOADERS = {"LoadDirection": {"concept": "young"}, "LoadAttribute": {}}
AWAY = [
    "../../secret.safetensors",
    "../../output/secret.safetensors",
    "a/../../../secret.safetensors",
    "/secret.safetensors",
    "//secret.safetensors",
    "..\\..\\secret.safetensors",
    "file:../../secret.safetensors",
    "~/secret.safetensors",
    "%2e%2e/%2e%2e/secret.safetensors",
    "secret.safetensors\0",
    "here.safetensors\0",
    "\0",
    "",
    ".",
    "..",
    "/",
    "folder.safetensors",
    "gone.safetensors",
    "\ud800.safetensors",
    "x" * 5000,
    "x/" * 5000,
]


@pytest.mark.parametrize("node", LOADERS)
def test_a_loader_reads_nothing_outside_its_folders(folders, run, pack_nodes, monkeypatch, node):
    monkeypatch.setenv("HOME", str(folders))
    blob = whole()["attribute" if node == "LoadAttribute" else "table"]
    own = folders / "models/semantic_latents"
    for place in (folders / "secret.safetensors", folders / "output/secret.safetensors", own / "here.safetensors"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(blob)
    (own / "folder.safetensors").mkdir()
    (own / "gone.safetensors").symlink_to(folders / "nothing")
    for name in [*AWAY, str(folders / "secret.safetensors"), f"../..{folders}/secret.safetensors"]:
        with pytest.raises(FileNotFoundError, match="not found"):
            run(node, file=name, **LOADERS[node])
        assert pack_nodes[f"SemanticLatents_{node}"].fingerprint_inputs(file=name, **LOADERS[node])[-1] is None
    for name in ("here.safetensors", "../here.safetensors", "a/../here.safetensors"):  # the host keeps a way up inside the folder
        assert run(node, file=name, **LOADERS[node])


def test_a_link_that_the_owner_laid_is_followed(folders, run):
    (folders / "elsewhere.safetensors").write_bytes(whole()["table"])
    (folders / "models/semantic_latents/link.safetensors").symlink_to(folders / "elsewhere.safetensors")
    assert run("LoadDirection", file="link.safetensors", concept="young")


OUTSIDE = ["../x", "../../x", "a/../../x", "/x", "//x", "/tmp/x", "../semantic_latents_2/x", "../../models/semantic_latents/x"]
INSIDE = [
    "a/../x",
    "./x",
    "a//b",
    "a/b/c",
    "..",
    ".",
    "%date%",
    "%date:yyyy-MM-dd%",
    "%year%/%month%",
    "%width%",
    "CON",
    "nul.txt",
    "~/x",
    "..\\x",
    "a:b",
    "-rf",
    " x ",
    "a.b",
    ".hidden",
    "é",
    "x.safetensors",
    "x_00001_",
    "*?<>|",
    "$(touch x)",
    "x" * 200,
    "a/" * 50 + "x",
    "a/x/" + "y" * 200,
]
UNCLEAR = ["a\0b", "\ud800", "a/" * 2000 + "x"]
NAMELESS = ["", "a/", "a/.."]  # of which the host counts files wrongly


def made(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def save(run, prefix, what="table"):
    if what == "table":
        run("SaveDirection", direction=table(6, 3), filename_prefix=prefix)
    else:
        run("SaveAttribute", attribute=Mixture(((small_attribute(8, False), 1.0),)), filename_prefix=prefix)


@pytest.mark.parametrize("what", ["table", "attribute"])
@pytest.mark.parametrize("prefix", INSIDE, ids=range(len(INSIDE)))
def test_a_prefix_saves_inside_the_output_folder_and_never_twice_to_one_name(folders, run, prefix, what):
    import folder_paths

    save(run, prefix, what)
    save(run, prefix, what)
    files = made(folders)
    assert len(files) == 2
    assert all(path.resolve().is_relative_to(folders / "output/semantic_latents") for path in files)
    names = folder_paths.get_filename_list("semantic_latents")
    for path in files:
        name = str(path.relative_to(folders / "output/semantic_latents"))
        assert name in names
        assert load(path, what)
        assert run(
            "LoadAttribute" if what == "attribute" else "LoadDirection",
            file=name,
            **({} if what == "attribute" else {"concept": "young"}),
        )


@pytest.mark.parametrize("what", ["table", "attribute"])
@pytest.mark.parametrize("prefix", OUTSIDE)
def test_a_prefix_that_leads_outside_is_refused(folders, run, prefix, what):
    with pytest.raises(Exception, match="outside the output folder"):
        save(run, prefix, what)
    assert not made(folders)


@pytest.mark.parametrize("prefix", [*UNCLEAR, "x" * 300, "a/" + "x" * 5000], ids=range(len(UNCLEAR) + 2))
def test_a_prefix_that_no_file_can_have_is_refused_by_name(folders, run, prefix):
    with pytest.raises((ValueError, OSError), match="filename_prefix|name too long"):
        save(run, prefix)
    assert not made(folders)


@pytest.mark.parametrize("prefix", NAMELESS)
def test_a_prefix_without_a_name_is_refused_or_saves_twice(folders, run, prefix):
    try:
        save(run, prefix)
        save(run, prefix)
    except ValueError as error:
        assert "filename_prefix" in str(error)
        assert not made(folders)
    else:
        assert len(made(folders)) == 2
