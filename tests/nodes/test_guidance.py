"""Image Guidance and Classifier Guidance in the real host, against their formulas and on several families of models."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pack.tests.wiring import node, random

pytestmark = pytest.mark.usefixtures("inference")
FAMILIES = ("demo", "SD15", "SDXL", "SD15 inpaint", "SD3", "Flux", "WAN21_T2V")
SOURCE, TARGET = "a portrait", "a portrait, sunglasses"


@pytest.fixture
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


class SmallDecoder(nn.Module):
    """A VAE's network of random weights, for latents with or without frames."""

    def __init__(self, channels, frames):
        super().__init__()
        kind = nn.Conv3d if frames else nn.Conv2d
        self.conv = kind(channels, 3, 3, padding=1)
        self.sensible = True
        for parameter in self.parameters():
            parameter.requires_grad_(False).copy_(0.2 * random(parameter.numel(), *parameter.shape))

    def decode(self, z):
        return torch.tanh(self.conv(z)) if self.sensible else self.conv(z) * (z - z).sqrt().sum()


def vae_of(world, dtype=torch.float32):
    """A small one, quicker than the demo model's, with all that the pack asks of a VAE."""
    import comfy.model_patcher

    latent_format = world.model.get_model_object("latent_format")
    network = SmallDecoder(latent_format.latent_channels, latent_format.latent_dimensions == 3).to(dtype)
    cpu = torch.device("cpu")
    return SimpleNamespace(
        patcher=comfy.model_patcher.CoreModelPatcher(network, cpu, cpu),
        first_stage_model=network,
        device=cpu,
        vae_dtype=dtype,
        latent_channels=latent_format.latent_channels,
        process_output=lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0),
    )


def reference_of(world, seed=3, batch=1):
    return {"samples": 0.7 * random(seed, *world.empty(batch)["samples"].shape)}


def by_score(run, world, scorer, strength=0.8, *, vae=None, start=0.0, end=1.0, model=None, mask=None, source=SOURCE, target=TARGET):
    given = dict(model=model or world.model, vae=vae or vae_of(world), strength=strength, source_text=source, target_text=target)
    return run("ClassifierGuidance", **given, **scorer, start_percent=start, end_percent=end, mask=mask)[0]


@pytest.fixture
def guided(run, scorer):
    """`guided("ImageGuidance", world, strength, ...)`: a guided model."""

    def make(name, world, *args, **changes):
        if name == "ImageGuidance":
            return by_picture(run, world, *args, **changes)
        return by_score(run, world, scorer, *args, **changes)

    return make


def by_picture(run, world, strength=0.6, *, reference=None, downsample=2, start=0.0, end=1.0, model=None, mask=None):
    given = dict(model=model or world.model, reference=reference or reference_of(world), strength=strength, downsample=downsample)
    return run("ImageGuidance", **given, start_percent=start, end_percent=end, mask=mask)[0]


def foreseen(world, sampler_of, model=None, *, sigma=None, cfg=2.0, latent=None):
    """What the model foresees at one noise level, in its own units: a step of euler from there to the end."""
    sigma = world.sigmas(4)[2] if sigma is None else sigma
    given = dict(model=model or world.model, add_noise=True, noise_seed=1, cfg=cfg, sampler=sampler_of("euler"))
    prompts = dict(positive=world.encode(SOURCE), negative=world.encode(""))
    sigmas, latent = torch.stack([sigma, torch.zeros_like(sigma)]), latent or world.empty()
    found = node("custom_sampler.SamplerCustom", **given, **prompts, sigmas=sigmas, latent_image=latent)["samples"]
    return world.model.get_model_object("latent_format").process_in(found)


