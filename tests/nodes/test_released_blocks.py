"""Asyrp's released blocks in a graph: applied to pixel-space models by the paper's formula, saved, refused where they cannot act."""

import math

import pytest
import torch

from pack.tests.pixel_worlds import SIZE, Pixel, relative
from pack.tests.released import FORMS, file_of, shift_of, weights
from pack.tests.wiring import node, random

NAME = "smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import folder_paths

    path = tmp_path_factory.mktemp("pixel")
    folder_paths.add_model_folder_path("diffusion_models", str(path))
    yield path
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(path))


@pytest.fixture(scope="module")
def pixel(run, folder):
    """`pixel("DDPM")`: a small network of that layout, made once."""
    made = {}

    def make(name, **changes):
        key = name, *changes.items()
        if key not in made:
            with torch.inference_mode():
                made[key] = Pixel(run, folder, name, **changes)
        return made[key]

    return make


@pytest.fixture
def load(run, folders):
    """`load(form)`: Load Direction's direction of a released file."""

    def loaded(form, **changes):
        torch.save(file_of(weights(form, **changes)), folders / "models/semantic_latents" / NAME)
        return run("LoadDirection", file=NAME, concept="female")[0]

    return loaded


@pytest.fixture
def apply(run):
    def applied(world, direction, strength=1.0, model=None, **changes):
        edit = dict(start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
        return run("ApplyDirection", **{"model": model or world.model, "direction": direction, "strength": strength, **edit, **changes})[0]

    return applied


class Edited:
    """The reference network with strength times the block's shift added to its h."""

    def __init__(self, world, form, strength, block=None):
        self.world, self.form, self.strength, self.block = world, form, strength, block or weights(form)

    def __call__(self, x, t, label, strength=None):
        reference, amount = self.world.reference, self.strength if strength is None else strength
        middle, before = reference.names["middle"][2], reference.run_res

        def run_res(name, h, emb, *rest):
            out = before(name, h, emb, *rest)
            return out + amount * shift_of(self.form, self.block, out, emb) if name == middle else out

        reference.run_res = run_res
        try:
            return reference(x, torch.tensor([float(t)]).expand(len(x)), label if label is None else label.expand(len(x)))[:, :3]
        finally:
            del reference.run_res


def sample(world, model, noise, places, *, cfg=1.0, other=None, sampler="euler"):
    """What a stock sampler draws from this noise at these of the network's steps."""
    sigmas = torch.cat([world.model.get_model_object("model_sampling").sigmas[places], torch.zeros(1)])

    class Given:
        seed = 0

        def generate_noise(self, latent):
            return noise

    chosen = node("custom_sampler.KSamplerSelect", sampler_name=sampler)
    wired = world.wired(chosen, noise=Given(), sigmas=sigmas, cfg=cfg, latent=world.empty(len(noise)), model=model)
    if other is not None:
        wired["guider"] = node("custom_sampler.CFGGuider", model=model, cfg=cfg, positive=world.prompt, negative=other)
    return node("custom_sampler.SamplerCustomAdvanced", **wired)["samples"]


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def world(pixel, form):
    return pixel(form, noise_schedule="linear")


@pytest.mark.parametrize("strength", [1.0, -2.5])
def test_the_edited_prediction_is_the_formulas(world, form, load, apply, strength):
    """One step from t = 300: x0 = x - sigma eps(x | h + s f(h, emb)), in the host's frame."""
    place, noise = 300, random(7, 2, 3, SIZE, SIZE)
    kept = float(world.kept()[place])
    sigma = math.sqrt((1 - kept) / kept)
    predict = Edited(world, form, strength)
    eps = predict(noise * math.sqrt(1 - kept), place, world.label)
    plain = predict(noise * math.sqrt(1 - kept), place, world.label, strength=0.0)
    drawn = sample(world, apply(world, load(form), strength), noise, [place])
    assert relative(drawn, sigma * (noise - eps)) < 1e-5
    assert relative(drawn, sigma * (noise - plain)) > 1e-2


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_run_is_the_papers_process(world, form, load, apply, asymmetric):
    """DDIM with eps~ for eps, or with P(eps~) and D(eps) (Kwon et al. 2023), at steps of which each has another time embedding."""
    places, strength = [999, 700, 350, 90], 0.7
    kept = world.kept()[places].tolist()
    sigmas = [math.sqrt((1 - a) / a) for a in kept] + [0.0]
    # the strength of an asymmetric edit is in units of a symmetric one's effect
    scale = sum(1 - after / before for before, after in zip(sigmas, sigmas[1:])) / len(places) if asymmetric else 1.0
    predict, noise = Edited(world, form, strength * scale), random(8, 2, 3, SIZE, SIZE)
    x = noise.double()
    for t, a, after in zip(places, kept, [*kept[1:], 1.0], strict=True):
        edited = predict(x.float(), t, world.label).double()
        eps = predict(x.float(), t, world.label, strength=0.0).double() if asymmetric else edited
        x = math.sqrt(after) * (x - math.sqrt(1 - a) * edited) / math.sqrt(a) + math.sqrt(1 - after) * eps
    drawn = sample(world, apply(world, load(form), strength, asymmetric=asymmetric), noise, places)
    assert relative(drawn, x.float()) < 2e-4
    assert relative(drawn, sample(world, world.model, noise, places)) > 1e-2


def test_each_half_of_the_guidance_gets_its_own_embedding(pixel, load, apply):
    """Labels are part of it: the halves of a class-conditional model have different ones in one call."""
    one, other, noise = pixel("ADM", noise_schedule="linear"), pixel("ADM", label=1, noise_schedule="linear"), random(7, 2, 3, SIZE, SIZE)
    place = 300
    kept = float(one.kept()[place])
    predict = Edited(one, "ADM", 1.0)
    positive, negative = (predict(noise * math.sqrt(1 - kept), place, torch.tensor([label])) for label in (3, 1))
    drawn = sample(one, apply(one, load("ADM")), noise, [place], cfg=2.0, other=other.prompt)
    expected = math.sqrt((1 - kept) / kept) * (noise - negative - 2.0 * (positive - negative))
    assert relative(drawn, expected) < 1e-5


@pytest.mark.parametrize("asymmetric", [False, True])
def test_strength_0_and_a_mask_of_zeros_change_nothing(world, form, load, apply, asymmetric):
    direction, plain = load(form), world.draw()
    assert apply(world, direction, 0.0, asymmetric=asymmetric) is world.model
    assert torch.equal(world.draw(model=apply(world, direction, mask=torch.zeros(1, SIZE, SIZE), asymmetric=False)), plain)
    edited = world.draw(model=apply(world, direction, asymmetric=asymmetric))
    assert relative(edited, plain) > 1e-3
    assert torch.equal(world.draw(model=apply(world, direction, mask=torch.ones(1, SIZE, SIZE), asymmetric=asymmetric)), edited)
    assert torch.equal(world.draw(model=apply(world, direction, asymmetric=asymmetric)), edited)
    assert torch.equal(world.draw(), plain)


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_batch_is_its_pictures(world, form, load, apply, asymmetric):
    model, noise, places = apply(world, load(form), 2.0, asymmetric=asymmetric), random(9, 3, 3, SIZE, SIZE), [800, 400]
    batch = sample(world, model, noise, places)
    for i in range(3):
        assert relative(batch[i : i + 1], sample(world, model, noise[i : i + 1], places)) < 1e-4


def test_outside_of_its_window_it_does_not_act(world, form, load, apply):
    """Two steps, of which the second lies outside."""
    noise, places, direction = random(9, 1, 3, SIZE, SIZE), [900, 100], load(form)
    model = apply(world, direction, 2.0, end_percent=0.5)
    kept = world.kept()[places].tolist()
    x = noise.double() * math.sqrt(1 - kept[0])  # below the noisiest level the host starts from sigma times the noise
    for t, a, after, strength in zip(places, kept, [kept[1], 1.0], [2.0, 0.0], strict=True):
        eps = Edited(world, form, strength)(x.float(), t, world.label).double()
        x = math.sqrt(after) * (x - math.sqrt(1 - a) * eps) / math.sqrt(a) + math.sqrt(1 - after) * eps
    assert relative(sample(world, model, noise, places), x.float()) < 2e-4


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_in_half_precision_it_draws_nearly_the_same(pixel, form, load, apply, dtype, asymmetric, monkeypatch):
    import comfy.model_management

    direction, full = load(form), pixel(form)
    exact = full.draw(model=apply(full, direction, asymmetric=asymmetric))
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args: None)
    world = pixel(form, weight_dtype=dtype, heads="auto")
    assert world.model.model.get_dtype_inference() == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    drawn = world.draw(model=apply(world, direction, asymmetric=asymmetric))
    assert torch.isfinite(drawn).all()
    assert relative(drawn, exact) < (0.05 if dtype == "fp16" else 0.25)


