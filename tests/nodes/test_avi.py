"""Apply Attribute and Mix Attributes in the real host."""

import functools

import pytest
import torch

from pack.tests.attributes import SOURCE, STEPS, TARGET, draw, train
from pack.tests.edits import with_attribute
from pack.tests.foreseeing import Foreseeing
from pack.tests.rounding import close

SAMPLERS = ["euler", "ddim", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "dpm_2_ancestral"]


@pytest.fixture(scope="module")
def attribute(sd3, learned_on):
    return learned_on(sd3)


@pytest.fixture(scope="module")
def unedited(sd3):
    """The latent that a stock sampler draws, by its name; each is drawn once."""
    import comfy.samplers

    return functools.cache(lambda name: draw(sd3, comfy.samplers.sampler_object(name)))


@pytest.fixture
def changes(monkeypatch):
    """What edits have added to x_t, seen inside the sampler."""
    from pack.core.sampling import steering

    seen, check = [], steering.check_edited
    monkeypatch.setattr(steering, "check_edited", lambda x, edited, name: seen.append(edited - x) or check(x, edited, name))
    return seen


def test_a_paired_edit_is_the_paper_s_two_runs_and_one_replacement(sd3, run, sampler_of, attribute):
    """By hand: both runs from one noise to T_x, the codes integrated, the source's run finished from the edited code."""
    import comfy.k_diffusion.sampling as k
    import comfy.samplers

    from pack.core.avi.attribute import Pair, Problem

    recipe, sigmas = attribute.parts[0][0].recipe, sd3.sigmas(STEPS)
    halfway = next(i for i, s in enumerate(sigmas) if s <= sd3.model.get_model_object("model_sampling").percent_to_sigma(recipe.percent))
    codes = {}

    def stop(name):
        def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
            codes[name] = k.sample_euler(model, x, sigmas[: halfway + 1], extra_args=extra_args, disable=True)
            return codes[name]

        return comfy.samplers.KSAMPLER(sampler)

    def go_on(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return k.sample_euler(model, codes["edited"], sigmas[halfway:], extra_args=extra_args, disable=True)

    draw(sd3, stop("x"))
    sd3.sample(stop("z"), steps=STEPS, prompt=TARGET)
    problem = Problem.of(codes["x"], Pair(codes["z"], codes["z"]), recipe)
    codes["edited"] = problem.edited(problem.loss.solution()).float()
    by_hand = draw(sd3, comfy.samplers.KSAMPLER(go_on))
    edited = draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=sd3.encode(TARGET)))
    assert torch.allclose(edited, by_hand, atol=1e-4)
    assert not torch.allclose(edited, draw(sd3, sampler_of("euler")), atol=0.05)


@pytest.mark.parametrize("name", SAMPLERS)
def test_strength_0_changes_no_bit_and_1_changes_the_picture(sd3, run, sampler_of, attribute, unedited, name):
    plain = unedited(name)
    for target in (None, sd3.encode(TARGET)):
        assert torch.equal(draw(sd3, with_attribute(run, sampler_of(name), attribute, 0.0, target=target)), plain)
        edited = draw(sd3, with_attribute(run, sampler_of(name), attribute, target=target))
        assert torch.isfinite(edited).all()
        assert (edited - plain).abs().max() > 0.02
        assert torch.equal(draw(sd3, with_attribute(run, sampler_of(name), attribute, target=target)), edited)  # the second run


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_vanishing_strength_comes_near_the_unedited_run(sd3, run, sampler_of, attribute, unedited, name):
    """A target run takes nothing from the randomness of the run itself."""
    plain = unedited(name)
    for strength in (1e-5, -1e-5):
        assert (draw(sd3, with_attribute(run, sampler_of(name), attribute, strength, target=sd3.encode(TARGET))) - plain).abs().max() < 0.01


def test_the_signs_go_opposite_ways(sd3, run, sampler_of, attribute, unedited):
    plain = unedited("euler")
    up, down = (draw(sd3, with_attribute(run, sampler_of("euler"), attribute, s, target=sd3.encode(TARGET))) - plain for s in (0.3, -0.3))
    assert torch.cosine_similarity(up.flatten(), down.flatten(), dim=0) < -0.5


