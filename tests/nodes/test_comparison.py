"""Compare Edit in the real host."""

import pytest
import torch


def pictures(count=2, seed=0):
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(seed))


def compare(run, before, after, **changes):
    return run("CompareEdit", **{**dict(before=before, after=after, source_text="a face", target_text="a face, sunglasses"), **changes})


def test_equal_pictures_differ_in_nothing(run):
    sheet, figures, ssim, psnr, drift, gain, direction = compare(run, pictures(), pictures())
    assert (ssim, psnr, drift, gain, direction) == (pytest.approx(1, abs=1e-5), pytest.approx(120, abs=1e-3), 0, 0, 0)
    assert sheet.shape[0] == 1
    assert "SSIM: 1.000" in figures


def test_known_changes_give_known_figures(run):
    before = torch.full((1, 16, 16, 3), 0.5)
    after = before.clone()
    after[..., 0] += 0.1
    _, _, _, psnr, drift, *_ = compare(run, before, after)
    mean_square = 0.01 / 3
    assert psnr == pytest.approx(-10 * torch.tensor(mean_square).log10().item(), abs=1e-3)
    assert drift == pytest.approx(mean_square**0.5, abs=1e-5)


def test_figures_fall_with_the_change(run):
    noise = 2 * pictures(seed=1) - 1
    small, large = (compare(run, pictures(), (pictures() + amount * noise).clamp(0, 1)) for amount in (0.05, 0.3))
    assert small[2] > large[2]
    assert small[3] > large[3]


def test_one_picture_before_serves_a_batch_after(run):
    assert compare(run, pictures(1), pictures(3))[0].shape[0] == 1


def test_the_scorer_sees_the_attribute_appear(demo, run):
    import numpy as np

    from pack.demo import faces

    def drawn(**labels):
        fixed = dict(
            hat="none",
            style="short",
            smile="neutral",
            gaze="front",
            mouth="closed",
            beard="none",
            hair="brown",
            skin="tan",
            background="blue",
            shirt="red",
        )
        return (
            torch.stack(
                [
                    torch.from_numpy(faces.render(faces.sample_face(np.random.default_rng([5, i]), **fixed, **labels)).copy())
                    for i in range(4)
                ]
            ).float()
            / 255
        )

    before, after = drawn(glasses="none"), drawn(glasses="sunglasses")
    scorer = dict(clip_vision=run("DemoScorer")[0], clip=demo.clip)
    _, figures, *_, gain, direction = compare(run, before, after, **scorer)
    assert gain > 0.05
    assert direction > 0.2
    assert "gain of the target text" in figures
    _, _, *_, back, opposite = compare(run, after, before, **scorer)
    assert back == pytest.approx(-gain, abs=1e-4)
    assert opposite == pytest.approx(-direction, abs=1e-4)


@pytest.mark.parametrize(
    "after, message",
    [
        (torch.rand(2, 16, 32, 3), "after: got 32 x 16 pixels, before has 32 x 32"),
        (torch.rand(3, 32, 32, 3), "after: got 3 pictures for 2"),
    ],
)
def test_pictures_that_do_not_belong_together_are_refused(run, after, message):
    with pytest.raises(ValueError, match=message):
        compare(run, pictures(), after)


def test_half_a_scorer_is_refused(demo, run):
    with pytest.raises(ValueError, match="clip_vision: figures of a scorer need both towers"):
        compare(run, pictures(), pictures(), clip=demo.clip)