def close(found, expected, base):
    """Equal to rounding, by the size of the change."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float((expected - base).abs().max()))


NODES = pytest.mark.parametrize("name", ["ImageGuidance", "ClassifierGuidance"])


@pytest.mark.parametrize("world", FAMILIES, indirect=True)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_what_is_foreseen_goes_to_the_reference_in_what_the_low_pass_leaves(world, run, sampler_of, cfg):
    from pack.core.sampling.guidance import low_pass

    reference = reference_of(world)
    own = world.model.get_model_object("latent_format").process_in(reference["samples"])
    base = foreseen(world, sampler_of, cfg=cfg)
    for strength, downsample in ((0.6, 2), (1.0, 1), (-0.5, 4)):
        model = by_picture(run, world, strength, reference=reference, downsample=downsample)
        expected = base + strength * (low_pass(own, downsample) - low_pass(base, downsample))
        close(foreseen(world, sampler_of, model, cfg=cfg), expected, base)


def gradient_by_hand(world, vae, scorer, x0):
    """Of the difference of the two cosines, in one graph from the model's own units to the score."""
    from pack.host.scorer import ImageScorer, text_embedding

    with torch.inference_mode(False), torch.enable_grad():
        network, latent_format = copy.deepcopy(vae.first_stage_model), type(world.model.get_model_object("latent_format"))()
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
        x0 = x0.clone().requires_grad_(True)
        pictures = (network.decode(latent_format.process_out(x0)) / 2 + 0.5).clamp(0, 1)
        if pictures.ndim == 5:
            pictures = pictures.transpose(1, 2).flatten(0, 1)
        texts = [text_embedding(scorer["clip"], words).clone() for words in (TARGET, SOURCE)]
        embeddings = ImageScorer(scorer["clip_vision"]).embed(pictures)
        target, source = (torch.cosine_similarity(embeddings, text[None]) for text in texts)
        return torch.autograd.grad((target - source).sum(), x0)[0]


@pytest.mark.parametrize("world", FAMILIES, indirect=True)
def test_what_is_foreseen_goes_up_the_score_s_gradient(world, run, scorer, sampler_of):
    """By a length of the strength, the unit, and how far what is foreseen is from sure at the noise level."""
    from pack.host.guidance import UNIT

    vae = vae_of(world) if hasattr(world, "latent") else world.vae
    for sigma in (world.sigmas(4)[0], world.sigmas(4)[2]):
        base = foreseen(world, sampler_of, sigma=sigma)
        gradient = gradient_by_hand(world, vae, scorer, base)
        assert float(gradient.abs().max()) > 0
        flow = world.model.model.model_type.name in ("FLOW", "FLUX")
        share = 1 - float(sigma) if flow else 1.0
        length = UNIT * float(sigma) / (float(sigma) ** 2 + share**2) ** 0.5
        for strength in (0.8, -1.5):
            found = foreseen(world, sampler_of, by_score(run, world, scorer, strength, vae=vae), sigma=sigma)
            step = strength * length * gradient / gradient.square().mean().sqrt()
            torch.testing.assert_close(found, base + step, rtol=0, atol=5e-3 * float(step.abs().max()))


@NODES
@pytest.mark.parametrize("world", ["demo", "Flux"], indirect=True)
def test_strength_0_and_an_empty_mask_are_the_model_itself(world, guided, name):
    assert guided(name, world, 0.0) is world.model
    assert guided(name, world, mask=torch.zeros(1, 8, 8)) is world.model


@NODES
@pytest.mark.parametrize("world", ["demo", "SDXL", "Flux", "WAN21_T2V"], indirect=True)
def test_a_second_run_equals_the_first_and_the_model_stays_as_it_was(world, guided, sampler_of, name):
    before = world.sample(sampler_of("euler"), steps=3)
    model = guided(name, world)
    first, second = (world.sample(sampler_of("euler"), steps=3, model=model) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, before)
    assert torch.equal(world.sample(sampler_of("euler"), steps=3), before)


@NODES
@pytest.mark.parametrize("world", ["demo", "SD15", "SD3", "WAN21_T2V"], indirect=True)
def test_outside_of_a_mask_every_bit_of_what_is_foreseen_stays(world, guided, sampler_of, name):
    mask = torch.zeros(1, 32, 32)
    mask[..., :16] = 1
    base, whole = (foreseen(world, sampler_of, model) for model in (None, guided(name, world)))
    found, half = foreseen(world, sampler_of, guided(name, world, mask=mask)), base.shape[-1] // 2
    assert torch.equal(found[..., half:], base[..., half:])
    assert torch.equal(found[..., :half], whole[..., :half])
    assert not torch.equal(found[..., :half], base[..., :half])


