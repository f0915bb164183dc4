"""Save Slider and Load Slider in the real host: every kind of slider, on the model, from a file."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from pack.tests.attributes import train
from pack.tests.campaigns.lora import random_lora
from pack.tests.edits import with_attribute_on, with_direction
from pack.tests.wiring import node

pytestmark = pytest.mark.usefixtures("inference")
DEMO = ["portrait_attribute_smile", "portrait_attribute_sunglasses", "portrait_direction_sunglasses"]


@pytest.fixture
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def loras(folders, monkeypatch):
    """The host's folder of LoRAs, empty."""
    import folder_paths

    (folders / "loras").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folders / "loras")], {".safetensors", ".pt"}))
    return folders / "loras"


def made(run, world, strength=1.0, mask=None, **changes):
    """Make Slider's outputs."""
    words = dict(without="a portrait", wanted="a portrait, blue hair", opposite="a portrait, red hair")
    return run("MakeSlider", model=world.model, clip=world.clip, strength=strength, mask=mask, **{**words, **changes})


def saved(run, slider, prefix="slider"):
    """The name under which Load Slider lists a slider that was saved."""
    from pack.host.folders import file_names

    before = set(file_names())
    assert run("SaveSlider", slider=slider, filename_prefix=prefix)[0] is slider
    (name,) = set(file_names()) - before
    return name


def loaded(run, world, file, strength=1.0, model=None, **more):
    return run("LoadSlider", model=model or world.model, file=file, strength=strength, **more)


def drawn(world, sampler_of, model=None, latent=None):
    return world.sample(sampler_of("euler"), steps=4, model=model, latent=latent)


