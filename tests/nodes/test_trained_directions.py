"""Trained directions wherever directions go."""

import torch

from pack.core.hspace.trained import in_form
from pack.tests.edits import with_direction
from pack.tests.training import edited


def test_a_trained_direction_moves_the_picture_at_any_number_of_steps(demo, run, sampler_of, trained):
    for steps in (3, 7):
        plain = demo.sample(sampler_of("euler"), steps=steps, prompt="a portrait")
        up, half = (edited(demo, run, sampler_of, trained[0], s, steps=steps) - plain for s in (1.0, 0.5))
        assert up.abs().max() > 0.02
        assert half.norm() < up.norm()
        assert torch.equal(edited(demo, run, sampler_of, trained[0], 0.0, steps=steps), plain)


def test_a_trained_direction_works_at_another_size_than_it_was_trained_at(demo, run, sampler_of, trained):
    for size in ((12, 8), (16, 16)):
        picture = edited(demo, run, sampler_of, trained[0], latent=demo.empty(1, *size))
        assert torch.isfinite(picture).all()


def test_batches_singles_and_second_runs_agree(demo, run, sampler_of, trained):
    model = with_direction(run, demo.model, trained[0], end_percent=0.9, asymmetric=True)
    both = demo.sample(sampler_of("euler"), model=model, latent=demo.empty(2))
    assert torch.equal(demo.sample(sampler_of("euler"), model=model, latent=demo.empty(2)), both)
    torch.testing.assert_close(demo.sample(sampler_of("euler"), model=model, latent=demo.empty(1)), both[:1], rtol=0, atol=1e-3)


def test_the_asymmetric_form_and_the_ddim_sampler_take_it(demo, run, sampler_of, trained):
    plain = demo.sample(sampler_of("ddim"), steps=4, prompt="a portrait")
    sampler = run("DDIMSampler", eta=0.0, boost_percent=1.0)[0]
    one = edited(demo, run, sampler_of, trained[0], sampler="ddim", asymmetric=True)
    two = edited(demo, run, sampler_of, trained[0], sampler=sampler, asymmetric=True)
    assert (one - plain).abs().max() > 0.02
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)


def test_the_forms_differ_and_are_those_of_the_direction(demo, run, sampler_of, trained):
    full, mean, constant = (edited(demo, run, sampler_of, trained[0], form=form) for form in ("full", "mean", "global"))
    assert not torch.equal(full, mean)
    assert not torch.equal(mean, constant)
    assert torch.equal(mean, edited(demo, run, sampler_of, trained[0].means))
    assert torch.equal(constant, edited(demo, run, sampler_of, in_form(trained[0], "global")))


def test_mixes_with_a_trained_direction_are_directions_and_files(demo, run, sampler_of, trained, folders):
    table = run(
        "DirectionFromPrompts",
        model=demo.model,
        source=demo.encode("a portrait"),
        target=demo.encode("a portrait, hat"),
        negative=demo.encode(""),
        latent=demo.empty(),
        images=2,
        batch_size=2,
        steps=3,
        cfg=2.0,
        seed=0,
    )[0]
    for orthogonalise in (False, True):
        mix = run(
            "CombineDirections",
            first=trained[0],
            second=table,
            first_weight=1.0,
            second_weight=-0.5,
            orthogonalise=orthogonalise,
            keep_size=False,
            average_over_time=False,
        )[0]
        prefix = f"mix{orthogonalise}"
        run("SaveDirection", direction=mix, filename_prefix=prefix)
        loaded = run("LoadDirection", file=f"{prefix}_00001_.safetensors", concept="young")[0]
        picture = edited(demo, run, sampler_of, mix)
        assert torch.equal(edited(demo, run, sampler_of, loaded), picture)
        assert (picture - edited(demo, run, sampler_of, trained[0])).abs().max() > 1e-3


def test_two_edits_in_either_order_give_one_picture(demo, run, sampler_of, trained):
    """Each network looks at h as it is without the other's shift."""
    apply = lambda model, direction: with_direction(run, model, direction, 0.7, end_percent=0.9)
    other = trained[0].means
    one, two = apply(apply(demo.model, trained[0]), other), apply(apply(demo.model, other), trained[0])
    torch.testing.assert_close(demo.sample(sampler_of("euler"), model=one), demo.sample(sampler_of("euler"), model=two), rtol=0, atol=1e-3)
