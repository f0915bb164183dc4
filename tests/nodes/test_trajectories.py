"""Sample Trajectory, Subspace Distance, Vector Mobility and Explore Singular Vectors in the real host."""

import pytest
import torch

from pack.nodes.trajectories import numbers_in

STEPS = 5


@pytest.fixture(params=["demo", "SD15"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def wired(world, sampler, **changes):
    return world.wired(sampler, **{"steps": STEPS, "seed": 3, **changes})


def advanced(**inputs):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    return SamplerCustomAdvanced.execute(**inputs).args[0]["samples"]


@pytest.fixture
def trajectory(demo, run, sampler_of):
    return run("SampleTrajectory", **wired(demo, sampler_of("euler")))[1]


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "heun"])
def test_the_run_is_that_of_the_core_node_bit_for_bit(world, run, sampler_of, sampler):
    inputs = wired(world, sampler_of(sampler), latent=world.empty(2))
    latent, trajectory = run("SampleTrajectory", **inputs)
    assert torch.equal(latent["samples"], advanced(**inputs))
    assert len(trajectory.x) == len(trajectory.denoised) == STEPS + 1 == len(trajectory.sigmas)
    assert trajectory.percents[0] == pytest.approx(0, abs=1e-3)
    assert trajectory.percents[-1] == 1
    assert list(trajectory.percents) == sorted(trajectory.percents)


def test_the_latents_are_those_of_the_run(demo, run, sampler_of, trajectory):
    """Each step's euler update leads from one kept latent to the next, and the last one is the finished latent."""
    for i, (sigma, after) in enumerate(zip(trajectory.sigmas, trajectory.sigmas[1:])):
        x, denoised = trajectory.x[i], trajectory.denoised[i]
        torch.testing.assert_close(denoised + after * (x - denoised) / sigma, trajectory.x[i + 1], rtol=1e-4, atol=1e-3)
    assert torch.equal(trajectory.x[-1], trajectory.denoised[-1])


def test_a_noise_mask_is_honoured(demo, run, sampler_of):
    given = {"samples": torch.rand(1, 4, 8, 8), "noise_mask": torch.zeros(1, 8, 8)}
    inputs = wired(demo, sampler_of("euler"), latent=given)
    latent, _ = run("SampleTrajectory", **inputs)
    assert torch.equal(latent["samples"], advanced(**inputs))
    assert "noise_mask" in latent


def test_distances_lie_between_nothing_and_random(run, trajectory):
    for side in ("left", "right"):
        for of in ("x_t", "x0"):
            picture, neighbours, mean, random = run("SubspaceDistance", trajectory=trajectory, rank=3, side=side, of=of)
            assert picture.shape[0] == 1
            assert 0 < neighbours <= mean < 1.2 * random