def test_the_ddim_sampler_and_stacked_edits_take_it(world, form, load, apply, run):
    direction = load(form)
    sampler = run("DDIMSampler", eta=0.0, boost_percent=1.0)[0]
    once, mix = apply(world, direction, 2.0, asymmetric=True), run(
        "CombineDirections", first=direction, second=direction, first_weight=0.5, second_weight=1.5, orthogonalise=False, keep_size=False,
        average_over_time=False,
    )[0]  # fmt: skip
    twice = apply(world, direction, 1.5, model=apply(world, direction, 0.5, asymmetric=True), asymmetric=True)
    drawn = [world.sample(sampler, model=model, steps=3) for model in (once, twice, apply(world, mix, asymmetric=True), world.model)]
    assert relative(drawn[1], drawn[0]) < 1e-4
    assert relative(drawn[2], drawn[0]) < 1e-4
    assert relative(drawn[3], drawn[0]) > 1e-3


def test_it_is_saved_and_loaded_as_direction_and_as_slider(world, form, load, apply, run):
    direction = load(form)
    run("SaveDirection", direction=direction, filename_prefix="smile")
    again = run("LoadDirection", file="smile_00001_.safetensors", concept="female")[0]
    assert (again.family, again.notes, again.method) == (direction.family, direction.notes, direction.method)
    drawn = world.draw(model=apply(world, direction))
    assert torch.equal(world.draw(model=apply(world, again)), drawn)
    model, slider = run("LoadSlider", model=world.model, file="smile_00001_.safetensors", strength=1.0)
    assert torch.equal(world.draw(model=model), world.draw(model=apply(world, direction, end_percent=0.8)))
    run("SaveSlider", slider=slider, filename_prefix="again")
    kept = run("LoadDirection", file="again_00001_.safetensors", concept="female")[0]
    assert torch.equal(world.draw(model=apply(world, kept)), drawn)