@NODES
@pytest.mark.parametrize("world", ["demo", "SD3", "WAN21_T2V"], indirect=True)
def test_a_batch_is_its_singles(world, guided, sampler_of, name):
    masks = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(2))
    latents = 0.5 * random(6, *world.empty(2)["samples"].shape)
    more = [dict(reference={"samples": reference_of(world, batch=2)["samples"][own]}) for own in (slice(2), slice(1), slice(1, 2))]
    if name == "ClassifierGuidance":
        more = [{}] * 3
    sigma = world.sigmas(4)[2]

    def drawn(rows, some):
        """From no noise, which depends on a picture's place in the batch."""
        from comfy_extras.nodes_custom_sampler import SamplerCustom

        prompts = world.encode(SOURCE), world.encode("")
        sampler, sigmas = sampler_of("euler"), torch.stack([sigma, torch.zeros_like(sigma)])
        model = guided(name, world, mask=masks[rows], **some)
        return SamplerCustom.execute(model, False, 1, 2.0, *prompts, sampler, sigmas, {"samples": latents[rows]}).args[0]["samples"]

    together, first, second = (drawn(rows, some) for rows, some in zip((slice(2), slice(1), slice(1, 2)), more, strict=True))
    torch.testing.assert_close(together, torch.cat([first, second]), rtol=0, atol=1e-4 * float(together.abs().max()))


def test_one_picture_or_one_frame_is_a_reference_for_all(shaped, run, sampler_of):
    world, latent = shaped("WAN21_T2V"), shaped("WAN21_T2V").empty(2)
    one = reference_of(world)["samples"][:, :, :1]
    full = one.expand(2, -1, 3, -1, -1).contiguous()
    several = [by_picture(run, world, reference={"samples": samples}) for samples in (one, one[:, :, 0], full)]
    found = [foreseen(world, sampler_of, model, latent=latent) for model in several]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])


@NODES
def test_it_acts_in_its_range_of_steps_alone(demo, guided, sampler_of, name):
    """Before, the run is the plain one; what is foreseen at the first step inside is moved; after, nothing is moved any more."""
    seen = {}

    def drawn(model, label):
        sampler, seen[label] = sampler_of("euler"), []
        inner = sampler.sampler_function

        def function(denoiser, x, sigmas, callback=None, **more):
            def keep(state):
                seen[label].append((state["x"].clone(), state["denoised"].clone(), float(state["sigma"])))

            return inner(denoiser, x, sigmas, callback=keep, **more)

        sampler.sampler_function = function
        demo.sample(sampler, steps=6, model=model)

    levels = demo.model.get_model_object("model_sampling").percent_to_sigma
    drawn(demo.model, "plain")
    drawn(guided(name, demo, start=0.3, end=0.6), "guided")
    inside = [levels(0.6) * (1 - 1e-6) <= sigma <= levels(0.3) * (1 + 1e-6) for _, _, sigma in seen["plain"]]
    first = inside.index(True)
    assert 0 < first < first + sum(inside) < 6
    for (x, x0, _), (other, other_x0, _) in list(zip(seen["plain"], seen["guided"]))[:first]:
        assert torch.equal(x, other)
        assert torch.equal(x0, other_x0)
    assert torch.equal(seen["plain"][first][0], seen["guided"][first][0])
    for i, (x, x0, sigma) in enumerate(seen["guided"]):
        plain = foreseen_at(demo, sampler_of, x, sigma)
        assert (float((x0 - plain).abs().max()) > 1e-3 * float(plain.abs().max())) == inside[i], i


def foreseen_at(world, sampler_of, x, sigma):
    """What the plain model foresees for a running latent."""
    found, sampler = {}, sampler_of("euler")

    def ask(denoiser, own, sigmas, extra_args=None, **more):
        found["x0"] = denoiser(x, torch.full((len(x),), sigma), **(extra_args or {}))
        return own

    sampler.sampler_function = ask
    world.sample(sampler, steps=1)
    return found["x0"]


