"""Train Direction, Load Demo Scorer and Editing Schedule in the real host, and trained directions wherever directions go."""

import pytest
import torch

from pack.core.hspace.trained import TrainedDirection, in_form

SETTINGS = dict(
    objective="prompt matching",
    images=2,
    batch_size=2,
    epochs=2,
    steps=3,
    end_percent=0.8,
    cfg=2.0,
    learning_rate=1e-3,
    keep_weight=0.0,
    seed=0,
    source_text="a face",
    target_text="a face, blue hair",
)


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL", "SD15 distilled"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


@pytest.fixture
def train(run):
    def call(world, pictures=None, **changes):
        settings = dict(
            model=world.model,
            source=world.encode("a face"),
            negative=world.encode(""),
            target=world.encode("a face, blue hair"),
            vae=world.vae,
            latent=world.empty(),
        )
        more = {} if pictures is None else {"pictures": pictures}
        return run("TrainDirection", **{key: [value] for key, value in {**settings, **SETTINGS, **changes}.items()}, **more)

    return call


@pytest.fixture(scope="module")
def trained(demo, pack_nodes, tmp_path_factory):
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    settings = dict(
        model=demo.model,
        source=demo.encode("a face"),
        negative=demo.encode(""),
        target=demo.encode("a face, blue hair"),
        vae=demo.vae,
        latent=demo.empty(),
    )
    with torch.inference_mode():
        return (
            pack_nodes["SemanticLatents_TrainDirection"]
            .execute(**{key: [value] for key, value in {**settings, **SETTINGS, "epochs": 3}.items()})
            .args
        )


@pytest.fixture
def scored(demo, run):
    return dict(objective="CLIP directional", clip_vision=run("DemoScorer")[0], clip=demo.clip, target=None)


