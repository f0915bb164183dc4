"""Train Direction in the real host."""

import gc
import weakref

import pytest
import torch
from comfy.model_patcher import ModelPatcher

from pack.core.hspace.trained import TrainedDirection
from pack.nodes.train_direction import PAPER
from pack.tests.training import SETTINGS, edited


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL", "SD15 distilled"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def train(run):
    def call(world, pictures=None, **changes):
        settings = dict(
            model=world.model,
            source=world.encode("a portrait"),
            negative=world.encode(""),
            target=world.encode("a portrait, blue hair"),
            vae=world.vae,
            latent=world.empty(),
        )
        more = {} if pictures is None else {"pictures": pictures}
        return run("TrainDirection", **{key: [value] for key, value in {**settings, **SETTINGS, **changes}.items()}, **more)

    return call


@pytest.fixture
def scored(scorer):
    return dict(objective="CLIP directional", target=None, **scorer)


def test_training_lowers_the_loss_on_every_family(world, train):
    direction, curve, picture = train(world, epochs=6)
    losses = curve["loss"]
    assert isinstance(direction, TrainedDirection)
    assert len(losses) == 6 * 2
    assert sum(losses[-2:]) < 0.98 * sum(losses[:2])
    assert picture.shape[0] == 1
    assert torch.isfinite(picture).all()


def test_the_first_loss_is_that_of_no_edit(demo, train):
    """Prompt matching is a share of the way to the target: all of it is left before the first update."""
    assert train(demo, epochs=1)[1]["loss"][0] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("changes", [{}, {"steps": 5}])
def test_the_paper_s_form_learns_too(demo, train, changes):
    direction, curve, _ = train(demo, epochs=6, form=PAPER, **changes)
    losses = curve["loss"]
    assert losses[0] == pytest.approx(1.0, abs=1e-5)
    assert sum(losses[-2:]) < 0.98 * sum(losses[:2])
    assert direction.notes["form"] == PAPER


@pytest.mark.parametrize("objective", ["prompt matching", "CLIP directional"])
def test_the_paper_s_form_compares_with_the_unedited_run_on_its_own_path(demo, train, scored, sampler_of, monkeypatch, objective):
    """With what a plain run of euler foresees at each step; and the scorer with the picture that it ends at."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    from pack.host import training
    from pack.host.runs import noise_for

    seen = []
    for kind in (training.Matching, training.Directional):
        call = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda self, given, call=call: seen.append(given) or call(self, given))
    given = scored if objective == "CLIP directional" else {}
    # a network that shifts h from the start, so that the edited run leaves the unedited one
    first = train(demo, epochs=4, learning_rate=1e-2)[0]
    seen.clear()
    train(demo, epochs=1, form=PAPER, end_percent=0.8, resume=first, **given)
    sigmas, own = BasicScheduler.execute(demo.model, "normal", SETTINGS["steps"], 1.0).args[0], []
    guider = training.guided(demo.model, {"positive": demo.encode("a portrait"), "negative": demo.encode("")}, SETTINGS["cfg"])
    noise = noise_for(demo.model, demo.empty(), SETTINGS["images"], SETTINGS["seed"])
    training.run(guider, noise, sampler_of("euler"), sigmas, callback=lambda step, x0, x, total: own.append(x0.clone()))
    assert 2 <= len(seen) < len(own)
    for step, (given, unedited) in enumerate(zip(seen, own)):
        torch.testing.assert_close(given.kept, unedited, rtol=0, atol=1e-4)
        assert torch.equal(given.kept, given.plain) == (step == 0)
        if objective == "CLIP directional":
            torch.testing.assert_close(given.source, own[-1], rtol=0, atol=1e-4)


def test_apply_direction_goes_on_as_the_paper_s_form_trained(demo, train, run, sampler_of, monkeypatch):
    """Asymmetric, at strength 1, in as many steps: the same latents as on the training's own path."""
    from pack.host import training

    ends, follow = [], training.Averaging.__call__
    monkeypatch.setattr(training.Averaging, "__call__", lambda self, *args, **more: ends.append(follow(self, *args, **more)) or ends[-1])
    direction = train(demo, epochs=4, form=PAPER, end_percent=1.0, learning_rate=1e-2)[0]
    settings = dict(steps=SETTINGS["steps"], end_percent=1.0, asymmetric=True, latent=demo.empty(), seed=SETTINGS["seed"])
    found, base = (edited(demo, run, sampler_of, direction, strength, **settings) for strength in (1.0, 0.0))
    own = demo.model.get_model_object("latent_format").process_out(ends[0][:1])
    change = float((own - base).abs().max())
    assert change > 1e-3
    torch.testing.assert_close(found, own, rtol=0, atol=0.01 * change)