@NODES
def test_a_run_outside_of_the_range_is_drawn_as_it_is_and_the_log_says_so_once(demo, guided, sampler_of, caplog, name):
    model, sigmas = guided(name, demo, end=0.2), demo.sigmas(6)[4:]
    given = dict(add_noise=True, noise_seed=1, cfg=2.0, positive=demo.encode(SOURCE), negative=demo.encode(""), latent_image=demo.empty())
    with caplog.at_level(logging.WARNING):
        drawn = [
            node("custom_sampler.SamplerCustom", model=each, sampler=sampler_of("euler"), sigmas=sigmas, **given)["samples"]
            for each in (demo.model, model, model)
        ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert caplog.text.count("does not act in it") == 1


@NODES
def test_a_range_without_a_step_is_refused(demo, guided, sampler_of, name):
    with pytest.raises(ValueError, match="start_percent, end_percent: no step of this run starts in 0.4 to 0.45"):
        demo.sample(sampler_of("euler"), steps=2, model=guided(name, demo, start=0.4, end=0.45))


@NODES
@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "euler_cfg_pp", "uni_pc", "ddim"])
def test_it_acts_under_any_sampler(demo, guided, sampler_of, name, sampler):
    plain, moved = (demo.sample(sampler_of(sampler), steps=3, model=model) for model in (None, guided(name, demo)))
    assert torch.isfinite(moved).all()
    assert float((moved - plain).abs().max()) > 0.05 * float(plain.std())


@NODES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["SD15", "Flux"])
def test_models_and_vaes_in_half_precision_move_as_in_single(shaped, guided, sampler_of, name, dtype, family):
    """The step is that of the model in single precision; a gradient through a decoder in half precision does not vanish."""
    world = shaped(family, dtype, torch.float32)
    plain = foreseen(world, sampler_of)
    more = [{}, {}] if name == "ImageGuidance" else [dict(vae=vae_of(world, kind)) for kind in (dtype, torch.float32)]
    half, single = (foreseen(world, sampler_of, guided(name, world, **some)) - plain for some in more)
    assert float(torch.cosine_similarity(half.flatten(), single.flatten(), 0)) > 0.98
    assert float(half.norm() / single.norm()) == pytest.approx(1, rel=0.02)


def test_guidances_and_sliders_stack(demo, run, guided, sampler_of):
    """The slider moves what the prompt foresees; each guidance what came before it."""
    words = dict(clip=demo.clip, without=SOURCE, wanted="a portrait, hat", strength=1.0, start_percent=0.0, focus=0.0)
    slid = run("MakeSlider", model=demo.model, **words)[0]
    base, slider = foreseen(demo, sampler_of), foreseen(demo, sampler_of, slid)
    first, second = reference_of(demo)["samples"], reference_of(demo, seed=4)["samples"]
    own = demo.model.get_model_object("latent_format").process_in
    model = guided("ImageGuidance", demo, 0.5, model=slid, reference={"samples": first}, downsample=1)
    model = guided("ImageGuidance", demo, 0.25, model=model, reference={"samples": second}, downsample=1)
    once = slider + 0.5 * (own(first) - slider)
    close(foreseen(demo, sampler_of, model), once + 0.25 * (own(second) - once), base)
    both = guided("ClassifierGuidance", demo, model=model)
    assert not torch.equal(foreseen(demo, sampler_of, both), foreseen(demo, sampler_of, model))


def test_a_slider_that_holds_the_rest_keeps_it_as_the_guided_run_has_it(demo, run, guided, sampler_of):
    mask = torch.zeros(1, 8, 8)
    mask[..., :4] = 1
    model = guided("ImageGuidance", demo)
    words = dict(clip=demo.clip, without=SOURCE, wanted="a portrait, hat", strength=2.0, start_percent=0.0, focus=0.0, mask=mask)
    plain, slid = (demo.sample(sampler_of("euler"), steps=3, model=each) for each in (model, run("MakeSlider", model=model, **words)[0]))
    assert not torch.equal(slid[..., :4], plain[..., :4])
    assert float((slid[..., 6:] - plain[..., 6:]).abs().max()) < 0.5 * float((slid[..., :4] - plain[..., :4]).abs().max())