def edited(world, run, sampler_of, direction, strength=1.0, sampler="euler", steps=4, **changes):
    settings = dict(start_percent=0.0, end_percent=0.9, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
    options = {key: changes.pop(key) for key in ("latent", "prompt", "seed") if key in changes}
    model = run("ApplyDirection", model=world.model, direction=direction, strength=strength, **{**settings, **changes})[0]
    return world.sample(sampler_of(sampler) if isinstance(sampler, str) else sampler, model=model, steps=steps, prompt="a face", **options)


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


@pytest.mark.parametrize("in_place", [False, True])
def test_the_gradient_is_that_of_the_whole_model(demo, shaped, monkeypatch, in_place):
    """The gradient of the first loss with respect to the network's last bias fits differences of the loss itself.

    It does so under a patch that writes in place, too.
    """
    from comfy_extras.nodes_freelunch import FreeU_V2

    from pack.core.hspace.network import ImplicitNetwork
    from pack.core.hspace.training import Training
    from pack.host.families import family_of
    from pack.host.runs import drawn, schedule
    from pack.host.training import Matching, ModelInTraining, Trainer, TrainingRuns

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: 0.0)
    world = shaped("SD15") if in_place else demo
    model = FreeU_V2.execute(world.model, b1=1.3, b2=1.4, s1=0.9, s2=0.2).args[0] if in_place else world.model
    noise, sigmas = drawn(model, world.empty(), 2, 0), schedule(model, 3)[:2]
    prompts = {"positive": world.encode("a face"), "negative": world.encode(""), "target": world.encode("a face, blue hair")}

    def first_update(bias=0.0):
        def begin(size, device):
            network = ImplicitNetwork(family_of(model).channels, size)
            network.leave.bias.data += bias
            return Training(network, 0.0, 1)

        trainer = Trainer(TrainingRuns(ModelInTraining(model), prompts, 2.0, sigmas, float(sigmas[0])), lambda: None, Matching(0.0), begin)
        trainer.runs.run(trainer, noise)
        return trainer.training

    with torch.inference_mode(False):
        gradient = first_update().network.leave.bias.grad
        step = 0.01 * gradient / gradient.norm()
        up, down = (first_update(sign * step).losses[0] for sign in (1, -1))
    assert (up - down) / 0.02 == pytest.approx(float(gradient.norm()), rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_trains_too(shaped, train, run, sampler_of, dtype):
    world = shaped("SD15", dtype)
    direction, curve, _ = train(world, epochs=6)
    losses = curve["loss"]
    assert sum(losses[-2:]) < 0.98 * sum(losses[:2])
    picture = edited(world, run, sampler_of, direction)
    assert torch.isfinite(picture).all()
    assert not torch.equal(picture, edited(world, run, sampler_of, direction, 0.0))


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


def test_the_clip_objective_moves_pictures_as_the_texts_differ(demo, train, scored):
    losses = train(demo, **scored, epochs=8, keep_weight=0.1)[1]["loss"]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_the_demo_scorer_and_the_checkpoint_s_text_encoder_are_a_pair(demo, run):
    """Drawn faces are nearest to their own prompt, by the host's own CLIP vision call."""
    import numpy as np

    from pack.demo import faces, prompts
    from pack.host.scorer import ImageScorer, text_embedding

    wanted = [
        dict(glasses="sunglasses"),
        dict(hat="hat"),
        dict(skin="dark", style="bald"),
        dict(background="green"),
        dict(hair="blue", style="curly"),
    ]
    shown = [
        faces.sample_face(
            np.random.default_rng([77, i]), **{**dict(glasses="none", hat="none", skin="pale", background="white", style="short"), **w}
        )
        for i, w in enumerate(wanted)
    ]
    pictures = torch.stack([torch.from_numpy(faces.render(face).copy()) for face in shown]).float() / 255
    clip_vision = run("DemoScorer")[0]
    embeddings = clip_vision.encode_image(pictures)["image_embeds"]
    texts = torch.stack([text_embedding(demo.clip, prompts.prompt_for(w)) for w in wanted])
    likeness = torch.nn.functional.normalize(embeddings, dim=1) @ torch.nn.functional.normalize(texts - texts.mean(0), dim=1).T
    assert (likeness.argmax(1) == torch.arange(5)).sum() >= 4
    with torch.inference_mode(False), torch.no_grad():
        torch.testing.assert_close(
            ImageScorer(clip_vision).embed(pictures.clone().movedim(-1, 1)), embeddings.clone(), rtol=1e-2, atol=2e-2
        )


def test_training_goes_on_from_a_saved_direction(demo, train, run, folders):
    first, before, _ = train(demo, epochs=3)
    run("SaveDirection", direction=first, filename_prefix="half")
    loaded = run("LoadDirection", file="half_00001_.safetensors", concept="young")[0]
    second, after, _ = train(demo, epochs=1, resume=loaded)
    assert after["loss"][0] < 0.95 * before["loss"][0]
    assert int(second.notes["updates"]) == int(first.notes["updates"]) + len(after["loss"])


def test_given_pictures_are_a_training_set_in_batches_or_one_by_one(demo, train):
    pictures = [{"samples": 0.5 * torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(2)]
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
        train(demo, **{**scored, "target_text": "a face"})


def test_pictures_of_one_or_of_mixed_sizes_are_refused(demo, train):
    with pytest.raises(ValueError, match="pictures, images: a direction trained on one"):
        train(demo, [{"samples": torch.randn(1, 3, 16, 16)}])
    with pytest.raises(ValueError, match="pictures: of 2 sizes"):
        train(demo, [{"samples": torch.randn(1, 3, 16, 16)}, {"samples": torch.randn(1, 3, 16, 24)}])


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


def test_a_trained_direction_moves_the_picture_at_any_number_of_steps(demo, run, sampler_of, trained):
    for steps in (3, 7):
        plain = demo.sample(sampler_of("euler"), steps=steps, prompt="a face")
        up, half = (edited(demo, run, sampler_of, trained[0], s, steps=steps) - plain for s in (1.0, 0.5))
        assert up.abs().max() > 0.02
        assert half.norm() < up.norm()
        assert torch.equal(edited(demo, run, sampler_of, trained[0], 0.0, steps=steps), plain)


def test_a_trained_direction_works_at_another_size_than_it_was_trained_at(demo, run, sampler_of, trained):
    for size in ((24, 16), (32, 32)):
        picture = edited(demo, run, sampler_of, trained[0], latent=demo.empty(1, *size))
        assert torch.isfinite(picture).all()


def test_batches_singles_and_second_runs_agree(demo, run, sampler_of, trained):
    model = run(
        "ApplyDirection",
        model=demo.model,
        direction=trained[0],
        strength=1.0,
        start_percent=0.0,
        end_percent=0.9,
        ramp=0.0,
        branch="both",
        asymmetric=True,
        keep_norm=False,
    )[0]
    both = demo.sample(sampler_of("euler"), model=model, latent=demo.empty(2))
    assert torch.equal(demo.sample(sampler_of("euler"), model=model, latent=demo.empty(2)), both)
    torch.testing.assert_close(demo.sample(sampler_of("euler"), model=model, latent=demo.empty(1)), both[:1], rtol=0, atol=1e-3)


def test_the_asymmetric_form_and_the_ddim_sampler_take_it(demo, run, sampler_of, trained):
    plain = demo.sample(sampler_of("ddim"), steps=4, prompt="a face")
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
        source=demo.encode("a face"),
        target=demo.encode("a face, hat"),
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
    settings = dict(start_percent=0.0, end_percent=0.9, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
    apply = lambda model, direction: run("ApplyDirection", model=model, direction=direction, strength=0.7, **settings)[0]
    other = trained[0].means
    one, two = apply(apply(demo.model, trained[0]), other), apply(apply(demo.model, other), trained[0])
    torch.testing.assert_close(demo.sample(sampler_of("euler"), model=one), demo.sample(sampler_of("euler"), model=two), rtol=0, atol=1e-3)


@pytest.mark.parametrize("distance", ["SSIM", "RMS", "CLIP vision"])
def test_a_schedule_is_proposed_that_apply_direction_and_the_sampler_take(demo, run, sampler_of, trained, distance):
    start, end, boost, picture = run(
        "EditingSchedule",
        model=demo.model,
        positive=demo.encode("a face"),
        negative=demo.encode(""),
        vae=demo.vae,
        latent=demo.empty(),
        distance=distance,
        images=2,
        steps=6,
        cfg=2.0,
        seed=0,
        edit_threshold=0.0,
        boost_threshold=0.0,
        source_text="a face",
        target_text="a face, hat",
        clip_vision=run("DemoScorer")[0],
    )
    assert start == 0 <= end <= boost <= 1
    assert boost > 0
    assert picture.shape[0] == 1
    sampler = run("DDIMSampler", eta=0.0, boost_percent=boost)[0]
    assert torch.isfinite(edited(demo, run, sampler_of, trained[0], sampler=sampler, end_percent=max(end, 0.3))).all()


def test_a_higher_threshold_ends_the_edit_earlier_and_the_texts_likeness_lowers_it(demo, run):
    def ends(**changes):
        settings = dict(
            model=demo.model,
            positive=demo.encode("a face"),
            negative=demo.encode(""),
            vae=demo.vae,
            latent=demo.empty(),
            distance="RMS",
            images=2,
            steps=8,
            cfg=2.0,
            seed=0,
            edit_threshold=0.1,
            boost_threshold=0.1,
            source_text="a face",
            target_text="a face, hat",
        )
        return run("EditingSchedule", **{**settings, **changes})[1]

    assert ends(edit_threshold=0.02) > ends() > ends(edit_threshold=0.3)
    assert ends(clip=demo.clip) > ends()


def test_the_distance_clip_vision_needs_one(demo, run):
    with pytest.raises(ValueError, match="clip_vision: the distance CLIP vision needs one"):
        run(
            "EditingSchedule",
            model=demo.model,
            positive=demo.encode("a face"),
            negative=demo.encode(""),
            vae=demo.vae,
            latent=demo.empty(),
            distance="CLIP vision",
            images=2,
            steps=4,
            cfg=2.0,
            seed=0,
            edit_threshold=0.0,
            boost_threshold=0.0,
            source_text="",
            target_text="",
        )
