"""Apply Attribute to Model in the real host: bit for bit what Apply Attribute around the sampler is, in every run."""

import pytest
import torch

from pack.tests.attributes import SOURCE, STEPS, TARGET, train
from pack.tests.edits import with_attribute, with_attribute_on, with_gain
from pack.tests.wiring import node

WORLDS = ["demo", "Flux", "SD3"]
SAMPLERS = ["euler", "ddim", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"]


@pytest.fixture
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def learned(world, demo, run, sampler_of, attribute):
    return attribute if world is demo else train(run, world, sampler_of("euler"))[0]


def latent_of(world, sampler, model=None, **more):
    return world.sample(sampler, steps=STEPS, prompt=SOURCE, model=model, **more)


def advanced(world, sampler, model=None, **more):
    """The latent of SamplerCustomAdvanced."""
    wired = world.wired(sampler, steps=STEPS, prompt=SOURCE, model=model, **more)
    return node("custom_sampler.SamplerCustomAdvanced", **wired)["samples"]


def ways(world, target=TARGET):
    """How an attribute is used, by the settings of both nodes."""
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    return [{}, dict(target=world.encode(target)), dict(target=world.encode(target), mask=left, budget=0.5), dict(mask=left, strength=-1.5)]


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_it_is_what_apply_attribute_does_around_the_sampler(world, run, sampler_of, learned):
    plain = latent_of(world, sampler_of("euler"))
    for way in ways(world):
        model = with_attribute_on(run, world.model, learned, **way)
        for draw in (latent_of, advanced):
            expected = draw(world, with_attribute(run, sampler_of("euler"), learned, **way))
            assert torch.equal(draw(world, sampler_of("euler"), model), expected)
            assert torch.equal(draw(world, sampler_of("euler"), model), expected)  # the second run
        assert not torch.equal(expected, advanced(world, sampler_of("euler")))
    assert torch.equal(latent_of(world, sampler_of("euler")), plain)  # the model that came in


@pytest.mark.parametrize("name", SAMPLERS)
def test_ksampler_draws_it(demo, run, sampler_of, attribute, monkeypatch, name):
    """KSampler makes its sampler of itself; around that one Apply Attribute is put by hand."""
    import comfy.samplers

    def drawn(model):
        inputs = dict(seed=3, steps=STEPS, cfg=2.0, sampler_name=name, scheduler="normal", denoise=1.0)
        prompts = dict(positive=demo.encode(SOURCE), negative=demo.encode(""))
        return node("KSampler", model=model, latent_image=demo.empty(), **prompts, **inputs)["samples"]

    plain = drawn(demo.model)
    for target in (None, demo.encode(TARGET)):
        found = drawn(with_attribute_on(run, demo.model, attribute, target=target))
        around = with_attribute(run, sampler_of(name), attribute, target=target)
        with monkeypatch.context() as patched:
            patched.setattr(comfy.samplers, "sampler_object", {name: around}.__getitem__)
            expected = drawn(demo.model)
        assert torch.equal(found, expected)
        assert (found - plain).abs().max() > 0.02


def test_strength_0_and_a_mask_of_zeros_are_the_model_itself(demo, run, attribute):
    for way in ways(demo):
        assert with_attribute_on(run, demo.model, attribute, **{**way, "strength": 0.0}) is demo.model
        assert with_attribute_on(run, demo.model, attribute, **{**way, "mask": torch.zeros(1, 32, 32)}) is demo.model


def test_uses_add_up_on_the_model_and_with_those_of_the_sampler(demo, run, sampler_of, attribute):
    other = train(run, demo, sampler_of("euler"), target="a portrait, hat")[0]
    uses = [(attribute, 0.5, demo.encode(TARGET)), (other, -0.4, None), (other, 0.7, demo.encode("a portrait, hat"))]
    sampler = sampler_of("euler")
    for one, strength, target in uses:
        sampler = with_attribute(run, sampler, one, strength, target=target)
    expected = latent_of(demo, sampler)
    for own in range(3):
        sampler, model = sampler_of("euler"), demo.model
        for one, strength, target in uses[:own]:
            sampler = with_attribute(run, sampler, one, strength, target=target)
        for one, strength, target in uses[own:]:
            model = with_attribute_on(run, model, one, strength, target=target)
        assert torch.equal(latent_of(demo, sampler, model), expected)


def test_an_edit_during_sampling_is_in_both_runs(demo, run, sampler_of, attribute):
    target = demo.encode(TARGET)
    sampler = with_gain(run, sampler_of("euler"), "x0")
    expected = latent_of(demo, with_attribute(run, sampler, attribute, target=target))
    assert torch.equal(latent_of(demo, sampler, with_attribute_on(run, demo.model, attribute, target=target)), expected)


@pytest.mark.parametrize("name", ["uni_pc", "sa_solver", "dpm_fast", "dpm_adaptive"])
def test_samplers_that_hide_their_latent_are_refused(demo, run, sampler_of, attribute, name):
    with pytest.raises(ValueError, match="sampler: .* evaluates the model away from its running latent"):
        latent_of(demo, sampler_of(name), with_attribute_on(run, demo.model, attribute))


def test_a_sampler_that_is_no_ksampler_is_refused(demo, run, attribute):
    import comfy.samplers

    class Foreign(comfy.samplers.Sampler):
        def sample(self, *args, **kwargs):
            raise AssertionError("it is not asked")

    with pytest.raises(ValueError, match="sampler: Foreign is not built on the host's KSAMPLER"):
        latent_of(demo, Foreign(), with_attribute_on(run, demo.model, attribute))


def test_another_kind_of_latents_is_refused_at_the_node(shaped, run, attribute):
    with pytest.raises(ValueError, match=r"attribute: learned on PortraitLatents \(4 channels\), but this model works on SD15"):
        with_attribute_on(run, shaped("SD15").model, attribute)


def part(world, sampler, model, sigmas, latent, add_noise):
    prompts = dict(positive=world.encode(SOURCE), negative=world.encode(""))
    inputs = dict(model=model, add_noise=add_noise, noise_seed=1, cfg=2.0, sampler=sampler, sigmas=sigmas, latent_image=latent)
    return node("custom_sampler.SamplerCustom", **prompts, **inputs)


@pytest.mark.parametrize("target", [None, TARGET])
def test_parts_of_a_run_and_tiles_are_edited_as_with_apply_attribute(demo, run, sampler_of, attribute, target):
    """A run that ends before its place, one that starts after it, and a later one of another size."""
    way = dict(target=None if target is None else demo.encode(target))
    sampler, model = with_attribute(run, sampler_of("euler"), attribute, **way), with_attribute_on(run, demo.model, attribute, **way)
    sigmas, plain = demo.sigmas(STEPS), sampler_of("euler")
    first = part(demo, plain, demo.model, sigmas[:2], demo.empty(), True)
    assert torch.equal(part(demo, plain, model, sigmas[:2], demo.empty(), True)["samples"], first["samples"])
    tile = {"samples": 0.1 * torch.ones(1, 4, 12, 16)}
    for levels, latent, noisy in ((sigmas[1:], first, False), (sigmas[4:], first, True), (sigmas[4:], tile, True)):
        expected = part(demo, sampler, demo.model, levels, latent, noisy)["samples"]
        assert torch.equal(part(demo, plain, model, levels, latent, noisy)["samples"], expected)
        same = torch.equal(part(demo, plain, demo.model, levels, latent, noisy)["samples"], expected)
        assert same == (target is None and latent is tile)


# In the runs that nodes of the pack make themselves


def test_sample_trajectory_and_explore_singular_vectors_see_the_edited_run(demo, run, sampler_of, attribute):
    model = with_attribute_on(run, demo.model, attribute, target=demo.encode(TARGET))
    sampler = with_attribute(run, sampler_of("euler"), attribute, target=demo.encode(TARGET))

    def seen(sampler, model):
        wired = demo.wired(sampler, steps=STEPS, prompt=SOURCE, model=model)
        latent, trajectory = run("SampleTrajectory", **wired)
        explored = run("ExploreSingularVectors", **wired, percent=0.2, triplets="1", gains="0.5, 1", batch_size=0)[0]
        return [latent["samples"], *trajectory.x, *trajectory.denoised, explored["samples"]]

    found, expected, plain = (seen(*way) for way in ((sampler_of("euler"), model), (sampler, None), (sampler_of("euler"), None)))
    assert len(found) == 2 * (STEPS + 1) + 2
    assert all(map(torch.equal, found, expected))
    assert not torch.equal(found[0], plain[0])
    assert not torch.equal(found[-1], plain[-1])


@pytest.mark.parametrize("target", [None, TARGET])
def test_train_attribute_learns_on_the_edited_run(demo, run, sampler_of, attribute, target):
    """What is learned on a model with a hat is what the sampler with a hat would have learned: both runs have it, once."""

    class On:
        """The demo model, with the attribute."""

        model = with_attribute_on(run, demo.model, attribute, target=None if target is None else demo.encode(target))
        vae, encode, empty, sigmas = demo.vae, demo.encode, demo.empty, demo.sigmas

    around = with_attribute(run, sampler_of("euler"), attribute, target=None if target is None else demo.encode(target))
    words = dict(target="a portrait, hat", seeds=2)
    found, expected, plain = (train(run, *way, **words) for way in ((On, sampler_of("euler")), (demo, around), (demo, sampler_of("euler"))))
    tensors = [[one[0].parts[0][0].stored.U, one[0].parts[0][0].stored.S, one[2]] for one in (found, expected, plain)]
    assert all(map(torch.equal, tensors[0], tensors[1]))
    assert found[1] == expected[1]
    assert not torch.equal(tensors[0][1], tensors[2][1])


def direction_inputs(demo, model):
    runs = dict(latent=demo.empty(), images=2, batch_size=2, steps=4, cfg=2.0, seed=0)
    return dict(model=model, negative=demo.encode(""), **runs)


@pytest.mark.parametrize("target", [None, TARGET])
@pytest.mark.parametrize("method", ["prompts", "PCA", "pullback"])
def test_directions_are_found_on_the_edited_run(demo, run, sampler_of, attribute, monkeypatch, target, method):
    """The target's run of the attribute is none of those in which h is looked at."""
    import pack.host.watching as watching

    way = dict(target=None if target is None else demo.encode(target))

    def found(model):
        if method == "prompts":
            words = dict(source=demo.encode(SOURCE), target=demo.encode("a portrait, hat"))
            return run("DirectionFromPrompts", **direction_inputs(demo, model), **words)[0].shifts
        more = dict(positive=demo.encode(SOURCE), method=method, count=1, percent=0.6, iterations=2)
        return run("DiscoverDirections", **direction_inputs(demo, model), **more)[0][0].shifts

    plain, edited = found(demo.model), found(with_attribute_on(run, demo.model, attribute, **way))
    monkeypatch.setattr(watching, "euler", lambda: with_attribute(run, sampler_of("euler"), attribute, **way))
    assert torch.equal(edited, found(demo.model))
    assert not torch.equal(edited, plain)


def test_editing_schedule_measures_the_edited_run(demo, run, sampler_of, attribute, monkeypatch):
    import pack.nodes.schedule as schedule

    way = dict(target=demo.encode(TARGET))
    prompts = dict(positive=demo.encode(SOURCE), negative=demo.encode(""))
    numbers = dict(images=1, steps=4, cfg=2.0, seed=0, edit_threshold=0.1, boost_threshold=0.1, distance="RMS")

    def picture(model):
        texts = dict(source_text="", target_text="")
        return run("EditingSchedule", model=model, vae=demo.vae, latent=demo.empty(), **prompts, **numbers, **texts)[3]

    plain, edited = picture(demo.model), picture(with_attribute_on(run, demo.model, attribute, **way))
    monkeypatch.setattr(schedule, "euler", lambda: with_attribute(run, sampler_of("euler"), attribute, **way))
    assert torch.equal(edited, picture(demo.model))
    assert not torch.equal(edited, plain)


def test_nodes_that_no_edited_run_serves_refuse_the_model(demo, run, sampler_of, attribute):
    from pack.host.inversion import inverted
    from pack.tests.training import SETTINGS

    model = with_attribute_on(run, demo.model, attribute)
    message = "model: it carries an attribute, .*; connect the model as it is before Apply Attribute to Model"
    picture = {"samples": torch.rand(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=message):
        run("Invert", model=model, positive=demo.encode(SOURCE), latent=picture, sigmas=demo.sigmas(4), refinements=1, tolerance=0.0)
    with pytest.raises(ValueError, match=message):
        inverted(model, demo.encode(SOURCE), [picture], demo.sigmas(4))
    prompts = dict(source=demo.encode(SOURCE), negative=demo.encode(""), target=demo.encode(TARGET))
    given = dict(model=model, vae=demo.vae, latent=demo.empty(), **prompts, **SETTINGS)
    with pytest.raises(ValueError, match=message):
        run("TrainDirection", **{key: [value] for key, value in given.items()})


def test_it_stacks_with_a_direction_and_a_slider_on_the_model(demo, run, sampler_of, attribute, random_direction):
    from pack.tests.edits import with_direction, with_slider

    patched = with_slider(run, with_direction(run, demo.model, random_direction(1)), demo.clip)
    way = dict(target=demo.encode(TARGET))
    expected = latent_of(demo, with_attribute(run, sampler_of("euler"), attribute, **way), patched)
    after = with_attribute_on(run, patched, attribute, **way)
    before = with_attribute_on(run, demo.model, attribute, **way)
    before = with_slider(run, with_direction(run, before, random_direction(1)), demo.clip)
    for model in (after, before):
        assert torch.equal(latent_of(demo, sampler_of("euler"), model), expected)
    assert not torch.equal(expected, latent_of(demo, sampler_of("euler"), patched))


def test_cancel_leaves_nothing_behind(demo, run, sampler_of, attribute):
    import comfy.model_management as management

    model = with_attribute_on(run, demo.model, attribute, target=demo.encode(TARGET))
    expected = latent_of(demo, sampler_of("euler"), model)
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        latent_of(demo, sampler_of("euler"), model)
    assert torch.equal(latent_of(demo, sampler_of("euler"), model), expected)
