"""Pictures of one channel (depth maps, masks as pictures) and of four (with opacity), wherever nodes look at pictures."""

import pytest
import torch

COLOURS = {1: lambda x: x[..., :1], 3: lambda x: x, 4: lambda x: torch.cat([x, torch.zeros_like(x[..., :1])], -1)}
for_each = pytest.mark.parametrize("channels", COLOURS)


def pictures(channels, seed=0, count=2):
    return COLOURS[channels](torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(seed)))


def rgb(images):
    return images.expand(*images.shape[:-1], 3) if images.shape[-1] == 1 else images[..., :3]


def grid(run, *images):
    return run("Grid", images=list(images), columns=[0], tile=[32], title=[""], labels=None)[0]


def compare(run, before, after, **scorer):
    return run("CompareEdit", before=before, after=after, source_text="a portrait", target_text="a portrait, smiling", **scorer)


@for_each
def test_a_sheet_shows_them_as_rgb(run, channels):
    assert torch.equal(grid(run, pictures(channels)), grid(run, rgb(pictures(channels))))


def test_pictures_of_other_channels_stand_beside_each_other(run):
    images = [pictures(channels, count=1) for channels in COLOURS]
    assert torch.equal(grid(run, *images), grid(run, *map(rgb, images)))


def test_other_numbers_of_channels_are_refused_as_such(run):
    odd = torch.rand(1, 32, 32, 2)
    with pytest.raises(ValueError, match="images: got pictures of 2 channels"):
        grid(run, odd)
    with pytest.raises(ValueError, match="after: got pictures of 2 channels"):
        compare(run, pictures(3, count=1), odd)
    with pytest.raises(ValueError, match="before: got pictures of 5 channels"):
        compare(run, torch.rand(1, 32, 32, 5), pictures(3, count=1))


def test_sizes_are_named_as_pixels(run):
    with pytest.raises(ValueError, match="images: got 16 x 32 and 32 x 32 pixels.*Resize"):
        grid(run, torch.rand(1, 32, 32, 3), torch.rand(1, 32, 16, 1))


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("before", COLOURS)
@pytest.mark.parametrize("after", COLOURS)
def test_they_are_compared_as_rgb(run, scorer, before, after, scored):
    towers = scorer if scored else {}
    a, b = pictures(before), pictures(after, 1)
    sheet, said, *figures = compare(run, a, b, **towers)
    expected, says, *rest = compare(run, rgb(a), rgb(b), **towers)
    assert torch.equal(sheet, expected)
    assert said == says
    assert figures == pytest.approx(rest, rel=1e-5, abs=1e-6)  # sums over other strides round otherwise


@for_each
def test_a_scorer_sees_them_as_rgb(scorer, channels):
    from pack.host.scorer import ImageScorer

    images = pictures(channels)
    with torch.inference_mode(False), torch.no_grad():
        tower = ImageScorer(scorer["clip_vision"])
        found, expected = (tower.embed(shown.clone().movedim(-1, 1)) for shown in (images, rgb(images)))
    torch.testing.assert_close(found, expected)


class OtherVae:
    """The demo's VAE, whose pictures have other channels."""

    def __init__(self, vae, channels):
        self.vae, self.channels = vae, channels

    def decode(self, latent):
        return COLOURS[self.channels](self.vae.decode(latent))


@for_each
@pytest.mark.parametrize("distance", ["SSIM", "RMS", "CLIP vision"])
def test_a_schedule_is_measured_on_them(demo, run, scorer, channels, distance):
    end, boost = run(
        "EditingSchedule",
        model=demo.model,
        positive=demo.encode("a portrait"),
        negative=demo.encode(""),
        latent=demo.empty(),
        vae=OtherVae(demo.vae, channels),
        distance=distance,
        images=1,
        steps=4,
        cfg=2.0,
        seed=0,
        edit_threshold=0.0,
        boost_threshold=0.0,
        source_text="",
        target_text="",
        clip_vision=scorer["clip_vision"],
    )[1:3]
    assert 0 <= end <= 1
    assert 0 <= boost <= 1


@for_each
def test_an_attribute_s_preview_shows_them(demo, run, sampler_of, channels):
    from pack.nodes.avi import TrainAttribute

    ports = TrainAttribute.define_schema().inputs
    settings = {port.id: port.default for port in ports if getattr(port, "default", None) is not None}
    *_, picture = run(
        "TrainAttribute",
        **settings
        | dict(
            model=demo.model,
            source=demo.encode("a portrait"),
            target=demo.encode("a portrait, beard"),
            negative=demo.encode(""),
            vae=OtherVae(demo.vae, channels),
            sampler=sampler_of("euler"),
            sigmas=demo.sigmas(4),
            latent=demo.empty(),
            seeds=1,
        ),
    )
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