@pytest.mark.parametrize("world", ["demo", "SD15", "SDXL", "Flux", "SD3", "WAN21_T2V"], indirect=True)
def test_a_saved_slider_draws_bit_for_bit_what_make_slider_draws(folders, world, run, sampler_of):
    plain = drawn(world, sampler_of)
    for place in ("auto", "prediction"):
        name = saved(run, made(run, world, place=place, start_percent=0.1, end_percent=0.7)[1])
        for strength in (1.5, -0.5):
            expected = drawn(world, sampler_of, made(run, world, strength, place=place, start_percent=0.1, end_percent=0.7)[0])
            model, slider = loaded(run, world, name, strength)
            assert torch.equal(drawn(world, sampler_of, model), expected)
            assert torch.equal(drawn(world, sampler_of, slider.on(world.model, strength)), expected)
            assert not torch.equal(expected, plain)
    assert torch.equal(drawn(world, sampler_of), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_prompts_in_half_precision_load_back_equal(folders, demo, run, sampler_of, dtype):
    slider = made(run, demo)[1]
    half = [[[part[0].to(dtype), part[1]] for part in prompt] for prompt in (slider.plus, slider.minus, slider.opposite)]
    slider = dataclasses.replace(slider, plus=half[0], minus=half[1], opposite=half[2])
    model = loaded(run, demo, saved(run, slider), -1.2)[0]
    assert torch.equal(drawn(demo, sampler_of, model), drawn(demo, sampler_of, slider.on(demo.model, -1.2)))


def test_a_loaded_slider_says_what_the_made_one_says_and_saves_again(folders, demo, run):
    slider = made(run, demo)[1]
    first = loaded(run, demo, saved(run, slider))[1]
    again = loaded(run, demo, saved(run, first))[1]
    for one in (first, again):
        for field in ("name", "words", "place", "window", "family"):
            assert getattr(one, field) == getattr(slider, field)
    assert slider.family == "Portrait"
    assert slider.words == {"without": "a portrait", "wanted": "a portrait, blue hair", "opposite": "a portrait, red hair"}
    assert loaded(run, demo, saved(run, made(run, demo, opposite="")[1]))[1].opposite is None


@pytest.mark.parametrize("name", DEMO)
def test_the_sliders_that_come_with_the_demo_model_act_on_it(folders, demo, run, sampler_of, name):
    from pack.host.slider_files import slider_names

    latent, file = demo.empty(size=32), f"{name}.safetensors"
    assert file in slider_names()
    plain = drawn(demo, sampler_of, latent=latent)
    up, down = (drawn(demo, sampler_of, loaded(run, demo, file, strength)[0], latent) - plain for strength in (3.0, -3.0))
    assert up.abs().max() > 0.02
    assert torch.cosine_similarity(up.flatten(), down.flatten(), dim=0) < 0


def test_a_file_of_save_direction_is_applied_as_apply_direction_stands(folders, demo, run, sampler_of, pack_nodes, random_direction):
    """With the node's settings as they stand in its schema."""
    run("SaveDirection", direction=random_direction(1), filename_prefix="smile")
    schema = pack_nodes["SemanticLatents_ApplyDirection"].define_schema()
    settings = {port.id: port.default for port in schema.inputs if hasattr(port, "default") and port.id not in ("strength", "form")}
    mask = torch.ones(1, 8, 8)
    mask[..., :4] = 0
    for given in ({}, {"mask": mask}):
        expected = drawn(demo, sampler_of, with_direction(run, demo.model, random_direction(1), 0.7, **{**settings, **given}))
        model, slider = loaded(run, demo, "smile_00001_.safetensors", 0.7, **given)
        assert torch.equal(drawn(demo, sampler_of, model), expected)
        assert not torch.equal(drawn(demo, sampler_of), expected)
    assert saved(run, slider) == "slider_00001_.safetensors"
    assert torch.equal(run("LoadDirection", file="slider_00001_.safetensors", concept="female")[0].shifts, random_direction(1).shifts)


@pytest.mark.parametrize("world", ["demo", "Flux"], indirect=True)
def test_a_file_of_save_attribute_is_applied_as_apply_attribute_to_model(folders, world, demo, run, sampler_of, attribute):
    own = attribute if world is demo else train(run, world, sampler_of("euler"))[0]
    run("SaveAttribute", attribute=own, filename_prefix="hair")
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    for given in ({}, {"mask": mask}):
        expected = drawn(world, sampler_of, with_attribute_on(run, world.model, own, -0.7, **given))
        model, slider = loaded(run, world, "hair_00001_.safetensors", -0.7, **given)
        assert torch.equal(drawn(world, sampler_of, model), expected)
        assert not torch.equal(drawn(world, sampler_of), expected)
    again = loaded(run, world, saved(run, slider), -0.7, **given)[0]
    assert torch.equal(drawn(world, sampler_of, again), expected)


def test_a_lora_is_applied_as_the_host_s_loader_applies_it(loras, demo, run, sampler_of):
    save_file(random_lora(demo.model), loras / "smile.safetensors")
    from pack.host.slider_files import slider_names

    assert "loras/smile.safetensors" in slider_names()
    plain = drawn(demo, sampler_of)
    for strength in (0.5, -0.5):
        stock = node("LoraLoaderModelOnly", model=demo.model, lora_name="smile.safetensors", strength_model=strength)
        model, slider = loaded(run, demo, "loras/smile.safetensors", strength)
        expected = drawn(demo, sampler_of, stock)
        assert torch.equal(drawn(demo, sampler_of, model), expected)
        assert not torch.equal(expected, plain)
    assert slider.name == "smile"
    assert loaded(run, demo, "loras/smile.safetensors", 0.0)[0] is demo.model
    assert torch.equal(drawn(demo, sampler_of), plain)


def test_a_lora_takes_no_mask_and_saves_to_no_file(loras, demo, run):
    save_file(random_lora(demo.model), loras / "smile.safetensors")
    with pytest.raises(ValueError, match="mask: a LoRA changes the model's weights"):
        loaded(run, demo, "loras/smile.safetensors", mask=torch.ones(1, 8, 8))
    slider = loaded(run, demo, "loras/smile.safetensors")[1]
    with pytest.raises(ValueError, match="slider: 'smile' is a LoRA, whose file is in models/loras already"):
        run("SaveSlider", slider=slider, filename_prefix="slider")


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_lora_that_fits_no_weight_of_the_model_is_refused(loras, demo, shaped, run, strength):
    save_file(random_lora(demo.model), loras / "portrait.safetensors")
    save_file({"something.weight": torch.zeros(2, 2)}, loras / "none.safetensors")
    for world, name, family in ((shaped("Flux"), "portrait", "Flux"), (demo, "none", "Portrait")):
        with pytest.raises(ValueError, match=rf"file: none of the \d+ tensors of '{name}' fits a weight of this model \({family}\)"):
            loaded(run, world, f"loras/{name}.safetensors", strength)


def test_a_damaged_lora_is_refused_by_name_and_one_of_ours_is_sent_home(loras, demo, run):
    (loras / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match="file: cut.safetensors cannot be read"):
        loaded(run, demo, "loras/cut.safetensors")
    save_file({"x": torch.zeros(1)}, loras / "ours.safetensors", {"format": "semantic_latents.slider"})
    with pytest.raises(ValueError, match="file: ours.safetensors is no LoRA but a file of Semantic Latents"):
        loaded(run, demo, "loras/ours.safetensors")


def test_a_file_of_another_kind_is_refused_with_the_nodes_that_write_the_right_ones(folders, demo, run):
    save_file({"x": torch.zeros(1)}, folders / "models/semantic_latents/x.safetensors", {"format": "pt"})
    with pytest.raises(ValueError) as caught:
        loaded(run, demo, "x.safetensors")
    assert str(caught.value) == (
        "file: x.safetensors holds no slider (its format is 'pt'); choose a file of Save Slider, Save Attribute or Save Direction, or a "
        "LoRA, which belongs in models/loras."
    )
    (folders / "models/semantic_latents/cut.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(ValueError, match="file: cut.safetensors cannot be read"):
        loaded(run, demo, "cut.safetensors")
    name = saved(run, made(run, demo)[1])
    with pytest.raises(ValueError, match="holds no direction .its format is 'semantic_latents.slider'.; choose a file of Save Direction"):
        run("LoadDirection", file=name, concept="female")


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_model_of_another_family_is_refused_for_every_kind(folders, demo, shaped, run, random_direction, attribute, strength):
    run("SaveDirection", direction=random_direction(1), filename_prefix="direction")
    run("SaveAttribute", attribute=attribute, filename_prefix="attribute")
    name = saved(run, made(run, demo)[1])
    words = {
        name: "file: 'a portrait, blue hair' was made on a model of the family Portrait, and this one is of SD15",
        "direction_00001_.safetensors": "file: found on Portrait",
        "attribute_00001_.safetensors": "file: learned on PortraitLatents",
    }
    for file, message in words.items():
        with pytest.raises(ValueError, match=message):
            loaded(run, shaped("SD15"), file, strength)
        slider = loaded(run, demo, file)[1]
        with pytest.raises(ValueError, match=message.replace("file:", "slider:")):
            slider.on(shaped("SD15").model, 1.0)


def test_strength_0_and_a_mask_of_zeros_are_the_model_itself(folders, demo, run, random_direction, attribute):
    run("SaveDirection", direction=random_direction(1), filename_prefix="direction")
    run("SaveAttribute", attribute=attribute, filename_prefix="attribute")
    for file in (saved(run, made(run, demo)[1]), "direction_00001_.safetensors", "attribute_00001_.safetensors"):
        assert loaded(run, demo, file, 0.0)[0] is demo.model
        assert loaded(run, demo, file, 1.0, mask=torch.zeros(1, 8, 8))[0] is demo.model


def test_the_mask_of_a_slider_from_words_is_make_slider_s(folders, demo, run, sampler_of):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    file = saved(run, made(run, demo)[1])
    expected = drawn(demo, sampler_of, made(run, demo, 1.3, mask)[0])
    assert torch.equal(drawn(demo, sampler_of, loaded(run, demo, file, 1.3, mask=mask)[0]), expected)


def test_all_kinds_chain_like_loras(loras, demo, run, sampler_of, random_direction, attribute):
    """One of each on one model is the nodes of each kind in a row."""
    run("SaveDirection", direction=random_direction(1), filename_prefix="direction")
    run("SaveAttribute", attribute=attribute, filename_prefix="attribute")
    save_file(random_lora(demo.model), loras / "some.safetensors")
    files = [
        saved(run, made(run, demo)[1]),
        "direction_00001_.safetensors",
        "attribute_00001_.safetensors",
        "loras/some.safetensors",
        "attribute_00001_.safetensors",
    ]
    model = demo.model
    for file in files:
        model = loaded(run, demo, file, 0.4, model)[0]
    expected = run(
        "MakeSlider",
        model=demo.model,
        clip=demo.clip,
        strength=0.4,
        without="a portrait",
        wanted="a portrait, blue hair",
        opposite="a portrait, red hair",
    )[0]
    expected = with_direction(run, expected, random_direction(1), 0.4, end_percent=0.8)
    expected = with_attribute_on(run, expected, attribute, 0.4)
    expected = node("LoraLoaderModelOnly", model=expected, lora_name="some.safetensors", strength_model=0.4)
    expected = with_attribute_on(run, expected, attribute, 0.4)
    assert torch.equal(drawn(demo, sampler_of, model), drawn(demo, sampler_of, expected))
    assert not torch.equal(drawn(demo, sampler_of, model), drawn(demo, sampler_of))


def test_what_a_prompt_brings_that_no_file_can_keep_is_refused_by_name(folders, demo, run):
    slider = made(run, demo)[1]
    ((embedding, extras),) = slider.plus
    slider = dataclasses.replace(slider, plus=[[embedding, {**extras, "control": object()}]])
    with pytest.raises(ValueError, match="slider: its prompts carry control, which a file cannot keep"):
        run("SaveSlider", slider=slider, filename_prefix="slider")
    assert not list((folders / "output").rglob("*.safetensors"))


def test_the_list_has_every_file_that_may_be_a_slider_and_nothing_else(loras, folders):
    from pack.host.slider_files import slider_names

    own = folders / "models/semantic_latents"
    for path in (
        own / "a.safetensors",
        own / "unet.pth",
        own / "b/c.safetensors",
        loras / "d.safetensors",
        loras / "e.pt",
        loras / "f/g.safetensors",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    expected = ["a.safetensors", "b/c.safetensors", "loras/d.safetensors", "loras/f/g.safetensors"]
    assert sorted(slider_names()) == sorted([*expected, *(f"{name}.safetensors" for name in DEMO)])


def test_the_fingerprint_changes_with_the_file_that_is_read(loras, folders, pack_nodes, demo):
    import os

    print_of = pack_nodes["SemanticLatents_LoadSlider"].fingerprint_inputs
    seen = []
    for time in (1000, 2000):
        for path in (folders / "models/semantic_latents/x.safetensors", loras / "x.safetensors"):
            path.write_bytes(b"")
            os.utime(path, (time, time))
        seen += [print_of(file=file, strength=1.0) for file in ("x.safetensors", "loras/x.safetensors")]
    assert len(set(seen)) == 4
    assert print_of(file="loras/../secret.safetensors", strength=1.0)[-1] is None


@pytest.mark.parametrize(
    "away", ["../secret.safetensors", "loras/../../secret.safetensors", "loras//secret.safetensors", "loras/", "", "/"]
)
def test_nothing_outside_the_folders_is_read(loras, folders, demo, run, away):
    save_file(random_lora(demo.model), folders / "secret.safetensors")
    with pytest.raises(FileNotFoundError, match="not found"):
        loaded(run, demo, away)
