"""Inversion in the real host: the way back to a picture, by any sampler node and exactly."""

import pytest
import torch

from pack.tests.edits import with_direction
from pack.tests.rounding import close


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def picture():
    """A smooth picture's latent: what no noise is."""

    def make(world, batch=1):
        _, channels, *size = world.empty()["samples"].shape
        coarse = torch.randn(batch, channels, *(side // 4 for side in size), generator=torch.Generator().manual_seed(8))
        return {"samples": torch.nn.functional.interpolate(coarse, size, mode="bicubic") * 0.4}

    return make


def drawn(world, noise, sampler, sigmas, latent, model=None, prompt="a portrait"):
    from comfy_extras.nodes_custom_sampler import BasicGuider, SamplerCustomAdvanced

    guider = BasicGuider.execute(model or world.model, world.encode(prompt)).args[0]
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]["samples"]


def inverted(run, world, latent, sigmas, **changes):
    settings = dict(refinements=20, tolerance=1e-5)
    return run("Invert", model=world.model, positive=world.encode("a portrait"), latent=latent, sigmas=sigmas, **{**settings, **changes})


@pytest.mark.parametrize("start", ["empty", "picture"])
def test_the_exact_sampler_returns_to_the_picture(world, run, picture, start):
    latent, sigmas = picture(world, batch=2), world.sigmas(6)
    noise, _, exact, _ = inverted(run, world, latent, sigmas, refinements=0)
    back = drawn(world, noise, exact, sigmas, latent if start == "picture" else world.empty(2))
    close(back, latent["samples"], 1e-6)  # the host's scaling to and from its latent format rounds


def test_the_noise_starts_any_sampler_node_and_the_error_is_what_it_says(world, run, picture, sampler_of):
    latent, sigmas = picture(world), world.sigmas(6)
    noise, noisy, _, error = inverted(run, world, latent, sigmas)
    back = drawn(world, noise, sampler_of("euler"), sigmas, latent)
    expected = (back - latent["samples"]).square().mean().sqrt() / latent["samples"].std(correction=1)
    assert float(expected) == pytest.approx(error, rel=1e-2, abs=1e-5)
    close(drawn(world, noise, sampler_of("euler"), sigmas, world.empty()), back, 1e-2)  # the random UNets enlarge rounding
    from comfy_extras.nodes_custom_sampler import DisableNoise

    again = drawn(world, DisableNoise.execute().args[0], sampler_of("euler"), sigmas, noisy)
    close(again, back, 1e-2)


def test_refinement_brings_the_way_back_closer(demo, run, picture):
    latent, sigmas = picture(demo), demo.sigmas(12)
    errors = [inverted(run, demo, latent, sigmas, refinements=n)[3] for n in (0, 10)]
    assert errors[1] < 0.7 * errors[0]


def test_a_generated_picture_is_inverted_to_its_own_noise(demo, run, sampler_of):
    """Down and up again: the noise found is the noise drawn from, up to what a step loses."""
    import comfy.sample

    sigmas, empty = demo.sigmas(40, "karras"), demo.empty()
    noise = comfy.sample.prepare_noise(empty["samples"], 3)
    drawn_latent = comfy.sample.sample_custom(
        demo.model, noise, 1.0, sampler_of("euler"), sigmas, demo.encode("a portrait"), [], empty["samples"], disable_pbar=True
    )
    found = inverted(run, demo, {"samples": drawn_latent}, sigmas, refinements=3)[0].generate_noise(empty)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), noise.flatten(), dim=0)
    assert cosine > 0.9


def test_an_edit_keeps_the_exact_way_back(demo, run, picture, sampler_of):
    """With the exact sampler, an edit of strength 0 returns to the picture, one of strength 1 does not."""
    from pack.core.hspace.direction import Direction
    from pack.host.families import family_of

    latent, sigmas = picture(demo), demo.sigmas(6)
    noise, _, exact, _ = inverted(run, demo, latent, sigmas, refinements=2)
    direction = Direction(
        20 * torch.randn(1, 128, 2, 2, generator=torch.Generator().manual_seed(0)), (1.0,), family_of(demo.model), "random"
    )
    back = [drawn(demo, noise, exact, sigmas, latent, with_direction(run, demo.model, direction, s)) for s in (0.0, 1.0)]
    close(back[0], latent["samples"], 1e-6)
    assert (back[1] - latent["samples"]).abs().max() > 0.01


def test_a_batch_inverts_as_its_singles(demo, run, picture):
    latent, sigmas = picture(demo, batch=2), demo.sigmas(4)
    both = inverted(run, demo, latent, sigmas, tolerance=0.0, refinements=3)[1]["samples"]
    single = inverted(run, demo, {"samples": latent["samples"][1:]}, sigmas, tolerance=0.0, refinements=3)[1]["samples"]
    close(both[1:], single, 1e-3)


def test_clear_errors(demo, run, picture):
    from comfy_extras.nodes_custom_sampler import DisableNoise

    latent, sigmas = picture(demo), demo.sigmas(4)
    noise, _, exact, _ = inverted(run, demo, latent, sigmas)
    with pytest.raises(ValueError, match="sigmas: must go down to 0"):
        inverted(run, demo, latent, sigmas[:-1])
    with pytest.raises(ValueError, match="sigmas: no step"):
        inverted(run, demo, latent, sigmas[-1:])
    with pytest.raises(ValueError, match="latent_image: got"):
        drawn(demo, noise, exact, sigmas, demo.empty(size=12))
    with pytest.raises(ValueError, match="sigmas: the exact sampler needs"):
        drawn(demo, noise, exact, demo.sigmas(5), latent)
    with pytest.raises(ValueError, match="sampler: the inversion has 4 steps .* use the same sigmas and the same latents as Invert."):
        drawn(demo, DisableNoise.execute().args[0], exact, sigmas, demo.empty(size=12))


def test_cancel_stops_within_a_model_call(demo, run, picture):
    import comfy.model_management as management

    latent, sigmas = picture(demo), demo.sigmas(4)
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        inverted(run, demo, latent, sigmas)
    inverted(run, demo, latent, sigmas)
