"""Networks of pixel-space checkpoints predict what references written from the papers predict; each mistake in reading one shows."""

from dataclasses import replace

import pytest
import torch

from pack.core.pixel.configuration import configuration_of, default_reading, expected_shapes
from pack.core.pixel.file import _joined
from pack.core.pixel.layouts import layout_of
from pack.host.pixel_unet import PixelUNet
from pack.tests.pixel import CHECKPOINTS, H, Reference, filled, shapes_of

EXACT, WRONG = 2e-5, 1e-3  # relative differences
THREE = dict(width=32, multipliers=(1, 2, 2), blocks=1, attention=(1, 2))
GUIDED = dict(THREE, layout="guided diffusion")
SMALL = {
    "DDPM": dict(THREE, layout="DDPM"),
    "diffusers": dict(THREE, layout="diffusers"),
    "iDDPM": dict(GUIDED, blocks=2, heads=4, scale_shift=True, outputs=6),
    "iDDPM without scale": dict(GUIDED, outputs=6),
    "ADM": dict(GUIDED, heads=lambda c: c // 64, scale_shift=True, resamples=True, outputs=6),
    "ADM half": dict(GUIDED, width=64, multipliers=(0.5, 1, 1), heads=lambda c: c // 64, scale_shift=True, resamples=True, classes=5),
    "new order": dict(GUIDED, heads=2, order="by kind", scale_shift=True, resamples=True, outputs=6),
    "diffusers, heads": dict(THREE, layout="diffusers", heads=lambda c: c // 8),
}
READ = {
    "new order": dict(heads=2, head_channels=None, order="by kind"),
    "diffusers, heads": dict(heads=None, head_channels=8),
    "iDDPM": dict(steps=1000),  # as its time steps are those of the reference then
}


def made(name, **other):
    """A small reference, and the host's network with its weights; other: parts of its reading."""
    reference = filled(Reference(**SMALL[name]))
    tensors = reference.state_dict()
    layout = layout_of({key: tuple(value.shape) for key, value in tensors.items()})
    configuration = configuration_of(layout, {key: tuple(value.shape) for key, value in tensors.items()})
    reading = replace(default_reading(configuration, layout), **{**READ.get(name, {}), **other})
    return reference, network_of(layout, configuration, reading, tensors)


def network_of(layout, configuration, reading, tensors):
    import comfy.ops

    network = PixelUNet(configuration, reading, torch.float32, operations=comfy.ops.disable_weight_init)
    weights = {key: _joined(key, [tensors[part] for part in parts]) for key, parts in layout.parts.items() if parts[0] in tensors}
    network.load_state_dict({key: value[:3] if key.startswith("out.2") else value for key, value in weights.items()})
    return network.requires_grad_(False)


def difference(reference, network, t=(703.0, 41.25)):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([1, 4]) if reference.labelled else None
    expected = reference(x, torch.tensor(t), label)[:, :3]
    return float((network(x, torch.tensor(t), y=label) - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SMALL)
def test_networks_predict_what_the_papers_formulas_give(name):
    assert difference(*made(name)) < EXACT


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("DDPM", dict(heads=2)),
        ("iDDPM", dict(heads=1)),
        ("ADM", dict(head_channels=32)),
        ("ADM", dict(head_channels=None, heads=4)),
        ("iDDPM", dict(order="by kind")),
        ("new order", dict(order="by head")),
        ("DDPM", dict(conventions="guided diffusion")),
        ("diffusers", dict(conventions="guided diffusion")),
        ("iDDPM", dict(conventions="DDPM")),
        ("iDDPM", dict(steps=4000)),
    ],
)
def test_a_checkpoint_that_is_read_otherwise_shows(name, mistake):
    assert difference(*made(name, **mistake)) > WRONG


def test_each_of_ddpms_conventions_shows(monkeypatch):
    """Group norms' eps, where the variance is small; the time embedding; downsampling."""
    import comfy.ldm.modules.diffusionmodules.openaimodel as host

    import pack.host.pixel_unet as pixel

    reference, network = made("DDPM")
    norms = [part for part in network.modules() if isinstance(part, torch.nn.GroupNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    for scaled in (reference.modules_by_name["conv_in"], network.input_blocks[0][0]):
        scaled.weight *= 1e-3
        scaled.bias *= 1e-3
    assert difference(reference, network) < EXACT
    for norm in norms:
        norm.eps = 1e-5
    assert difference(reference, network) > WRONG
    reference, network = made("DDPM")
    with monkeypatch.context() as patched:
        patched.setattr(pixel, "ddpm_embedding", host.timestep_embedding)
        assert difference(reference, network) > WRONG
    with monkeypatch.context() as patched:
        patched.setattr(pixel.PaddedDownsample, "forward", lambda self, x: self.op(torch.constant_pad_nd(x, (1, 0, 1, 0))))
        assert difference(reference, network) > WRONG
    assert difference(reference, network) < EXACT


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_public_checkpoints_make_networks_of_their_full_width(name):
    """On the meta device: nothing is allocated."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    shapes = shapes_of(**CHECKPOINTS[name])
    layout = layout_of(shapes)
    configuration = configuration_of(layout, shapes)
    network = PixelUNet(
        configuration, default_reading(configuration, layout), torch.float32, device="meta", operations=comfy.ops.disable_weight_init
    )
    expected = {key: (3, *shape[1:]) if key.startswith("out.2") else shape for key, shape in expected_shapes(configuration)}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == expected
    assert isinstance(network, UNetModel)
    channels, side, size = H.get(name, (512, 8, 256))
    assert network.model_channels * network.channel_mult[-1] == channels
    seen, y = [], None if configuration.classes is None else torch.zeros(1, dtype=torch.long, device="meta")

    def look(args):
        seen.append(tuple(args["h"].shape))
        return {"h": args["h"]}

    x, t = torch.zeros(1, 3, size, size, device="meta"), torch.zeros(1, device="meta")
    out = network(x, t, y=y, transformer_options={"patches": {"middle_block_after_patch": [look]}})
    assert (tuple(out.shape), seen) == (tuple(x.shape), [(1, channels, side, side)])


@pytest.mark.parametrize("name", ["DDPM", "ADM half"])
def test_h_is_what_the_middle_block_gives(name):
    reference, network = made(name)
    seen = []

    def look(args):
        seen.append(args["h"])
        return {"h": args["h"]}

    x, t, y = torch.randn(2, 3, 16, 16), torch.tensor([5.0, 900.0]), torch.tensor([0, 3]) if reference.labelled else None
    network(x, t, y=y, transformer_options={"patches": {"middle_block_after_patch": [look]}})
    reference(x, t, y)
    torch.testing.assert_close(seen[0], reference.h, rtol=1e-4, atol=1e-4)


def test_other_patches_of_the_time_embedding_come_after_ddpms():
    reference, network = made("DDPM")
    seen = []

    def keep(emb, channels, options):
        seen.append(emb)
        return emb

    options = {"patches": {"emb_patch": [keep]}}
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([5.0])
    out = network(x, t, transformer_options=options)
    assert torch.equal(out, network(x, t))
    assert options == {"patches": {"emb_patch": [keep]}}
    half = torch.arange(16)
    angles = 5.0 * 10000 ** (-half / 15)
    wave = torch.cat([angles.sin(), angles.cos()])[None]
    torch.testing.assert_close(seen[0], network.time_embed(wave))
