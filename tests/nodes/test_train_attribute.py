"""Train Attribute in the real host."""

import pytest
import torch

from pack.tests.attributes import SOURCE, TARGET, draw, train
from pack.tests.edits import with_attribute


@pytest.fixture(scope="module", params=["demo", "SD15", "SD20", "SDXL"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def test_training_gives_a_preview_and_is_repeatable(world, run, sampler_of):
    plain = draw(world, sampler_of("euler"))
    for solver in ("exact", "MLP"):
        one, loss, picture = train(run, world, sampler_of("dpmpp_2m"), solver=solver, seeds=2, ahead=0.2, branch=0.2)
        two, again, _ = train(run, world, sampler_of("dpmpp_2m"), solver=solver, seeds=2, ahead=0.2, branch=0.2)
        assert loss == again
        assert loss["loss"][-1] < loss["loss"][0]
        assert len(loss["loss"]) == (3 if solver == "exact" else 5)
        assert torch.equal(one.parts[0][0].stored.S, two.parts[0][0].stored.S)
        assert picture.shape[0] == 1
        assert picture.shape[-1] == 3
        for target in (world.encode(TARGET), None):
            edited = draw(world, with_attribute(run, sampler_of("euler"), one, target=target))
            assert torch.equal(edited, draw(world, with_attribute(run, sampler_of("euler"), two, target=target)))
            assert torch.isfinite(edited).all()
            assert not torch.equal(edited, plain)


def test_learning_leaves_the_model_and_the_random_state_alone(demo, run, sampler_of):
    torch.manual_seed(5)
    state, plain = torch.random.get_rng_state(), draw(demo, sampler_of("euler"))
    torch.random.set_rng_state(state)
    train(run, demo, sampler_of("euler"), solver="MLP")
    assert torch.equal(draw(demo, sampler_of("euler")), plain)
    assert not demo.model.model_options["transformer_options"].get("patches")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": SOURCE}, "target: it draws the same"),
        ({"percent": 0.7, "ahead": 0.4}, "percent, ahead: 0.7 and 0.4 lead to 1.1"),
        ({"percent": 0.2, "branch": 0.5}, "branch: got 0.5, after percent"),
        ({"sigmas": torch.tensor([14.6, 9.0, 5.0])}, "percent, ahead: this run ends before 0.5"),
        ({"source_rank": 9}, "source_rank: got 9"),
        ({"target_rank": 40}, "target_rank: got 40"),
        ({"target_weight": 0.0, "source_weight": 0.0}, "both are 0"),
    ],
)
def test_bad_input_is_named(demo, run, sampler_of, changes, message):
    with pytest.raises(ValueError, match=message):
        train(run, demo, sampler_of("euler"), **changes)


def test_the_positive_prompt_s_control_is_used_in_both_runs(demo, run, sampler_of, attribute, monkeypatch):
    from pack.host import denoisers

    class Control:
        pass

    guider = type(
        "Guider", (), {"conds": {"positive": [{"control": Control()}], "negative": []}, "inner_model": None, "model_patcher": demo.model}
    )()
    model = type("Model", (), {"inner_model": guider})()
    monkeypatch.setattr(denoisers.comfy.samplers, "process_conds", lambda model, x, prompts, device, **more: prompts)
    other = denoisers.under_prompt(model, demo.encode(TARGET), torch.zeros(1), None)._prompts
    assert other["positive"][0]["control"] is guider.conds["positive"][0]["control"]
    assert torch.equal(other["positive"][0]["cross_attn"], demo.encode(TARGET)[0][0])
    assert "cross_attn" not in guider.conds["positive"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(shaped, run, sampler_of, dtype):
    world = shaped("SD15", dtype)
    small = world.empty(size=8)
    learned = train(run, world, sampler_of("euler"), solver="MLP", latent=small)[0]
    plain = draw(world, sampler_of("euler"), latent=small)
    for target in (None, world.encode(TARGET)):
        assert torch.equal(draw(world, with_attribute(run, sampler_of("euler"), learned, 0.0, target=target), latent=small), plain)
        edited = draw(world, with_attribute(run, sampler_of("euler"), learned, target=target), latent=small)
        assert torch.isfinite(edited).all()
        assert not torch.equal(edited, plain)
