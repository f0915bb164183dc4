"""Apply Direction in the real host: what it leaves alone, what it moves, and that the asymmetric form is the paper's."""

from types import SimpleNamespace

import pytest
import torch

from pack.core.hspace.direction import Direction, Family
from pack.tests.edits import with_direction
from pack.tests.rounding import close
from pack.tests.wiring import node


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL", "SD15 distilled"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def apply(run):
    def call(world, direction, strength=1.0, **changes):
        return with_direction(run, changes.pop("model", world.model), direction, strength, **changes)

    return call


def drawn(world, sampler_of, model=None, sampler="euler", **options):
    return world.sample(sampler_of(sampler) if isinstance(sampler, str) else sampler, model=model, steps=options.pop("steps", 4), **options)


def test_strength_0_is_the_very_model(world, apply, direction_for):
    assert apply(world, direction_for(world), 0.0) is world.model


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_direction_moves_the_picture_and_disconnecting_it_moves_it_back(world, apply, direction_for, sampler_of, asymmetric):
    before = drawn(world, sampler_of)
    edited = drawn(world, sampler_of, apply(world, direction_for(world), asymmetric=asymmetric))
    assert torch.isfinite(edited).all()
    assert (edited - before).abs().max() > 1e-3
    assert torch.equal(drawn(world, sampler_of), before)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_direction_of_zeros_changes_no_bit(world, apply, direction_for, sampler_of, asymmetric):
    model = apply(world, direction_for(world, scale=0.0), 3.0, asymmetric=asymmetric)
    torch.testing.assert_close(drawn(world, sampler_of, model), drawn(world, sampler_of), rtol=0, atol=0)


def test_a_second_run_equals_the_first(world, apply, direction_for, sampler_of):
    model = apply(world, direction_for(world), asymmetric=True)
    assert torch.equal(drawn(world, sampler_of, model), drawn(world, sampler_of, model))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_batch_equals_its_singles(world, apply, direction_for, sampler_of, asymmetric):
    import comfy.sample

    model, sampler = apply(world, direction_for(world), asymmetric=asymmetric), sampler_of("euler")
    sigmas = world.sigmas(3)
    noise = torch.randn(2, *world.empty()["samples"].shape[1:], generator=torch.Generator().manual_seed(2))

    def sample(noise):
        return comfy.sample.sample_custom(
            model, noise, 2.0, sampler, sigmas, world.encode("a"), world.encode("b"), torch.zeros_like(noise), disable_pbar=True
        )

    close(sample(noise), torch.cat([sample(noise[:1]), sample(noise[1:])]))


def test_masks_of_zeros_and_ones(world, apply, direction_for, sampler_of):
    direction = direction_for(world)
    off = apply(world, direction, mask=torch.zeros(1, 16, 16))
    on = apply(world, direction, mask=torch.ones(1, 16, 16))
    assert torch.equal(drawn(world, sampler_of, off), drawn(world, sampler_of))
    assert torch.equal(drawn(world, sampler_of, on), drawn(world, sampler_of, apply(world, direction)))


def test_a_mask_edits_where_it_is_white(shaped, apply, direction_for, sampler_of):
    """In a UNet whose decoder has no attention: that carries any change over the whole picture."""
    world, mask = shaped("SD15 shallow"), torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    options = dict(latent=world.empty(size=32), steps=2)
    edited = drawn(world, sampler_of, apply(world, direction_for(world, size=(8, 8)), mask=mask), **options)
    change = (edited - drawn(world, sampler_of, **options)).abs().mean((0, 1, 2))
    assert change[:12].mean() > 3 * change[20:].mean()


def test_strength_is_a_factor_of_the_direction(demo, apply, direction_for, sampler_of):
    double, direction = direction_for(demo, scale=2.0), direction_for(demo)
    torch.testing.assert_close(
        drawn(demo, sampler_of, apply(demo, direction, 2.0)), drawn(demo, sampler_of, apply(demo, double, 1.0)), rtol=0, atol=1e-6
    )


def test_stacked_directions_add_in_either_order(world, apply, direction_for, sampler_of):
    one, two = direction_for(world, seed=1), direction_for(world, seed=2)
    first = apply(world, two, 0.5, model=apply(world, one))
    second = apply(world, one, model=apply(world, two, 0.5))
    close(drawn(world, sampler_of, first), drawn(world, sampler_of, second))
    summed = Direction(one.shifts + 0.5 * two.shifts, one.sigmas, one.family, "sum")
    close(drawn(world, sampler_of, first), drawn(world, sampler_of, apply(world, summed)))


def test_two_branches_of_a_graph_do_not_meet(demo, apply, direction_for, sampler_of):
    one, two = apply(demo, direction_for(demo, seed=1)), apply(demo, direction_for(demo, seed=2))
    alone = drawn(demo, sampler_of, one)
    drawn(demo, sampler_of, two)
    assert torch.equal(drawn(demo, sampler_of, one), alone)


