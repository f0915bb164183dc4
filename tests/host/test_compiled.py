"""Models under torch.compile, and patches that skip the UNet: an edit acts there, or says why it cannot."""

import pytest
import torch

from pack.core.hspace.direction import Direction
from pack.tests.edits import with_direction
from pack.tests.wiring import node, random

STEPS = 3


@pytest.fixture(autouse=True)
def fresh():
    """No graphs of another test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def by_the_node(model):
    """Core's, with a compiler that takes no time and makes a graph as the others do."""
    return node("torch_compile.TorchCompileModel", model=model, backend="eager")


def in_its_place(model):
    """As earlier versions of core's node, and other packs, do it."""
    patched = model.clone()
    patched.add_object_patch("diffusion_model", torch.compile(model.get_model_object("diffusion_model"), backend="eager"))
    return patched


@pytest.fixture
def world(shaped):
    """A UNet of few blocks: most of the time goes into making graphs."""
    return shaped("SD15 shallow")


@pytest.fixture
def by_itself(world, monkeypatch):
    """As torch's own method of a module does it."""
    yield lambda model: model.get_model_object("diffusion_model").compile(backend="eager") or model
    world.model.get_model_object("diffusion_model")._compiled_call_impl = None


@pytest.fixture(params=["by_the_node", "in_its_place", "by_itself"])
def compiled(request):
    return request.getfixturevalue("by_itself") if request.param == "by_itself" else globals()[request.param]


@pytest.fixture
def moved(run, world):
    from pack.host.families import family_of

    direction = Direction(10 * random(0, 1, 64, 2, 2), (1.0,), family_of(world.model), "random")

    def call(model, strength=1.0, **changes):
        return with_direction(run, model, direction, strength, **changes)

    return call


def drawn(world, sampler_of, model):
    return world.sample(sampler_of("euler"), steps=STEPS, model=model)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


EDITS = ({}, dict(strength=2.0), dict(asymmetric=True), dict(end_percent=0.4), dict(branch="conditional"))


def test_strength_0_is_the_compiled_model_and_others_are_edits_of_it(world, compiled, moved, sampler_of):
    """A graph of one run serves the next: none may hold an edit, and none may keep one out."""
    right = [drawn(world, sampler_of, moved(world.model, **edit)) for edit in EDITS]
    plain, model = drawn(world, sampler_of, world.model), compiled(world.model)
    assert moved(model, 0.0) is model
    for expected, edit in zip(right, EDITS, strict=True):
        close(drawn(world, sampler_of, model), plain)
        close(drawn(world, sampler_of, moved(model, **edit)), expected)
        assert (expected - plain).abs().max() > 1e-3
    close(drawn(world, sampler_of, model), plain)


def test_an_edit_that_is_compiled_acts_and_leaves_no_trace(world, moved, sampler_of):
    """The first run is the edited one, and each compilation finds the graphs of those before."""
    plain = drawn(world, sampler_of, world.model)
    for edit in EDITS:
        close(drawn(world, sampler_of, by_the_node(moved(world.model, **edit))), drawn(world, sampler_of, moved(world.model, **edit)))
    close(drawn(world, sampler_of, by_the_node(world.model)), plain)


def test_steps_outside_the_range_run_compiled(world, moved, sampler_of, monkeypatch):
    """The graph's calls: two of three steps for the first of them, none for the whole range."""
    calls = []

    def counting(model):
        patched = model.clone()
        unet = model.get_model_object("diffusion_model")
        compiled = torch.compile(unet, backend="eager")
        monkeypatch.setattr(compiled, "forward", lambda *args, **kwargs: calls.append(1) or unet(*args, **kwargs))
        patched.add_object_patch("diffusion_model", compiled)
        return patched

    for end, expected in ((0.1, STEPS - 1), (1.0, 0)):
        drawn(world, sampler_of, moved(counting(world.model), end_percent=end))
        assert len(calls) == expected
        calls.clear()


def test_a_compiled_model_says_once_a_run_that_edited_steps_are_not(world, moved, sampler_of, caplog):
    with caplog.at_level("INFO"):
        drawn(world, sampler_of, moved(world.model))
        assert "torch.compile" not in caplog.text
        drawn(world, sampler_of, moved(by_the_node(world.model)))
    assert caplog.text.count("the steps that it edits run without torch.compile") == 1