def test_it_acts_on_any_checkpoint_of_its_widths(pixel, load, apply):
    direction = load("DDPM")
    for world in (pixel("DDPM"), pixel("DDPM", seed=1), pixel("diffusers"), pixel("iDDPM", noise_schedule="linear")):
        assert relative(world.draw(model=apply(world, direction)), world.draw()) > 1e-3


def test_where_it_cannot_act_it_is_refused_by_name(pixel, shaped, demo, load, apply, run):
    world = pixel("DDPM")
    for wrong in (shaped("SD15"), demo):
        with pytest.raises(ValueError, match=r"direction: found on Pixel, whichever checkpoint \(EPS, 64 channels\), but needed here for"):
            apply(wrong, load("DDPM"))
    with pytest.raises(
        ValueError, match=r"direction: found on Pixel, whichever checkpoint \(EPS, 32 channels\), but needed here for Pixel"
    ):
        apply(world, load("DDPM", channels=32))
    narrow = load("DDPM", embedded=64)
    with pytest.raises(ValueError, match="direction: it looks at a time embedding of 64 channels, and that of this model has 128"):
        apply(world, narrow, 0.0)
    with pytest.raises(ValueError, match="form, average_over_time: this direction is a block"):
        apply(world, load("DDPM"), form="mean")
    with pytest.raises(ValueError, match="form, average_over_time: this direction is a block"):
        run("CombineDirections", first=load("DDPM"), second=load("DDPM"), first_weight=1.0, second_weight=1.0, orthogonalise=False,
            keep_size=False, average_over_time=True)  # fmt: skip
    with pytest.raises(ValueError, match="resume: this direction .* has no network to go on with"):
        from pack.nodes.train_direction import check_resumed

        check_resumed(load("DDPM"), world.model)


def test_a_middle_block_without_a_time_embedding_is_named(pixel, load, apply, monkeypatch):
    """A network that tells its patches no `emb`."""
    from pack.host import edits

    world, before = pixel("DDPM"), edits.shift_h
    model = apply(world, load("DDPM"))
    patches = model.model_options["transformer_options"]["patches"]["middle_block_after_patch"]
    patches[:] = [lambda args: before({key: value for key, value in args.items() if key != "emb"})]
    with pytest.raises(
        ValueError, match="direction: it looks at a time embedding of 128 channels, and this model's middle block gets none"
    ):
        world.draw(model=model)
