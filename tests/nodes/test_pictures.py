"""Strength Range, Grid and Compare Edit in the real host."""

import pytest
import torch


def test_strengths_are_evenly_spaced_and_named(run):
    strengths, labels = run("StrengthRange", minimum=-1.0, maximum=1.0, count=5)
    assert strengths == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert labels == ["-1.00", "-0.50", "0", "+0.50", "+1.00"]
    assert run("StrengthRange", minimum=0.7, maximum=3.0, count=1)[0] == [0.7]


def grid(run, images, labels=None, columns=0, tile=16, title=""):
    """As the host calls a node that takes lists."""
    return run("Grid", images=images, columns=[columns], tile=[tile], title=[title], labels=labels)[0]


def test_a_list_of_pictures_becomes_one_row(run):
    images = [torch.full((1, 32, 32, 3), value) for value in (0.0, 0.5, 1.0)]
    sheet = grid(run, images)
    assert sheet.shape == (1, 32, 96, 3)
    torch.testing.assert_close(sheet[0, 16, [16, 48, 80], 0], torch.tensor([0.0, 0.5, 1.0]), atol=0.01, rtol=0)


def test_batches_and_lists_mix_and_fill_rows(run):
    assert grid(run, [torch.zeros(3, 32, 32, 3), torch.zeros(1, 32, 32, 3)], columns=2).shape == (1, 64, 64, 3)


def test_small_pictures_are_enlarged_and_labels_are_written_below(run):
    black = [torch.zeros(1, 32, 32, 3)] * 2
    plain, labelled = grid(run, black, tile=128), grid(run, black, ["one", "two"], tile=128)
    assert plain.shape == (1, 128, 256, 3)
    assert labelled.shape[1] > 128
    assert labelled[0, 128:].max() > 0.5
    assert labelled[0, :128].max() == 0


def test_a_title_is_written_above(run):
    sheet = grid(run, [torch.zeros(1, 32, 32, 3)], tile=128, title="smile")
    assert sheet.shape[1] > 128
    assert sheet[0, :20].max() > 0.5


def test_bad_sheets_are_refused(run):
    with pytest.raises(ValueError, match="one size"):
        grid(run, [torch.zeros(1, 32, 32, 3), torch.zeros(1, 16, 32, 3)])
    with pytest.raises(ValueError, match="labels: got 1 for 2"):
        grid(run, [torch.zeros(2, 32, 32, 3)], ["one"])


def pictures(count=2, seed=0):
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(seed))


def compare(run, before, after, **changes):
    return run(
        "CompareEdit", **{**dict(before=before, after=after, source_text="a portrait", target_text="a portrait, sunglasses"), **changes}
    )


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


def test_the_scorer_sees_the_attribute_appear(run, scorer):
    import numpy as np

    from pack.demo import drawing, faces

    plain = dict(hat="none", style="straight", smile=0.0, mouth=0.0, beard=0.0, turn=0.0, hair="brown", skin=0.5)
    plain |= dict(background="blue", shirt="red")

    def drawn(**labels):
        shown = [faces.sample_face(np.random.default_rng([5, i]), **plain, **labels) for i in range(4)]
        return torch.stack([torch.from_numpy(drawing.render(face).copy()) for face in shown]).float() / 255

    before, after = drawn(glasses="none"), drawn(glasses="sunglasses")
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