def test_the_branches_are_the_halves_of_the_guided_prediction(demo, apply, direction_for, sampler_of):
    """To first order in the shift: both = conditional + unconditional, and at cfg s they stand as s to 1 - s."""
    small = direction_for(demo, scale=0.3)
    base = drawn(demo, sampler_of, steps=1, cfg=3.0)
    moves = {
        b: drawn(demo, sampler_of, apply(demo, small, branch=b), steps=1, cfg=3.0) - base for b in ("both", "conditional", "unconditional")
    }
    assert (moves["conditional"] + moves["unconditional"] - moves["both"]).norm() < 0.05 * moves["both"].norm()
    assert moves["conditional"].norm() > moves["both"].norm()
    assert (moves["conditional"] * moves["unconditional"]).sum() < 0


def test_the_window_chooses_the_steps(demo, apply, direction_for, sampler_of):
    """Two windows that meet are one; a window over the first half leaves the later model calls alone."""
    direction = direction_for(demo)
    halves = apply(demo, direction, start_percent=0.51, model=apply(demo, direction, end_percent=0.5))
    torch.testing.assert_close(drawn(demo, sampler_of, halves), drawn(demo, sampler_of, apply(demo, direction)), rtol=0, atol=1e-5)


def reference(world, direction, strength, gains_matched=True):
    """The paper's process by two separate model calls a step: x' = D~ + sigma' (x - D) / sigma, no code of the pack's samplers."""
    import comfy.samplers

    from pack.core.hspace.injection import matched_scale

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        levels = sigmas.tolist()
        scale = matched_scale(levels, [1.0] * (len(levels) - 1))
        plain, edited = calls(scale)
        for sigma, after in zip(levels, levels[1:]):
            d, e = plain(model, x, sigma, extra_args), edited(model, x, sigma, extra_args)
            x = e + after * (x - d) / sigma
        return x

    def calls(scale):
        def plain(model, x, sigma, extra_args):
            return model(x, sigma * x.new_ones(len(x)), **extra_args)

        def edited(model, x, sigma, extra_args):
            def patch(args):
                return {"h": args["h"] + strength * scale * direction.resampled([sigma]).resized(tuple(args["h"].shape[-2:])).shifts}

            options = extra_args["model_options"]
            inner = options["transformer_options"]
            told = {**inner, "patches": {**inner.get("patches", {}), "middle_block_after_patch": [patch]}}
            return plain(model, x, sigma, {**extra_args, "model_options": {**options, "transformer_options": told}})

        return plain, edited

    return comfy.samplers.KSAMPLER(sampler)


@pytest.mark.parametrize("sampler", ["euler", "ddim", "ours"])
def test_the_asymmetric_form_is_the_papers_process(world, apply, direction_for, sampler_of, run, sampler):
    direction = direction_for(world, scale=0.3 if world.model.model.model_config.__class__.__name__ != "Portrait" else 10.0)
    chosen = run("DDIMSampler", eta=0.0, boost_percent=1.0)[0] if sampler == "ours" else sampler_of(sampler)
    edited = drawn(world, sampler_of, apply(world, direction, 2.0, asymmetric=True), chosen, steps=5)
    expected = drawn(world, sampler_of, None, reference(world, direction, 2.0), steps=5)
    plain = drawn(world, sampler_of, steps=5)
    assert (expected - plain).abs().max() > 1e-2
    close(edited, expected)


def test_the_same_edit_at_15_and_60_steps(demo, apply, run, sampler_of):
    """What a direction from prompts changes at 15 steps is what it changes at 60, within a part of its size."""
    prompts = {"source": demo.encode("a portrait"), "target": demo.encode("a portrait, green background"), "negative": demo.encode("")}
    settings = dict(latent=demo.empty(), images=4, batch_size=4, steps=8, cfg=2.0, seed=0)
    (direction,) = run("DirectionFromPrompts", model=demo.model, **prompts, **settings)

    def pictures(model=None):
        return [drawn(demo, sampler_of, model, steps=n, prompt="a portrait") for n in (15, 60)]

    plain = pictures()
    for asymmetric in (False, True):
        edited = pictures(apply(demo, direction, 6.0, asymmetric=asymmetric))
        few, many = (after - before for before, after in zip(plain, edited, strict=True))
        assert many.abs().max() > 0.1
        assert (few - many).norm() < 0.5 * many.norm()


