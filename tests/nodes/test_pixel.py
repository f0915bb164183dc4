"""Load Pixel Diffusion Model: stock samplers draw as the papers do, and the pack's nodes work on what it loads."""

import math

import pytest
import torch

from pack.tests.pixel_worlds import NETWORKS, SIZE, Pixel, relative
from pack.tests.wiring import node, random

RUN = dict(images=2, batch_size=2, steps=3, cfg=3.0, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import folder_paths

    path = tmp_path_factory.mktemp("pixel")
    folder_paths.add_model_folder_path("diffusion_models", str(path))
    yield path
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(path))


@pytest.fixture(scope="module")
def pixel(run, folder):
    """`pixel("DDPM")`: a world, made once."""
    made = {}

    def make(name, **changes):
        key = name, *changes.items()
        if key not in made:
            with torch.inference_mode():
                made[key] = Pixel(run, folder, name, **changes)
        return made[key]

    return make


@pytest.fixture(params=NETWORKS)
def world(request, pixel):
    return pixel(request.param)


def counted(model):
    """A clone of a model, and a list that gets the number of rows of each call of its network."""
    from comfy.patcher_extension import WrappersMP

    rows, model = [], model.clone()

    def count(executor, x, *args, **kwargs):
        rows.append(len(x))
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "count", count)
    return model, rows


def test_a_stock_sampler_draws_what_the_papers_ddim_draws(world):
    """At the network's own steps, from its noisiest; a mistake in schedule, number or time of steps shows."""
    places = [999, 700, 350, 90]
    sigmas = torch.cat([world.model.get_model_object("model_sampling").sigmas[places], torch.zeros(1)])
    noise = random(7, 2, 3, SIZE, SIZE)

    class Given:
        seed = 0

        def generate_noise(self, latent):
            return noise

    sampler = node("custom_sampler.KSamplerSelect", sampler_name="euler")
    wired = world.wired(sampler, noise=Given(), sigmas=sigmas, cfg=1.0, latent=world.empty(2))
    drawn = node("custom_sampler.SamplerCustomAdvanced", **wired)["samples"]
    per = world.steps // 1000
    assert relative(drawn, world.drawn_by_ddim(noise, [per * t + per - 1 for t in places])) < 2e-4
    assert relative(drawn, world.drawn_by_ddim(noise, [per * (t - 9) + per - 1 for t in places])) > 1e-3


@pytest.mark.parametrize("mistake", [dict(noise_schedule="cosine"), dict(training_steps="4000")])
def test_another_schedule_has_other_levels(pixel, mistake):
    levels = pixel("DDPM").model.get_model_object("model_sampling").sigmas
    assert relative(pixel("DDPM", **mistake).model.get_model_object("model_sampling").sigmas.log(), levels.log()) > 1e-3


def test_levels_and_percents_are_the_papers(world):
    levels, kept = world.model.get_model_object("model_sampling"), world.kept()
    sigmas, per = ((1 - kept) / kept).sqrt(), world.steps // 1000
    assert len(levels.sigmas) == 1000
    torch.testing.assert_close(levels.sigmas, sigmas[per - 1 :: per].float(), rtol=1e-5, atol=0)
    for percent in (0.25, 0.5, 0.8):
        place = (1 - percent) * 999
        between = (sigmas[per * math.floor(place) + per - 1] * sigmas[per * math.ceil(place) + per - 1]).sqrt()
        assert levels.percent_to_sigma(percent) == pytest.approx(float(between), rel=0.01)


def test_a_node_that_makes_a_sampling_of_its_own_keeps_the_levels(world):
    sampled = node("model_advanced.ModelSamplingDiscrete", model=world.model, sampling="eps", zsnr=False)
    own, other = (m.get_model_object("model_sampling").sigmas.log() for m in (world.model, sampled))
    assert (own - other).abs()[:990].max() < 0.02  # the last ones are those that the cosine schedule's bound cuts


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "euler_ancestral", "ddim", "uni_pc"])
def test_stock_samplers_and_vae_run(pixel, sampler):
    world = pixel("DDPM")
    drawn = world.draw(sampler=sampler)
    picture = world.vae.decode(drawn)
    assert picture.shape == (1, SIZE, SIZE, 3)
    assert torch.isfinite(picture).all()
    assert relative(drawn, world.draw(sampler=sampler, seed=2)) > 0.1
    back = world.vae.encode(picture)
    torch.testing.assert_close(back.cpu(), drawn.cpu().clamp(-1, 1), rtol=0, atol=1e-5)