@NODES
def test_what_is_repainted_alone_is_guided(demo, guided, sampler_of, name):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    latent = {**reference_of(demo, 9), "noise_mask": mask}
    found = demo.sample(sampler_of("euler"), steps=3, model=guided(name, demo), latent=latent)
    torch.testing.assert_close(found[..., 4:], latent["samples"][..., 4:], rtol=0, atol=1e-5)


def test_the_score_rises_with_the_strength_and_falls_below_0(demo, guided, sampler_of, scorer):
    """Of what is foreseen at one step, by the scorer's own node."""
    from pack.nodes.pictures import embedded

    out = demo.model.get_model_object("latent_format").process_out
    scores = []
    for strength in (-0.3, 0.0, 0.3):
        x0 = foreseen(demo, sampler_of, guided("ClassifierGuidance", demo, strength, vae=demo.vae), sigma=demo.sigmas(4)[1])
        texts, (image,) = embedded(scorer["clip_vision"], scorer["clip"], [SOURCE, TARGET], [demo.vae.decode(out(x0))])
        scores.append(float(image @ (texts[1] - texts[0])))
    assert scores[0] < scores[1] < scores[2]


REFERENCES = {
    "reference: got a latent of shape .* it is of another kind of model": (1, 16, 8, 8),
    "reference: it has 16 x 8 cells, and the run makes 8 x 8": (1, 4, 16, 8),
    "reference: got 3 pictures for 2": (3, 4, 8, 8),
}


@pytest.mark.parametrize(("message", "shape"), REFERENCES.items())
def test_a_reference_that_does_not_fit_the_run_is_refused(demo, guided, sampler_of, message, shape):
    model = guided("ImageGuidance", demo, reference={"samples": random(0, *shape)})
    with pytest.raises(ValueError, match=message):
        demo.sample(sampler_of("euler"), steps=2, model=model, latent=demo.empty(2))


def test_frames_that_do_not_fit_are_refused(shaped, guided, sampler_of):
    world = shaped("WAN21_T2V")
    model = guided("ImageGuidance", world, reference={"samples": random(0, 1, 16, 2, 16, 16)})
    with pytest.raises(ValueError, match="reference: got 2 frames for 3"):
        world.sample(sampler_of("euler"), steps=2, model=model)


def test_a_reference_that_is_no_picture_is_refused(demo, guided):
    with pytest.raises(ValueError, match="reference: contains NaN or Inf"):
        guided("ImageGuidance", demo, reference={"samples": torch.full((1, 4, 8, 8), torch.nan)})
    with pytest.raises(ValueError, match="reference: got shape"):
        guided("ImageGuidance", demo, reference={"samples": torch.zeros(1, 64, 100)})


@NODES
def test_masks_that_are_not_one_for_each_are_refused(demo, guided, sampler_of, name):
    with pytest.raises(ValueError, match="mask: got a batch of 3 for 2 latents"):
        demo.sample(sampler_of("euler"), steps=2, model=guided(name, demo, mask=torch.ones(3, 8, 8)), latent=demo.empty(2))


def test_texts_that_say_the_same_are_refused(demo, guided):
    with pytest.raises(ValueError, match="target_text: it says the same as source_text"):
        guided("ClassifierGuidance", demo, target=SOURCE)


def test_a_vae_of_another_model_is_refused(demo, shaped, guided):
    with pytest.raises(ValueError, match="vae: it decodes latents of 4 channels, and this model draws 16"):
        guided("ClassifierGuidance", shaped("Flux"), vae=demo.vae)


def test_a_text_tower_that_is_none_is_refused(demo, scorer, run):
    """One without a pooled embedding."""
    silent = SimpleNamespace(tokenize=lambda text: text, encode_from_tokens=lambda tokens, return_pooled: (None, None))
    with pytest.raises(ValueError, match="clip: this text encoder gives no pooled embedding"):
        by_score(run, demo, {**scorer, "clip": silent})