@pytest.mark.parametrize("asymmetric", [False, True])
def test_it_composes_with_freeu_and_deep_shrink_in_any_order(shaped, apply, direction_for, sampler_of, asymmetric):
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    world = shaped("SD15")
    direction = direction_for(world)

    def freeu(model):
        patch = FreeU_V2.execute if hasattr(FreeU_V2, "execute") else FreeU_V2().patch
        result = patch(model, 1.3, 1.4, 0.9, 0.2)
        return result[0] if isinstance(result, tuple) else result.args[0]

    def shrink(model):
        result = PatchModelAddDownscale.execute(model, 1, 2.0, 0.0, 0.5, True, "bicubic", "bicubic")
        return result.args[0] if hasattr(result, "args") else result[0]

    for other in (freeu, shrink):
        before = apply(world, direction, asymmetric=asymmetric, model=other(world.model))
        after = other(apply(world, direction, asymmetric=asymmetric))
        one, two = (drawn(world, sampler_of, m, latent=world.empty(size=32)) for m in (before, after))
        close(one, two)
        assert (one - drawn(world, sampler_of, other(world.model), latent=world.empty(size=32))).abs().max() > 1e-3


def test_half_precision_and_odd_sizes(shaped, apply, direction_for, sampler_of):
    for dtype in (torch.float16, torch.bfloat16):
        world = shaped("SD15", dtype)
        edited = drawn(world, sampler_of, apply(world, direction_for(world), asymmetric=True), latent=world.empty(2, 20, 28), steps=3)
        assert torch.isfinite(edited).all()


def test_clear_errors(demo, shaped, apply, direction_for, sampler_of):
    direction = direction_for(demo)
    with pytest.raises(ValueError, match="direction: found on Portrait .* needed here for SD15"):
        apply(shaped("SD15"), direction)
    with pytest.raises(ValueError, match="no step of this run starts"):
        drawn(demo, sampler_of, apply(demo, direction, start_percent=0.30, end_percent=0.31))
    with pytest.raises(ValueError, match="mask: got a batch of 2 for 3 latents"):
        drawn(demo, sampler_of, apply(demo, direction, mask=torch.ones(2, 8, 8)), latent=demo.empty(3))
    with pytest.raises(ValueError, match="branch: at cfg 1"):
        drawn(demo, sampler_of, apply(demo, direction, branch="unconditional"), cfg=1.0)
    for sampler in ("euler_ancestral", "dpmpp_2m", "heun"):
        with pytest.raises(ValueError, match=f"{sampler} is not one"):
            drawn(demo, sampler_of, apply(demo, direction, asymmetric=True), sampler)
    with pytest.raises(ValueError, match="0 <= start <= end <= 1"):
        apply(demo, direction, start_percent=0.7, end_percent=0.3)
    with pytest.raises(ValueError, match="ramp"):
        apply(demo, direction, start_percent=0.4, end_percent=0.5, ramp=0.2)


def test_a_transformer_is_refused_with_the_families_that_work(demo, apply, direction_for):

    dit = demo.model.clone()
    dit.object_patches = {"diffusion_model": torch.nn.Linear(1, 1)}
    with pytest.raises(ValueError, match="SD 1.x, SD 2.x or SDXL"):
        apply(demo, direction_for(demo), model=dit)


def test_the_prediction_type_in_force_decides_which_directions_fit(shaped, apply, direction_for):
    """The type of the checkpoint's key and the type of core's node are one.

    A file saved before says what the checkpoint does, whatever was in force.
    """
    by_key, plain = shaped("SDXL v_pred"), shaped("SDXL")
    by_node = SimpleNamespace(model=node("model_advanced.ModelSamplingDiscrete", model=plain.model, sampling="v_prediction", zsnr=False))
    found = {name: direction_for(world) for name, world in {"key": by_key, "node": by_node, "plain": plain}.items()}
    assert found["key"].family == found["node"].family == Family("SDXL", "V_PREDICTION", 64) != found["plain"].family
    for world, names in ((by_key, ("key", "node")), (by_node, ("key", "node", "plain")), (plain, ("plain",))):
        for name in found:
            if name in names:
                assert apply(world, found[name]) is not world.model
            else:
                with pytest.raises(ValueError, match=f"direction: found on SDXL .{found[name].family.prediction}, .* needed here for SDXL"):
                    apply(world, found[name])


def test_a_lora_and_a_direction_act_together_in_either_order(shaped, apply, direction_for, sampler_of):

    world = shaped("SD15")
    key = "diffusion_model.middle_block.0.in_layers.2.weight"
    delta = torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.02

    def lora(model):
        patched = model.clone()
        assert patched.add_patches({key: ("diff", (delta,))}, 1.0)
        return patched

    direction = direction_for(world)
    one, two = lora(apply(world, direction)), apply(world, direction, model=lora(world.model))
    first = drawn(world, sampler_of, one)
    assert torch.equal(first, drawn(world, sampler_of, two))
    assert (first - drawn(world, sampler_of, apply(world, direction))).abs().max() > 1e-3
    assert (first - drawn(world, sampler_of, lora(world.model))).abs().max() > 1e-3