def test_an_empty_latent_of_core_fits(pixel):
    import nodes

    (latent,) = nodes.EmptyLatentImage().generate(64, 32, 1)
    assert pixel("DDPM").draw(latent=latent).shape == (1, 3, 32, 64)


def test_guidance_never_costs_the_second_half(pixel):
    world = pixel("DDPM")
    model, rows = counted(world.model)
    drawn = world.draw(model=model, cfg=7.0, steps=3)
    assert rows == [1, 1, 1]
    assert torch.equal(drawn, world.draw(cfg=1.0, steps=3))
    (both,) = [node("ConditioningCombine", conditioning_1=world.prompt, conditioning_2=world.prompt)]
    late = node("ConditioningSetTimestepRange", conditioning=both, start=0.5, end=1.0)
    rows.clear()
    assert torch.equal(world.draw(model=model, cfg=3.0, steps=3, prompt=late), drawn)
    assert rows == [1, 1, 1]


def test_a_batch_is_its_pictures(world):
    latents = world.draw(latent=world.empty(2), cfg=1.0)
    model, noise = world.model, random(3, 2, 3, SIZE, SIZE)
    assert latents.shape == (2, 3, SIZE, SIZE)
    network, t = model.model.diffusion_model, torch.tensor([500.0, 20.0])
    label = world.label if world.label is None else world.label.expand(2)
    both = network(noise, t, y=label)
    singles = [network(noise[i : i + 1], t[i : i + 1], y=world.label) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(singles), rtol=1e-4, atol=1e-5)


