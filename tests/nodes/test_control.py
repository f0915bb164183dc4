"""Edits beside a ControlNet of the host's own."""

import pytest
import torch

from pack.core.hspace.direction import Direction


@pytest.fixture
def sample(shaped, sampler_of, control_net):
    """The latent of a run with a ControlNet on the positive prompt."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom

    from nodes import ControlNetApplyAdvanced

    world = shaped("SD15")
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))

    def call(*, model=None, sampler=None, strength=1.0):
        sigmas = BasicScheduler.execute(world.model, "normal", 5, 1.0).args[0]
        positive, negative = ControlNetApplyAdvanced().apply_controlnet(
            world.encode("a face"), world.encode(""), control_net, hint, strength, 0.0, 1.0
        )
        return SamplerCustom.execute(
            model or world.model, True, 1, 2.0, positive, negative, sampler or sampler_of("euler"), sigmas, world.empty()
        ).args[0]["samples"]

    return call


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_direction_acts_beside_a_control_net(shaped, run, sample, asymmetric):
    from pack.host.families import family_of

    world = shaped("SD15")
    family = family_of(world.model)
    direction = Direction(torch.randn(1, family.channels, 2, 2, generator=torch.Generator().manual_seed(0)), (1.0,), family, "random")

    def edited(strength):
        return run(
            "ApplyDirection",
            model=world.model,
            direction=direction,
            strength=strength,
            start_percent=0.0,
            end_percent=1.0,
            ramp=0.0,
            branch="both",
            asymmetric=asymmetric,
            keep_norm=False,
        )[0]

    plain = sample()
    assert not torch.allclose(plain, sample(strength=0.0), atol=1e-2)  # the ControlNet does something
    assert torch.equal(sample(model=edited(0.0)), plain)
    assert torch.equal(sample(), plain)
    once = sample(model=edited(1.0))
    assert torch.isfinite(once).all()
    assert (once - plain).abs().max() > 1e-3
    assert torch.equal(sample(model=edited(1.0)), once)


def test_an_attribute_s_target_run_has_the_control_net_too(shaped, run, sample, sampler_of, monkeypatch):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    world = shaped("SD15")
    sigmas = BasicScheduler.execute(world.model, "normal", 5, 1.0).args[0]
    inputs = dict(
        cfg=2.0,
        seed=0,
        seeds=1,
        percent=0.5,
        ahead=0.0,
        branch=0.0,
        source_rank=0,
        target_rank=0,
        solver="exact",
        target_weight=1.0,
        source_weight=0.0,
        target_values_weight=0.0,
        source_values_weight=0.0,
        residual=True,
        steps=5,
    )
    vae = type("Vae", (), {"decode": lambda self, x: x[:, :3].movedim(1, -1).clamp(0, 1)})()
    attribute = run(
        "TrainAttribute",
        model=world.model,
        source=world.encode("a face"),
        target=world.encode("a hat"),
        negative=world.encode(""),
        vae=vae,
        sampler=sampler_of("euler"),
        sigmas=sigmas,
        latent=world.empty(),
        **inputs,
    )[0]

    def edited(strength, target):
        return run("ApplyAttribute", sampler=sampler_of("euler"), attribute=attribute, strength=strength, budget=0.0, target=target)[0]

    plain = sample()
    assert torch.equal(sample(sampler=edited(0.0, world.encode("a hat"))), plain)
    whole = sample(sampler=edited(1.0, world.encode("a hat")))
    assert torch.isfinite(whole).all()
    assert (whole - plain).abs().max() > 1e-2
    # Under the source's own prompt the target's run is the source's, ControlNet and all, so nothing is left to edit.
    assert torch.allclose(sample(sampler=edited(1.0, world.encode("a face"))), plain, atol=1e-3 * float(plain.abs().max()))
    assert not torch.allclose(sample(sampler=edited(1.0, world.encode("a face")), strength=0.0), plain, atol=1e-2)