def test_latents_that_are_laid_out_anew_for_the_vae_are_refused(demo, guided, monkeypatch):
    latent_format = demo.model.get_model_object("latent_format")
    monkeypatch.setattr(type(latent_format), "process_out", lambda self, latent: latent.repeat(1, 1, 2, 2))
    with pytest.raises(ValueError, match="model: ComfyUI lays out this model's latents anew"):
        guided("ClassifierGuidance", demo)


def test_a_gradient_that_is_no_number_is_refused(shaped, guided, sampler_of):
    world = shaped("SD15")
    vae = vae_of(world)
    vae.first_stage_model.sensible = False
    with pytest.raises(ValueError, match="vae: the score's gradient through the decoder holds NaN or Inf"):
        world.sample(sampler_of("euler"), steps=2, model=guided("ClassifierGuidance", world, vae=vae))


@NODES
def test_a_guider_with_guidance_of_its_own_is_refused(demo, guided, name):
    import comfy.samplers

    class Other(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options={}, seed=None):
            return x / (1 + timestep.reshape(-1, 1, 1, 1) ** 2)

    guider = Other(guided(name, demo))
    guider.set_conds(demo.encode(SOURCE), demo.encode(""))
    noise = random(0, 1, 4, 8, 8)
    with pytest.raises(ValueError, match="Guidance did not act, .* Other has another"):
        guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), demo.sigmas(3), disable_pbar=True, seed=0)


def asking(sampler_of, rows, columns):
    """A sampler that asks about a part of what it draws, and gives back what is foreseen."""
    sampler = sampler_of("euler")

    def function(denoiser, x, sigmas, extra_args=None, **more):
        return denoiser(x[rows, :, :, columns], sigmas[:1].expand(len(x[rows])), **extra_args)

    sampler.sampler_function = function
    return sampler


@NODES
def test_a_sampler_that_asks_for_a_part_of_the_latents_is_refused_where_they_are_told_apart(demo, guided, sampler_of, name):
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2))
    refused = {r"\(2, 4, 8, 4\)": (None, slice(2), slice(4)), r"\(1, 4, 8, 8\)": (masks, slice(1), slice(8))}
    for shape, (mask, rows, columns) in refused.items():
        with pytest.raises(ValueError, match=rf"model: the sampler asks for latents of shape {shape}, while the run makes \(2, 4, 8, 8\)"):
            demo.sample(asking(sampler_of, rows, columns), steps=2, model=guided(name, demo, mask=mask), latent=demo.empty(2))
    model = guided(name, demo, mask=masks[:1])
    both, first = (demo.sample(asking(sampler_of, slice(n), slice(8)), steps=2, model=model, latent=demo.empty(2)) for n in (2, 1))
    torch.testing.assert_close(first, both[:1], rtol=0, atol=1e-3)


@NODES
def test_a_model_that_is_called_without_a_guider_is_refused(demo, guided, name):
    import comfy.samplers

    model, x = guided(name, demo), torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="model: this sampler node calls the model without the host's guider"):
        comfy.samplers.cfg_function(model.model, x, x, 2.0, x, torch.ones(1), model.model_options)


def test_latents_that_are_no_pictures_are_refused(demo):
    from pack.core.hspace.injection import Window
    from pack.host.guidance import GuidancePlan, ImageGuidance

    guidance = ImageGuidance(torch.zeros(1, 4, 8, 8), 1.0, 1, Window())
    with pytest.raises(ValueError, match="model: the run makes latents of shape .* Image Guidance moves pictures and videos"):
        GuidancePlan((guidance,), [2.0, 1.0, 0.0], demo.model, torch.Size((1, 64, 100)))


@NODES
def test_nothing_of_a_run_stays_when_it_is_over_or_stopped(demo, guided, sampler_of, name):
    from pack.host.options import GUIDANCE_PLAN

    model = guided(name, demo)
    demo.sample(sampler_of("euler"), steps=2, model=model)
    sampler = sampler_of("euler")

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    sampler.sampler_function = stopped
    with pytest.raises(KeyboardInterrupt):
        demo.sample(sampler, steps=2, model=model)
    assert GUIDANCE_PLAN not in model.model_options["transformer_options"]
    assert not torch.is_grad_enabled()