def test_a_label_chooses_a_class(pixel):
    one, other = pixel("ADM"), pixel("ADM", label=1)
    assert relative(one.draw(), other.draw()) > 1e-3
    mixed = one.wired(node("custom_sampler.KSamplerSelect", sampler_name="euler"))
    mixed["guider"] = node("custom_sampler.CFGGuider", model=one.model, cfg=2.0, positive=one.prompt, negative=other.prompt)
    assert relative(node("custom_sampler.SamplerCustomAdvanced", **mixed)["samples"], one.draw()) > 1e-3
    with pytest.raises(ValueError, match=r"label: got 5; this network has the 5 classes 0 to 4"):
        pixel("ADM", label=5)
    with pytest.raises(ValueError, match="this model draws classes, and the prompt names none"):
        one.draw(prompt=[[torch.zeros(1, 1, 1), {}]])


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_directions_are_found_and_applied(pixel, run, name, asymmetric):
    # from the cosine schedule's highest level, of 20 000, a network of random weights leaves what float16 can hold
    world = pixel(name, noise_schedule="linear")
    found = dict(model=world.model, positive=world.prompt, negative=world.prompt, latent=world.empty(), percent=0.5, iterations=2)
    directions, _, picture = run("DiscoverDirections", method="PCA", count=1, **found, **RUN)
    assert torch.isfinite(picture).all()
    assert directions[0].shifts.shape[1:] == (64, SIZE // 4, SIZE // 4)
    edit = dict(model=world.model, direction=directions[0], start_percent=0.0, end_percent=0.9, ramp=0.0, branch="both", keep_norm=False)
    plain = world.draw()
    assert torch.equal(world.draw(model=run("ApplyDirection", strength=0.0, asymmetric=asymmetric, **edit)[0]), plain)
    edited = [world.draw(model=run("ApplyDirection", strength=s, asymmetric=asymmetric, **edit)[0]) for s in (3.0, -3.0)]
    assert relative(edited[0], plain) > 1e-3
    assert relative(edited[0], edited[1]) > 1e-3
    assert torch.equal(world.draw(), plain)


def test_a_shift_of_h_is_that_of_the_reference(pixel, run):
    """At one step: the same shift on the reference's h gives the same prediction."""
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of

    world, x = pixel("DDPM"), random(4, 1, 3, SIZE, SIZE)
    shift = random(5, 1, 64, 4, 4)
    seen = []

    def patch(args):
        seen.append(args["h"])
        return {"h": args["h"] + shift}

    network, t = world.model.model.diffusion_model, torch.tensor([300.0])
    edited = network(x, t, transformer_options={"patches": {"middle_block_after_patch": [patch]}})
    middle = world.reference.names["middle"][2]
    before = world.reference.run_res
    world.reference.run_res = lambda name, *args: before(name, *args) + (shift if name == middle else 0)
    try:
        assert relative(edited, world.reference(x, t)) < 2e-5
    finally:
        del world.reference.run_res
    Direction(shift, (1.0,), family_of(world.model), "random")


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_directions_of_one_step_are_found(world, run, method):
    found = dict(model=world.model, positive=world.prompt, negative=world.prompt, latent=world.empty(), percent=0.5, iterations=3)
    directions, *_ = run("DiscoverDirections", method=method, count=2, **found, **RUN)
    assert len(directions) == 2
    assert all(torch.isfinite(direction.shifts).all() for direction in directions)


def test_a_direction_belongs_to_its_checkpoint(pixel, run, folder, tmp_path):
    """Another checkpoint of the same shape is another family; a file keeps which; another type of the weights changes nothing."""
    from safetensors.torch import save_file as save

    from pack.core.hspace.direction import Direction
    from pack.core.hspace.file import direction_tensors, load_direction
    from pack.host.families import check_fits, family_of

    one, other = pixel("DDPM"), pixel("DDPM", seed=1)
    direction = Direction(random(1, 1, 64, 4, 4), (1.0,), family_of(one.model), "random")
    tensors, metadata = direction_tensors(direction)
    save(tensors, tmp_path / "d.safetensors", metadata)
    loaded = load_direction(tmp_path / "d.safetensors")
    check_fits(one.model, loaded, "direction")
    check_fits(pixel("DDPM", weight_dtype="fp16").model, loaded, "direction")
    with pytest.raises(ValueError, match=r"direction: found on Pixel \w{12} \(EPS, 64 channels\), but needed here for Pixel \w{12}"):
        check_fits(other.model, loaded, "direction")


def test_training_needs_no_prompt_with_clips_objective(pixel, run, scorer):
    from pack.tests.training import SETTINGS

    world = pixel("DDPM")
    given = {**SETTINGS, "model": world.model, "source": world.prompt, "negative": world.prompt, "vae": world.vae, "cfg": 3.0}
    given |= {"latent": world.empty(), "target_text": "a portrait, blue hair"}
    direction, loss, picture = run(
        "TrainDirection", **{key: [value] for key, value in {**given, **scorer, "objective": "CLIP directional"}.items()}
    )
    assert all(math.isfinite(value) for value in loss["loss"])
    edit = dict(strength=1.0, start_percent=0.0, end_percent=0.8, ramp=0.0, branch="both", asymmetric=True, keep_norm=False)
    assert torch.isfinite(world.draw(model=run("ApplyDirection", model=world.model, direction=direction, **edit)[0])).all()
    with pytest.raises(ValueError, match="objective: this pixel-space model is unconditional.*CLIP directional"):
        run("TrainDirection", **{key: [value] for key, value in {**given, "target": world.prompt}.items()})


def test_a_picture_is_inverted_and_drawn_again(world, run):
    sigmas = world.sigmas(8)
    latent = {"samples": 0.5 * random(6, 1, 3, SIZE, SIZE).clamp(-1, 1)}
    noise, _, exact, _ = run(
        "Invert", model=world.model, positive=world.prompt, latent=latent, sigmas=sigmas, refinements=3, tolerance=1e-4
    )
    wired = world.wired(exact, noise=noise, sigmas=sigmas, cfg=1.0)
    back = node("custom_sampler.SamplerCustomAdvanced", **wired)["samples"]
    assert relative(back.cpu(), latent["samples"]) < 1e-3


def test_the_editing_schedule_is_measured(pixel, run):
    world = pixel("DDPM")
    given = dict(model=world.model, positive=world.prompt, negative=world.prompt, vae=world.vae, latent=world.empty(size=32))
    how = dict(
        distance="RMS", images=2, steps=4, cfg=3.0, seed=0, edit_threshold=0.0, boost_threshold=0.0, source_text="a", target_text="b"
    )
    start, end, boost, _ = run("EditingSchedule", **given, **how)
    assert start <= end <= 1.0
    assert 0.0 <= boost <= 1.0


def test_edits_of_latents_act_on_pictures(pixel, run, sampler_of, pack_nodes):
    from pack.tests.edits import with_gain

    world = pixel("DDPM")
    drawn, plain = (world.sample(sampler, steps=4) for sampler in (with_gain(run, sampler_of("euler"), "x_t"), sampler_of("euler")))
    assert relative(drawn, plain) > 1e-3
    assert torch.equal(world.sample(with_gain(run, sampler_of("euler"), "x_t", strength=0.0), steps=4), plain)
    svd = run("Decompose", samples={"samples": plain}, **_defaults(pack_nodes, "Decompose"))[0]
    torch.testing.assert_close(run("Compose", svd=svd)[0]["samples"], plain, rtol=1e-3, atol=1e-4)


def test_trajectories_are_looked_at(pixel, run, sampler_of, pack_nodes):
    world = pixel("DDPM")
    given = world.wired(sampler_of("euler"), steps=4)
    trajectory = run("SampleTrajectory", **{**_defaults(pack_nodes, "SampleTrajectory"), **given})[1]
    for name in ("SubspaceDistance", "VectorMobility"):
        outputs = run(name, **{**_defaults(pack_nodes, name), "trajectory": trajectory})
        assert any(isinstance(one, torch.Tensor) and torch.isfinite(one).all() for one in outputs)


def test_single_triplets_of_pictures_are_explored(pixel, run, sampler_of, pack_nodes):
    world = pixel("DDPM")
    given = {**_defaults(pack_nodes, "ExploreSingularVectors"), **world.wired(sampler_of("euler"), steps=4)}
    given |= {"vae": world.vae, "triplets": "1", "gains": "0.5"}
    names = {i.id for i in pack_nodes["SemanticLatents_ExploreSingularVectors"].define_schema().inputs}
    latents = run("ExploreSingularVectors", **{key: value for key, value in given.items() if key in names})[0]["samples"]
    assert torch.isfinite(latents).all()
    plain = node("custom_sampler.SamplerCustomAdvanced", **world.wired(sampler_of("euler"), steps=4))["samples"]
    assert relative(latents[-1:], plain) > 1e-3


def test_a_strip_shows_a_direction(pixel, run, pack_nodes):
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of
    from pack.host.sliders import DirectionSlider

    world = pixel("DDPM")
    slider = DirectionSlider("random", Direction(random(8, 1, 64, 4, 4), (1.0,), family_of(world.model), "random"))
    given = {
        **_defaults(pack_nodes, "SliderStrip"),
        "model": world.model,
        "slider": slider,
        "vae": world.vae,
        "latent": world.empty(size=32),
    }
    strip = run("SliderStrip", **{**given, "positive": world.prompt, "negative": world.prompt, "strengths": "-1, 0, 1", "steps": 3})[0]
    assert torch.isfinite(strip).all()


def test_guidance_by_three_prompts_costs_one(pixel):
    world = pixel("DDPM")
    model, rows = counted(world.model)
    prompts = dict(cond1=world.prompt, cond2=world.prompt, negative=world.prompt)
    guider = node("custom_sampler.DualCFGGuider", model=model, cfg_conds=4.0, cfg_cond2_negative=3.0, style="regular", **prompts)
    wired = world.wired(node("custom_sampler.KSamplerSelect", sampler_name="euler"), steps=3)
    drawn = node("custom_sampler.SamplerCustomAdvanced", **{**wired, "guider": guider})["samples"]
    assert rows == [1, 1, 1]
    plain = node("custom_sampler.SamplerCustomAdvanced", **wired)["samples"]
    torch.testing.assert_close(drawn, plain)


def _defaults(pack_nodes, name):
    schema = pack_nodes[f"SemanticLatents_{name}"].define_schema()
    return {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None and not i.optional}


def test_what_needs_prompts_says_so(pixel, run, sampler_of, pack_nodes):
    world = pixel("DDPM")
    prompts = dict(source=world.prompt, target=world.prompt, negative=world.prompt)
    with pytest.raises(ValueError, match="source, target: this pixel-space model is unconditional.*Discover Directions"):
        run("DirectionFromPrompts", model=world.model, latent=world.empty(), **prompts, **RUN)
    given = {**_defaults(pack_nodes, "TrainAttribute"), **prompts, "model": world.model, "vae": world.vae, "latent": world.empty()}
    with pytest.raises(ValueError, match="source, target: this pixel-space model is unconditional"):
        run("TrainAttribute", **given, sampler=sampler_of("euler"), sigmas=world.sigmas(3))
    with pytest.raises(ValueError, match="model: this pixel-space model is unconditional.*Discover Directions"):
        run("MakeSlider", model=world.model, clip=None, strength=1.0, without="a", wanted="b")
    direction = run("DiscoverDirections", model=world.model, positive=world.prompt, negative=world.prompt, latent=world.empty(),
                    method="PCA", count=1, percent=0.5, iterations=2, **RUN)[0][0]  # fmt: skip
    edit = dict(strength=1.0, start_percent=0.0, end_percent=0.8, ramp=0.0, branch="unconditional", asymmetric=False, keep_norm=False)
    with pytest.raises(ValueError, match="branch: this model is unconditional"):
        world.draw(model=run("ApplyDirection", model=world.model, direction=direction, **edit)[0])


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_pictures_computed_in_half_precision_are_nearly_the_same(pixel, dtype, monkeypatch):
    import comfy.model_management

    plain = {name: pixel(name).draw() for name in ("DDPM", "ADM")}
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args: None)
    for name in plain:
        world = pixel(name, weight_dtype=dtype, heads="auto")
        assert world.model.model.get_dtype_inference() == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        assert relative(world.draw(), plain[name]) < (0.02 if dtype == "fp16" else 0.15)


