"""Edits beside a ControlNet of the host's own."""

import pytest
import torch

from pack.core.hspace.direction import Direction
from pack.tests.attributes import train
from pack.tests.edits import with_attribute, with_direction


@pytest.fixture
def sample(shaped, sampler_of, control_net):
    """The latent of a run with a ControlNet on the positive prompt."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    from nodes import ControlNetApplyAdvanced

    world = shaped("SD15")
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))

    def call(*, model=None, sampler=None, strength=1.0):
        sigmas = world.sigmas(5)
        positive, negative = ControlNetApplyAdvanced().apply_controlnet(
            world.encode("a portrait"), world.encode(""), control_net, hint, strength, 0.0, 1.0
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
        return with_direction(run, world.model, direction, strength, asymmetric=asymmetric)

    plain = sample()
    assert not torch.allclose(plain, sample(strength=0.0), atol=1e-2)  # the ControlNet does something
    assert torch.equal(sample(model=edited(0.0)), plain)
    assert torch.equal(sample(), plain)
    once = sample(model=edited(1.0))
    assert torch.isfinite(once).all()
    assert (once - plain).abs().max() > 1e-3
    assert torch.equal(sample(model=edited(1.0)), once)


def test_an_attribute_s_target_run_has_the_control_net_too(shaped, run, sample, sampler_of, monkeypatch):
    world = shaped("SD15")
    sigmas = world.sigmas(5)
    vae = type("Vae", (), {"decode": lambda self, x: x[:, :3].movedim(1, -1).clamp(0, 1)})()
    attribute = train(run, world, sampler_of("euler"), target="a hat", sigmas=sigmas, vae=vae, source_weight=0.0)[0]

    def edited(strength, target):
        return with_attribute(run, sampler_of("euler"), attribute, strength, target=target)

    plain = sample()
    assert torch.equal(sample(sampler=edited(0.0, world.encode("a hat"))), plain)
    whole = sample(sampler=edited(1.0, world.encode("a hat")))
    assert torch.isfinite(whole).all()
    assert (whole - plain).abs().max() > 1e-2
    # Under the source's own prompt the target's run is the source's, ControlNet and all, so nothing is left to edit.
    assert torch.allclose(sample(sampler=edited(1.0, world.encode("a portrait"))), plain, atol=1e-3 * float(plain.abs().max()))
    assert not torch.allclose(sample(sampler=edited(1.0, world.encode("a portrait")), strength=0.0), plain, atol=1e-2)
