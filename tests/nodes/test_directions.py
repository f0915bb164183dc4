"""Directions from prompts and from principal components and their mixes in the real host."""

import pytest
import torch

from pack.core.hspace.direction import Direction, Family
from pack.tests.edits import with_direction


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL", "SD15 distilled"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def contrast(run, world, target="a portrait, blue hair", source="a portrait", **changes):
    settings = dict(latent=world.empty(), images=3, batch_size=2, steps=3, cfg=2.0, seed=0)
    return run(
        "DirectionFromPrompts",
        model=world.model,
        source=world.encode(source),
        target=world.encode(target),
        negative=world.encode(""),
        **{**settings, **changes},
    )[0]


def test_a_contrast_is_the_mean_difference_of_h_on_the_same_latent(world, run):
    """Against h read by hand, at the first noise level, where the running latent is the noise itself."""
    import comfy.sample

    from pack.host.runs import schedule
    from pack.host.watching import Watch

    direction = contrast(run, world, images=2, steps=2, batch_size=1)
    watch, model = Watch({0: "source"}), world.model.clone()
    model.set_model_middle_block_after_patch(watch)
    seen = {}
    for name, prompt in (("target", "a portrait, blue hair"), ("source", "a portrait")):
        for seed in (0, 1):
            noise = comfy.sample.prepare_noise(world.empty()["samples"], seed)
            comfy.sample.sample_custom(
                model,
                noise,
                1.0,
                comfy.samplers.sampler_object("euler"),
                schedule(model, 2)[:2],
                world.encode(prompt),
                [],
                torch.zeros_like(noise),
                disable_pbar=True,
            )
            seen.setdefault(name, []).append(watch.take()[0])
    expected = (torch.cat(seen["target"]) - torch.cat(seen["source"])).mean(0)
    torch.testing.assert_close(direction.shifts[0], expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    assert len(direction.sigmas) == 2
    assert direction.family.name in str(type(world.model.model.model_config))


def test_a_contrast_does_not_depend_on_the_batch_size(world, run):
    one, all_at_once = contrast(run, world, batch_size=1), contrast(run, world, batch_size=3)
    assert one.sigmas == all_at_once.sigmas
    torch.testing.assert_close(one.shifts, all_at_once.shifts, rtol=0, atol=1e-3 * float(one.shifts.abs().max()))


def test_a_contrast_leaves_the_model_unchanged(demo, run, sampler_of):
    before = demo.sample(sampler_of("euler"), steps=2)
    contrast(run, demo)
    assert torch.equal(demo.sample(sampler_of("euler"), steps=2), before)
    assert not demo.model.model_options["transformer_options"].get("patches")


def test_equal_prompts_are_refused(demo, run):
    with pytest.raises(ValueError, match="target: it moves nothing"):
        contrast(run, demo, target="a portrait")


def test_prompts_that_differ_by_rounding_alone_are_refused(demo, run):
    """On some processors a row's place in the batch changes its last bits."""
    ((embedding, extras),) = demo.encode("a portrait")
    nearly = [[embedding + 1e-6 * torch.randn_like(embedding), extras]]
    settings = dict(latent=demo.empty(), images=1, batch_size=1, steps=2, cfg=2.0, seed=0)
    with pytest.raises(ValueError, match="target: it moves nothing"):
        run("DirectionFromPrompts", model=demo.model, source=demo.encode("a portrait"), target=nearly, negative=demo.encode(""), **settings)


def test_cancel_stops_within_a_step(demo, run):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        contrast(run, demo, images=64)
    contrast(run, demo)


def discover(run, world, **changes):
    settings = dict(
        model=world.model,
        latent=world.empty(),
        method="PCA",
        images=6,
        batch_size=3,
        steps=3,
        cfg=2.0,
        seed=0,
        count=3,
        percent=0.4,
        iterations=12,
    )
    return run("DiscoverDirections", positive=world.encode("a portrait"), negative=world.encode(""), **{**settings, **changes})


def test_discovered_directions_are_orthogonal_and_ordered(world, run):
    directions, labels, picture = discover(run, world)
    assert len(directions) == len(labels) == 3
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
    for level in range(3):
        shifts = torch.stack([d.shifts[level].flatten() for d in directions]).double()
        gram = shifts @ shifts.T
        assert (gram - gram.diag().diag()).abs().max() < 1e-3 * gram.diag().max()
    shares = [int(label.split("(")[1][:-2]) for label in labels]
    assert shares == sorted(shares, reverse=True)


def test_jacobian_directions_move_the_prediction_more_than_random_ones(world, run, sampler_of):
    """At the first step, where they were found, and of the same length."""
    directions, labels, _ = discover(run, world, method="Jacobian", images=1, count=2, percent=0.0)
    assert len(labels) == 2
    assert directions[0].norm == pytest.approx(directions[1].norm, rel=1e-3)
    random = torch.randn(directions[0].shifts.shape, generator=torch.Generator().manual_seed(1))
    random = Direction(random * directions[0].norm / random.norm(), directions[0].sigmas, directions[0].family, "random")

    def change(direction):
        model = with_direction(run, world.model, direction, 0.1)
        return (
            world.sample(sampler_of("euler"), steps=1, cfg=1.0, model=model, prompt="a portrait", seed=0)
            - world.sample(sampler_of("euler"), steps=1, cfg=1.0, prompt="a portrait", seed=0)
        ).norm()

    assert change(directions[0]) > 1.5 * change(random)


def test_a_jacobian_s_singular_value_is_how_far_a_small_shift_moves_the_prediction(world, run, sampler_of):
    """By Apply Direction itself, in a run of one step, whose latent is the prediction."""
    from pack.host.runs import schedule

    (direction,), (label,), _ = discover(run, world, method="Jacobian", images=1, count=1, percent=0.0)
    calculate, sigma, none = (
        world.model.get_model_object("model_sampling").calculate_denoised,
        schedule(world.model, 1)[:1],
        torch.zeros(1, 1, 1, 1),
    )
    share, of_output = 0.05, float((calculate(sigma, none + 1, none) - calculate(sigma, none, none)).abs())

    def drawn(strength):
        model = with_direction(run, world.model, direction, strength)
        latent = world.sample(sampler_of("euler"), steps=1, cfg=1.0, model=model, prompt="a portrait", seed=0)
        return world.model.get_model_object("latent_format").process_in(latent)

    moved = float((drawn(share) - drawn(0.0)).norm())
    assert moved / (of_output * share * direction.norm) == pytest.approx(float(label.split("(")[1][:-1]), rel=0.1)


def test_pullback_directions_are_what_h_does_along_its_most_sensitive_inputs(world, run):
    directions, labels, _ = discover(run, world, method="pullback", images=1, count=2, percent=0.0)
    values = [float(label.split("(")[1][:-1]) for label in labels]
    assert values[0] >= values[1] > 0
    cosine = (directions[0].shifts * directions[1].shifts).sum() / directions[0].norm / directions[1].norm
    assert abs(cosine) < 0.2  # left singular vectors are orthogonal


def test_a_mask_keeps_directions_to_its_inside(shaped, run, sampler_of):
    """In a UNet whose decoder has no attention: that carries any change over the whole picture."""
    world, mask, shares = shaped("SD15 shallow"), torch.zeros(1, 16, 16), []
    mask[:, :, :8] = 1

    def drawn(model):
        return world.sample(sampler_of("euler"), steps=3, model=model, prompt="a portrait", seed=0)

    for m in (mask, 1 - mask):
        direction = discover(run, world, method="Jacobian", images=1, count=1, mask=m)[0][0]
        change = (drawn(with_direction(run, world.model, direction)) - drawn(world.model)).square().sum((0, 1, 2))
        shares.append(float(change[:8].sum() / change.sum()))
    assert shares[0] > 0.5 > shares[1]
    assert shares[0] - shares[1] > 0.3


def test_discovery_refuses_what_it_cannot_use(demo, run):
    with pytest.raises(ValueError, match="images: 3 are too few for 3"):
        discover(run, demo, images=3)
    with pytest.raises(ValueError, match="mask: PCA compares whole pictures"):
        discover(run, demo, mask=torch.ones(1, 8, 8))


def test_a_patch_without_a_gradient_is_named(demo, run):
    model = demo.model.clone()
    model.set_model_output_block_patch(lambda h, skip, options: (h + (h - h.detach()).abs().sqrt(), skip))
    with pytest.raises(ValueError, match="a patch of it has no finite gradient .* or method PCA"):
        discover(run, demo, model=model, method="Jacobian", images=1, count=1)


def combined(run, first, second, **changes):
    settings = dict(first_weight=1.0, second_weight=1.0, orthogonalise=False, keep_size=False, average_over_time=False)
    return run("CombineDirections", first=first, second=second, **{**settings, **changes})[0]


def test_combining_adds_with_weights(run, random_direction):
    one, two = random_direction(1), random_direction(2)
    torch.testing.assert_close(combined(run, one, two, first_weight=0.5, second_weight=-2.0).shifts, 0.5 * one.shifts - 2 * two.shifts)
    torch.testing.assert_close(combined(run, one, two, keep_size=True).shifts, (one.shifts + two.shifts) / 2**0.5)
    averaged = combined(run, one, two, average_over_time=True)
    assert len(averaged.sigmas) == 1
    torch.testing.assert_close(averaged.shifts[0], (one.shifts + two.shifts).mean(0))


def test_orthogonalising_takes_the_shared_part_from_the_second(run, random_direction):
    one, two = random_direction(1), random_direction(2)
    second = combined(run, one, two, first_weight=0.0, orthogonalise=True).shifts
    assert ((second * one.shifts).flatten(1).sum(1).abs() < 1e-3 * one.shifts.flatten(1).norm(dim=1) * second.flatten(1).norm(dim=1)).all()


def test_directions_of_other_levels_and_sizes_combine(run, random_direction):
    mix = combined(run, random_direction(1), random_direction(2, levels=(10.0,), size=(8, 8)))
    assert mix.sigmas == (30.0, 3.0, 0.5)
    assert mix.size == (4, 4)
    with pytest.raises(ValueError, match="found on SD15 .* needed here for Portrait"):
        combined(run, random_direction(1), random_direction(2, family=Family("SD15", "EPS", 128)))