def test_labels_are_prompts_to_nodes_that_need_two(pixel, run, sampler_of, pack_nodes):
    """Direction From Prompts, prompt matching and attributes, from one class to another."""
    from pack.tests.training import SETTINGS

    one, other = pixel("ADM"), pixel("ADM", label=1)
    prompts = dict(source=one.prompt, target=other.prompt, negative=one.prompt)
    (direction,) = run("DirectionFromPrompts", model=one.model, latent=one.empty(), **prompts, **RUN)
    assert direction.norm > 0
    given = {**SETTINGS, **prompts, "model": one.model, "vae": one.vae, "latent": one.empty()}
    trained, *_ = run("TrainDirection", **{key: [value] for key, value in given.items()})
    assert trained.family == direction.family
    settings = {**_defaults(pack_nodes, "TrainAttribute"), **prompts, "model": one.model, "vae": one.vae, "latent": one.empty()}
    settings |= {"seeds": 1, "percent": 0.4, "branch": 0.0}
    attribute = run("TrainAttribute", **settings, sampler=sampler_of("euler"), sigmas=one.sigmas(6))[0]
    edited = run("ApplyAttributeToModel", model=one.model, attribute=attribute, strength=1.0, budget=0.0, target=other.prompt)[0]
    assert relative(one.draw(model=edited), one.draw()) > 1e-3
    world = pixel("DDPM")
    aimless = run("ApplyAttributeToModel", model=world.model, attribute=attribute, strength=1.0, budget=0.0, target=world.prompt)[0]
    with pytest.raises(ValueError, match="target: this pixel-space model is unconditional.*Leave target empty"):
        world.draw(model=aimless)
    stored = run("ApplyAttributeToModel", model=world.model, attribute=attribute, strength=1.0, budget=0.0)[0]
    assert relative(world.draw(model=stored), world.draw()) > 1e-3


