"""The DDIM sampler in the real host: the host's own at eta 0, and fresh noise elsewhere."""

import pytest
import torch

from pack.tests.foreseeing import Foreseeing
from pack.tests.rounding import close


@pytest.fixture(params=["demo", "SD15", "SD20", "SDXL", "SD15 distilled"])
def world(request, demo, shaped):
    return demo if request.param == "demo" else shaped(request.param)


def drawn(world, sampler_of, model=None, sampler="euler", **options):
    return world.sample(sampler_of(sampler) if isinstance(sampler, str) else sampler, model=model, steps=options.pop("steps", 4), **options)


def test_our_ddim_is_the_hosts_at_eta_0(world, run, sampler_of):
    close(drawn(world, sampler_of, None, run("DDIMSampler", eta=0.0, boost_percent=1.0)[0]), drawn(world, sampler_of, None, "ddim"), 1e-5)


def test_eta_and_boost_bring_noise_where_they_should(demo, run, sampler_of):
    plain = drawn(demo, sampler_of)
    full = drawn(demo, sampler_of, None, run("DDIMSampler", eta=1.0, boost_percent=1.0)[0])
    torch.testing.assert_close(drawn(demo, sampler_of, None, run("DDIMSampler", eta=0.0, boost_percent=0.0)[0]), full, rtol=0, atol=1e-6)
    late = drawn(demo, sampler_of, None, run("DDIMSampler", eta=0.0, boost_percent=0.6)[0])
    assert 0 < (late - plain).norm() < (full - plain).norm()
    assert torch.equal(late, drawn(demo, sampler_of, None, run("DDIMSampler", eta=0.0, boost_percent=0.6)[0]))


@pytest.mark.parametrize("eta, boost", [(1.0, 1.0), (0.0, 0.0)])
def test_fresh_noise_keeps_the_picture_s_share_in_a_flow_model(shaped, run, eta, boost):
    """One step of a model that foresees the same picture everywhere, all ones."""
    noise = torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    sampler = run("DDIMSampler", eta=eta, boost_percent=boost)[0].sampler_function
    after = sampler(
        Foreseeing(shaped("SD3"), lambda x, sigma: torch.ones_like(x)), 0.1 + 0.9 * noise, torch.tensor([0.9, 0.5]), extra_args={"seed": 0}
    )
    assert float(after.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(after.std()) == pytest.approx(0.5, abs=0.01)