def test_a_text_in_many_phrasings_is_their_mean(demo, train, scored, scorer):
    from pack.host.scorer import PHRASINGS, text_embedding

    many = text_embedding(scorer["clip"], "a portrait", phrasings=True)
    each = [text_embedding(scorer["clip"], text.format("a portrait")) for text in PHRASINGS]
    torch.testing.assert_close(many, torch.stack([one / one.norm() for one in each]).mean(0))
    assert not torch.equal(many, text_embedding(scorer["clip"], "a portrait"))
    plain, phrased = (train(demo, epochs=1, phrasings=on, **scored)[1]["loss"] for on in (False, True))
    assert plain != phrased


def test_other_nodes_patches_are_told_the_levels_of_the_run(demo, train):
    """As in any run of the host."""
    seen = []
    model = demo.model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, args: (
            seen.append(args["c"]["transformer_options"].get("sample_sigmas")) or apply(args["input"], args["timestep"], **args["c"])
        )
    )
    train(demo, model=model, epochs=1)
    assert seen
    assert all(levels is not None and len(levels) == SETTINGS["steps"] + 1 for levels in seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_trains_too(shaped, train, run, sampler_of, dtype):
    world = shaped("SD15", dtype)
    small = world.empty(size=8)
    direction, curve, _ = train(world, latent=small, epochs=6)
    losses = curve["loss"]
    assert sum(losses[-2:]) < 0.98 * sum(losses[:2])
    picture = edited(world, run, sampler_of, direction, latent=small)
    assert torch.isfinite(picture).all()
    assert not torch.equal(picture, edited(world, run, sampler_of, direction, 0.0, latent=small))


def test_the_bar_shows_the_training_set_then_the_result_and_reaches_its_end(demo, train):
    import comfy.utils

    seen = []
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: seen.append((value, total, preview)))
    try:
        *_, picture = train(demo)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    *previews, last = [preview for *_, preview in seen if preview]
    assert len(previews) == 2
    assert previews[0][0] == "JPEG"
    assert previews[0][1].width == 2 * 128
    assert last[0] == "PNG"
    assert last[1].size == (picture.shape[2], picture.shape[1])
    assert seen[-1][0] == seen[-1][1]


def test_equal_training_gives_equal_bits_and_leaves_the_model_alone(demo, train, sampler_of):
    before, flags = demo.sample(sampler_of("euler"), steps=2), [weight.requires_grad for weight in demo.model.model.parameters()]
    one, two = (train(demo)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.network.state_dict().values(), two.network.state_dict().values()))
    assert torch.equal(demo.sample(sampler_of("euler"), steps=2), before)
    assert not demo.model.model_options["transformer_options"].get("patches")
    assert [weight.requires_grad for weight in demo.model.model.parameters()] == flags
    assert all(weight.grad is None for weight in demo.model.model.parameters())


def test_the_models_of_a_training_are_gone_with_it(demo, train, monkeypatch):
    """Without the help of garbage collection, before which the decoder's copy would stay in memory."""
    clones, clone = [], ModelPatcher.clone

    def noted(self, *args, **kwargs):
        found = clone(self, *args, **kwargs)
        clones.append(weakref.ref(found))
        return found

    monkeypatch.setattr(ModelPatcher, "clone", noted)
    gc.collect()
    gc.disable()
    try:
        train(demo)
        assert clones
        assert not any(found() for found in clones)
    finally:
        gc.enable()