def learned(run, world, model, name, steps=2):
    runs = dict(negative=world.encode(""), latent=world.empty(), images=3, batch_size=3, steps=steps, cfg=2.0, seed=0)
    if name == "Direction From Prompts":
        return run("DirectionFromPrompts", model=model, source=world.encode("a portrait"), target=world.encode("a portrait, hat"), **runs)[
            0
        ].shifts
    if name == "Train Direction":
        settings = dict(
            source=world.encode("a portrait"),
            target=world.encode("a portrait, hat"),
            vae=world.vae,
            objective="prompt matching",
            epochs=1,
            end_percent=0.8,
            learning_rate=1e-3,
            keep_weight=0.0,
            source_text="",
            target_text="",
        )
        return run("TrainDirection", **{key: [value] for key, value in {**runs, **settings, "model": model}.items()})[0].means.shifts
    return run(
        "DiscoverDirections", model=model, positive=world.encode("a portrait"), **runs, method=name, count=2, percent=0.3, iterations=2
    )[0][0].shifts


def test_nodes_that_look_at_h_see_that_of_a_compiled_model(run, world, sampler_of):
    """Before and after a run that makes a graph without them, and without leaving one with them."""
    model, plain = by_the_node(world.model), drawn(world, sampler_of, world.model)
    for name in ("PCA", "Direction From Prompts", "Jacobian", "pullback", "Train Direction"):
        torch.testing.assert_close(learned(run, world, model, name), learned(run, world, world.model, name), rtol=0, atol=1e-4)
        close(drawn(world, sampler_of, model), plain)


def skipping(model, kind):
    """A patch that calls the UNet in its own way, without the patches of others."""
    from comfy.patcher_extension import WrappersMP

    patched = model.clone()
    if kind == "shortcut":

        def wrapper(executor, x, timesteps=None, context=None, y=None, control=None, transformer_options={}, **kwargs):
            return executor.class_obj._forward(x, timesteps, context, y, control, {**transformer_options, "patches": {}}, **kwargs)

        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "shortcut", wrapper)
    else:
        patched.set_model_unet_function_wrapper(lambda apply, args: args["input"] / (1 + args["timestep"][:, None, None, None] ** 2))
    return patched


@pytest.mark.parametrize("kind, named", [("shortcut", "the wrapper shortcut"), ("function", "a UNet function wrapper")])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_an_edit_that_is_passed_over_is_refused_by_what_is_there(world, moved, sampler_of, kind, named, asymmetric):
    for model in (skipping(moved(world.model, asymmetric=asymmetric), kind), moved(skipping(world.model, kind), asymmetric=asymmetric)):
        with pytest.raises(ValueError, match=f"^model: .*{named}.*") as refusal:
            drawn(world, sampler_of, model)
        assert "Cache" not in str(refusal.value)


def cached(model, kind):
    """With a cache that skips whatever it can."""
    patched = node(f"easycache.{kind}Node", model=model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False)
    patched.model_options["transformer_options"]["easycache"].reuse_threshold = 1e9
    return patched


@pytest.mark.parametrize("kind", ["EasyCache", "LazyCache"])
def test_an_edit_of_which_every_step_is_skipped_names_the_cache(world, moved, sampler_of, kind):
    """The first steps run, and the edit is for the last ones."""

    def drawn_late(model):
        return world.sample(sampler_of("euler"), steps=8, model=model)

    assert torch.isfinite(drawn_late(cached(moved(world.model), kind))).all()
    with pytest.raises(ValueError, match=f"^model: Apply Direction did not act, .*{kind} skips steps"):
        drawn_late(cached(moved(world.model, start_percent=0.6), kind))


@pytest.mark.parametrize("kind", ["EasyCache", "LazyCache"])
@pytest.mark.parametrize("name", ["Direction From Prompts", "PCA"])
def test_nodes_that_look_at_every_step_name_the_cache(run, world, kind, name):
    with pytest.raises(ValueError, match=f"^model: a step did not reach the UNet's middle block: {kind} skips steps"):
        learned(run, world, cached(world.model, kind), name, steps=8)