def test_the_distance_of_a_run_to_itself_is_0_and_of_noise_that_of_random(run, trajectory):
    from dataclasses import replace

    same = replace(trajectory, x=(trajectory.x[0],) * 3, percents=(0.0, 0.5, 1.0))
    assert run("SubspaceDistance", trajectory=same, rank=2, side="left", of="x_t")[2] == pytest.approx(0, abs=1e-5)
    noise = tuple(torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    _, _, mean, random = run("SubspaceDistance", trajectory=replace(same, x=noise), rank=2, side="left", of="x_t")
    assert mean == pytest.approx(random, rel=0.1)


def test_mobility_is_drawn_and_measured(run, trajectory):
    from dataclasses import replace

    picture, mobility = run("VectorMobility", trajectory=trajectory, triplets=4, channel=1, of="x_t")
    assert picture.shape[0] == 1
    assert mobility > 0
    still = replace(trajectory, x=(trajectory.x[-1],) * 6)
    assert run("VectorMobility", trajectory=still, triplets=4, channel=1, of="x_t")[1] == 0
    with pytest.raises(ValueError, match="channel: got 7, the latent has 4"):
        run("VectorMobility", trajectory=trajectory, triplets=4, channel=7, of="x_t")


def explored(run, world, sampler, **changes):
    settings = dict(percent=0.5, triplets="1-2", gains="0, 1, 2", batch_size=0)
    return run("ExploreSingularVectors", **{**wired(world, sampler), **settings, **changes})


def test_variants_start_from_the_edited_step_in_grid_order(world, run, sampler_of):
    """A gain of 1 is the run itself; the others are that run with x_t edited at one step."""
    latent, labels, columns, rows, heads = explored(run, world, sampler_of("euler"))
    batch = latent["samples"]
    assert len(batch) == len(labels) == 6
    assert columns == 2
    assert len(rows) == 3
    assert heads == ["triplet 1", "triplet 2"]
    plain = advanced(**wired(world, sampler_of("euler")))
    for place in (2, 3):
        torch.testing.assert_close(batch[place : place + 1], plain, rtol=0, atol=2e-3 * float(plain.abs().max()))
    assert all((batch[place] - plain[0]).abs().max() > 1e-2 for place in (0, 1, 4, 5))
    assert labels[0] == "triplet 1 x 0"
    assert labels[-1] == "triplet 2 x 2"


def test_a_variant_is_what_an_edit_during_sampling_makes(demo, run, sampler_of):
    from pack.core.svd.decomposition import variants

    batch = explored(run, demo, sampler_of("euler"), triplets="2", gains="3")[0]["samples"]
    edit = run(
        "EditDuringSampling",
        sampler=sampler_of("euler"),
        operation=lambda latent, **_: variants(latent, [2], [3.0]),
        target="x_t",
        steps="first in range",
        start_percent=0.5,
        end_percent=1.0,
    )[0]
    torch.testing.assert_close(batch, advanced(**{**wired(demo, sampler_of("euler")), "sampler": edit}), rtol=0, atol=1e-3)


def test_the_batch_size_does_not_matter(demo, run, sampler_of):
    one, all_at_once = (explored(run, demo, sampler_of("euler"), batch_size=size)[0]["samples"] for size in (1, 0))
    torch.testing.assert_close(one, all_at_once, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(triplets="0"), "triplets: '0' cannot be read"),
        (dict(gains="x"), "gains: 'x' cannot be read"),
        (dict(triplets="9"), "triplets: got 9, a latent of this size has 8"),
    ],
)
def test_what_cannot_be_varied_is_refused(demo, run, sampler_of, changes, message):
    with pytest.raises(ValueError, match=message):
        explored(run, demo, sampler_of("euler"), **changes)


def test_a_batch_and_a_sampler_without_steps_are_refused(demo, run, sampler_of):
    with pytest.raises(ValueError, match="latent_image: got a batch of 2"):
        explored(run, demo, sampler_of("euler"), latent_image=demo.empty(2))
    with pytest.raises(ValueError, match="sampler: unipc evaluates"):
        explored(run, demo, sampler_of("uni_pc"))


def test_cancel_stops_exploring_within_a_step(demo, run, sampler_of):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        explored(run, demo, sampler_of("euler"), triplets="1-8", gains="0 1 2 3")


@pytest.mark.parametrize("text, expected", [("1-4, 8", [1, 2, 3, 4, 8]), ("3", [3]), (" 2,5 7 ", [2, 5, 7]), ("2;2", [2, 2])])
def test_whole_numbers_and_ranges_are_read(text, expected):
    assert numbers_in(text, "triplets", whole=True) == expected


def test_numbers_are_read_with_signs_and_points():
    assert numbers_in("0, 0.5 -1; 2e1", "gains", whole=False) == [0, 0.5, -1, 20]


@pytest.mark.parametrize("text", ["", " , ", "0", "4-2", "1-99999", "a", "1.5", "-3", "1--2", "5000"])
def test_what_is_no_triplet_is_refused_by_name(text):
    with pytest.raises(ValueError, match="triplets: "):
        numbers_in(text, "triplets", whole=True)


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e9", "two"])
def test_what_is_no_gain_is_refused_by_name(text):
    with pytest.raises(ValueError, match="gains: "):
        numbers_in(text, "gains", whole=False)
