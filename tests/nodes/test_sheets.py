"""StrengthRange and Grid in the real host."""

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