def test_the_clip_objective_moves_pictures_as_the_texts_differ(demo, train, scored):
    losses = train(demo, **scored, epochs=8, keep_weight=0.1)[1]["loss"]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_training_goes_on_from_a_saved_direction(demo, train, run, folders):
    first, before, _ = train(demo, epochs=3)
    run("SaveDirection", direction=first, filename_prefix="half")
    loaded = run("LoadDirection", file="half_00001_.safetensors", concept="young")[0]
    second, after, _ = train(demo, epochs=1, resume=loaded)
    assert after["loss"][0] < 0.95 * before["loss"][0]
    assert int(second.notes["updates"]) == int(first.notes["updates"]) + len(after["loss"])


def test_given_pictures_are_a_training_set_in_batches_or_one_by_one(demo, train):
    pictures = [{"samples": 0.5 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i))} for i in range(2)]
    one_by_one, batched = (
        train(demo, pictures, epochs=1, cfg=1.0)[0],
        train(demo, [{"samples": torch.cat([p["samples"] for p in pictures])}], epochs=1, cfg=1.0)[0],
    )
    other = train(demo, epochs=1, cfg=1.0)[0]
    assert torch.equal(one_by_one.means.shifts, batched.means.shifts)
    assert one_by_one.notes["images"] == "2"
    assert not torch.equal(one_by_one.means.shifts, other.means.shifts)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(objective="CLIP directional"), "clip_vision: CLIP directional needs a scorer"),
        (dict(target=None), "target: prompt matching needs"),
        (dict(images=1), "pictures, images: a direction trained on one picture"),
    ],
)
def test_bad_input_is_refused_by_name(demo, train, changes, message):
    with pytest.raises(ValueError, match=message):
        train(demo, **changes)


def test_a_loss_that_is_no_number_stops_with_what_to_lower(demo, train, monkeypatch):
    from pack.host import training

    monkeypatch.setattr(training, "matching_loss", lambda edited, target, plain: edited.sum() * float("nan"))
    with pytest.raises(ValueError, match="learning_rate: the loss became nan at update 1; lower learning_rate"):
        train(demo)


def test_a_scorer_without_its_text_tower_or_with_another_s_is_refused(demo, train, scored):
    with pytest.raises(ValueError, match="clip: CLIP directional needs a scorer"):
        train(demo, **{**scored, "clip": None})

    class Wider:
        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, return_pooled):
            return None, torch.randn(1, 768)

    with pytest.raises(ValueError, match="clip: its text embeddings have 768 numbers, those of clip_vision 128"):
        train(demo, **{**scored, "clip": Wider()})
    from pack.host.scorer import check_pair

    with pytest.raises(ValueError, match="clip_vision: this model .* gives no image embedding"):
        check_pair(torch.zeros(1, 9, 128), torch.zeros(128))
    with pytest.raises(ValueError, match="target_text: it says the same"):
        train(demo, **{**scored, "target_text": "a portrait"})


def test_pictures_of_one_or_of_mixed_sizes_are_refused(demo, train):
    with pytest.raises(ValueError, match="pictures, images: a direction trained on one"):
        train(demo, [{"samples": torch.randn(1, 4, 8, 8)}])
    with pytest.raises(ValueError, match="pictures: of 2 sizes"):
        train(demo, [{"samples": torch.randn(1, 4, 8, 8)}, {"samples": torch.randn(1, 4, 8, 12)}])


def test_only_a_trained_direction_of_the_family_resumes(demo, train, trained, shaped, run):
    with pytest.raises(ValueError, match="resume: this direction \\(training\\) has no network"):
        train(demo, resume=trained[0].mean())
    with pytest.raises(ValueError, match="resume: found on"):
        train(shaped("SD15"), resume=trained[0])


def test_cancel_stops_within_a_step_and_writes_nothing(demo, train, folders):
    import comfy.model_management as management

    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        train(demo, images=64, epochs=100)
    assert not management.in_training
    assert not (folders / "output").exists()