def test_a_batch_is_its_singles(sd3, run, sampler_of, attribute):
    """From given noise, as the host draws a batch's noise in one go."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    noisy = {"samples": 2 * torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(0))}
    for target in (None, sd3.encode(TARGET)):
        sampler, sigmas = with_attribute(run, sampler_of("euler"), attribute, target=target), sd3.sigmas(STEPS)

        def sample(latent, sampler=sampler, sigmas=sigmas):
            return SamplerCustom.execute(
                sd3.model, False, 0, 2.0, sd3.encode(SOURCE), sd3.encode(""), sampler, sigmas, {"samples": latent}
            ).args[0]["samples"]

        together = sample(noisy["samples"])
        for i in range(3):
            assert torch.allclose(together[i], sample(noisy["samples"][i : i + 1])[0], atol=1e-3)


def test_masks(sd3, run, sampler_of, attribute, unedited, changes):
    plain, target = unedited("euler"), sd3.encode(TARGET)
    whole = draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=target))
    assert torch.equal(draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=target, mask=torch.zeros(1, 32, 32))), plain)
    assert torch.equal(draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=target, mask=torch.ones(1, 32, 32))), whole)
    left = torch.zeros(1, 32, 32)
    left[..., :16] = 1
    half = draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=target, mask=left))
    everywhere, inside = changes[-2:]
    assert torch.equal(inside[..., :8], everywhere[..., :8])
    assert not inside[..., 8:].any()
    assert not torch.equal(half, plain)
    assert not torch.equal(half, whole)
    with pytest.raises(ValueError, match="mask: got a batch of 2"):
        draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=target, mask=torch.ones(2, 32, 32)))


def test_chained_attributes_add_up_in_any_order(sd3, run, sampler_of, attribute):
    other = train(run, sd3, sampler_of("euler"), target="a portrait, hat")[0]
    uses = [(attribute, sd3.encode(TARGET)), (other, sd3.encode("a portrait, hat")), (other, None)]
    chained = []
    for order in (uses, uses[::-1]):
        sampler = sampler_of("euler")
        for one, target in order:
            sampler = with_attribute(run, sampler, one, 0.5, target=target)
        chained.append(draw(sd3, sampler))
    assert torch.allclose(*chained, atol=1e-4)
    assert not torch.allclose(
        chained[0], draw(sd3, with_attribute(run, sampler_of("euler"), attribute, 0.5, target=sd3.encode(TARGET))), atol=0.02
    )


def test_a_mix_is_its_parts_chained(sd3, run, sampler_of, attribute):
    other = train(run, sd3, sampler_of("euler"), target="a portrait, hat")[0]
    mix = run("MixAttributes", first=attribute, second=other, first_weight=0.6, second_weight=-0.4)[0]
    chained = with_attribute(run, with_attribute(run, sampler_of("euler"), attribute, 0.3), other, -0.2)
    assert torch.allclose(draw(sd3, with_attribute(run, sampler_of("euler"), mix, 0.5)), draw(sd3, chained), atol=1e-4)
    again = run("MixAttributes", first=mix, second=attribute, first_weight=2.0, second_weight=1.0)[0]
    assert [weight for _, weight in again.parts] == [1.2, -0.8, 1.0]


def test_a_budget_is_a_share_of_the_way_to_the_target(sd3, run, sampler_of, attribute, changes):
    def edit_of(**use):
        draw(sd3, with_attribute(run, sampler_of("euler"), attribute, **use))
        return changes[-1].norm()

    target = sd3.encode(TARGET)
    half, whole = edit_of(budget=0.5, target=target), edit_of(budget=1.0, target=target)
    assert torch.allclose(whole, 2 * half, rtol=1e-3)
    assert torch.allclose(edit_of(budget=0.5, strength=-3.0, target=target), half, rtol=1e-3)


def test_an_edit_during_sampling_is_in_both_runs_whichever_node_comes_first(sd3, run, sampler_of, attribute):
    def spectrum(sampler):
        return run(
            "EditDuringSampling",
            sampler=sampler,
            operation=lambda latent: 1.02 * latent,
            target="x0",
            steps="all in range",
            start_percent=0.2,
            end_percent=0.8,
        )[0]

    def attributed(sampler):
        return with_attribute(run, sampler, attribute, target=sd3.encode(TARGET))

    inside, outside = draw(sd3, attributed(spectrum(sampler_of("euler")))), draw(sd3, spectrum(attributed(sampler_of("euler"))))
    assert torch.allclose(inside, outside, atol=1e-3)
    assert not torch.allclose(inside, draw(sd3, spectrum(sampler_of("euler"))), atol=0.02)


def test_other_sizes(sd3, run, sampler_of, attribute):
    larger = {"samples": torch.zeros(1, 16, 24, 32)}
    edited = draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=sd3.encode(TARGET)), latent=larger)
    assert edited.shape == larger["samples"].shape
    with pytest.raises(ValueError, match=r"attribute: it was learned at \(16, 16, 16\), this latent has \(16, 24, 32\)"):
        draw(sd3, with_attribute(run, sampler_of("euler"), attribute), latent=larger)


def test_another_kind_of_latents_is_refused(demo, shaped, run, sampler_of, attribute):
    """Of as many channels, too."""
    other = train(run, shaped("SD15"), sampler_of("euler"))[0]
    for target in (None, demo.encode(TARGET)):
        with pytest.raises(
            ValueError, match=r"attribute: learned on SD15 \(4 channels\), but this model works on PortraitLatents \(4 channels\)"
        ):
            draw(demo, with_attribute(run, sampler_of("euler"), other, target=target))
    with pytest.raises(ValueError, match="attributes: learned on different kinds"):
        run("MixAttributes", first=attribute, second=other, first_weight=1.0, second_weight=1.0)


def test_samplers_that_hide_their_latent_are_refused(sd3, run, sampler_of, attribute):
    with pytest.raises(ValueError, match="sampler: unipc evaluates"):
        train(run, sd3, sampler_of("uni_pc"))
    with pytest.raises(ValueError, match="sampler: sa_solver evaluates"):
        with_attribute(run, sampler_of("sa_solver"), attribute)
    with pytest.raises(ValueError, match="sampler: object is not built"):
        with_attribute(run, object(), attribute)


def test_a_target_with_models_of_its_own_is_refused(sd3, run, sampler_of, attribute):
    ((embedding, extras),) = sd3.encode(TARGET)
    with pytest.raises(ValueError, match="target: it carries control of its own"):
        draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=[[embedding, {**extras, "control": object()}]]))


def test_not_a_number_is_refused(sd3, run, sampler_of, attribute):
    ((embedding, extras),) = sd3.encode(TARGET)
    with pytest.raises(ValueError, match="NaN or Inf"):
        draw(sd3, with_attribute(run, sampler_of("euler"), attribute, 1.0, target=[[embedding * float("nan"), extras]]))


def test_cancel_stops_at_once_and_leaves_nothing_behind(sd3, run, sampler_of, attribute):
    import comfy.model_management as management

    plain = draw(sd3, sampler_of("euler"))
    for act in (
        lambda: train(run, sd3, sampler_of("euler"), seeds=200),
        lambda: train(run, sd3, sampler_of("euler"), solver="MLP", steps=9999),
        lambda: draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=sd3.encode(TARGET))),
    ):
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            act()
    assert torch.equal(draw(sd3, sampler_of("euler")), plain)


def test_inpainting_keeps_what_it_does_not_repaint(sd3, run, sampler_of, attribute):
    """A LATENT's noise mask: outside it the picture that came in stays."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    given = {"samples": torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5, "noise_mask": mask}
    plain = draw(sd3, sampler_of("euler"), latent=given)
    edited = draw(sd3, with_attribute(run, sampler_of("euler"), attribute, target=sd3.encode(TARGET)), latent=given)
    assert torch.allclose(edited[..., 8:], given["samples"][..., 8:], atol=1e-4)
    assert (edited - plain)[..., :8].abs().max() > 0.02


@pytest.mark.parametrize("family", ["SD15", "SD3"])
def test_a_stored_attribute_moves_the_picture_by_what_it_holds(shaped, run, sampler_of, family):
    """With a model that foresees the picture that x is made of, and one noise."""
    from pack.core.avi.attribute import Attribute, Mixture, Recipe
    from pack.core.svd.decomposition import decompose
    from pack.host.pairs import kind_of

    world = shaped(family)
    scaling, like = world.model.get_model_object("model_sampling").noise_scaling, world.empty()["samples"]
    picture, noise, change = (torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3))

    def foresee(x, sigma):
        level, nothing = torch.tensor(sigma), torch.zeros(1)
        return (x - scaling(level, noise, nothing)) / scaling(level, nothing, torch.ones(1))

    attribute = Mixture(((Attribute(Recipe(0.5, branch=0.0), decompose(change), kind_of(world.model)), 1.0),))
    sampler = with_attribute(run, sampler_of("euler"), attribute).sampler_function
    sigmas = torch.tensor([0.9, 0.6, 0.3, 0.0])
    x = scaling(sigmas[0], noise, picture)
    close(sampler(Foreseeing(world, foresee), x, sigmas, extra_args={}, disable=True) - picture, change, 1e-3)