def test_sizes_that_cannot_be_halved_are_refused(pixel):
    with pytest.raises(ValueError, match=r"latent_image: got pictures of 18 x 18; both sides have to be multiples of 4"):
        pixel("ADM").draw(latent=pixel("ADM").empty(size=18))
    assert pixel("ADM").draw(latent=pixel("ADM").empty(size=20, width=12)).shape == (1, 3, 20, 12)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_other_types_of_weights_draw_nearly_the_same(pixel, dtype):
    for name in ("DDPM", "ADM"):
        plain, other = pixel(name).draw(), pixel(name, weight_dtype=dtype).draw()
        assert relative(other, plain) < (0.02 if dtype == "fp16" else 0.1)


def test_other_nodes_of_core_work_on_it(pixel):
    from comfy_extras.nodes_freelunch import FreeU_V2

    world = pixel("DDPM")
    patched = FreeU_V2.execute(world.model, 1.3, 1.4, 0.9, 0.2).args[0]
    assert torch.isfinite(world.draw(model=patched)).all()


def test_a_model_that_no_key_would_describe_is_not_saved(pixel):
    with pytest.raises(ValueError, match="cannot be saved"):
        pixel("DDPM").model.model.state_dict_for_saving({})


def test_choices_that_a_file_cannot_have_are_refused(pixel):
    with pytest.raises(ValueError, match="attention_order: got 'by head', but q, k and v lie apart"):
        pixel("DDPM", attention_order="by head")
    with pytest.raises(ValueError, match="heads: got 64 channels each, but this network has an attention on 32"):
        pixel("attention at 32 channels", heads="64 channels each")


def test_info_says_what_the_file_is(pixel):
    assert "4000 steps" in pixel("iDDPM").info
    assert "DDPM layout" in pixel("DDPM").info
    assert "5 classes" in pixel("ADM").info
