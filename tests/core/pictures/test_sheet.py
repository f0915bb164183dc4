"""Pictures side by side with labels of any length."""

import itertools

import pytest
import torch

from pack.core.pictures.sheet import PAPER, labelled_grid
from pack.tests.core.pictures.texts import LONG

# --- on a sheet


def label_area(labels, count, side=96):
    sheet = labelled_grid([torch.full((side, side, 3), 0.4)] * count, labels, tile=side)
    return (sheet[0, side:] - torch.tensor(PAPER) / 255).abs().amax(-1) > 0.01


@pytest.mark.parametrize("text", [*LONG.values(), "微笑微笑微笑微笑微笑微笑", "W" * 12], ids=[*LONG, "boxes", "wide"])
def test_a_label_stays_below_its_own_picture(text):
    ink = label_area(["", text, ""], 3)
    assert ink.any()
    assert not ink[:, :98].any()
    assert not ink[:, -98:].any()


def test_a_title_of_any_length_stays_on_the_sheet():
    for text in LONG.values():
        sheet = labelled_grid([torch.full((96, 96, 3), 0.4)] * 2, title=text, tile=96)
        head = (sheet[0, :-96] - torch.tensor(PAPER) / 255).abs().amax(-1) > 0.01
        assert head.any()
        assert not head[:, :6].any()
        assert not head[:, -6:].any()


def test_labels_of_several_lines_make_room_below_every_picture():
    rows = labelled_grid([torch.ones(32, 32, 3)] * 4, ["a", "b\nc", "d", "e"], columns=2, tile=32)[0]
    white = (rows[:, 0] > 0.99).all(-1)
    starts = [i for i in range(len(white)) if white[i] and (i == 0 or not white[i - 1])]
    assert white.sum() == 64
    assert starts == [0, len(rows) // 2]


@pytest.mark.parametrize("side, tile", [*itertools.product((1, 8, 33), (1, 16, 192))])
def test_pictures_of_every_size_take_labels_and_a_title(side, tile):
    sheet = labelled_grid([torch.ones(side, side, 3)] * 2, ["微笑 smile", ""], tile=tile, title="a title")
    assert sheet.shape[0] == 1
    assert sheet.min() >= 0
    assert sheet.max() <= 1


def test_pictures_stand_row_by_row_and_are_enlarged_by_a_whole_factor():
    shades = [torch.full((2, 3, 3), shade / 255) for shade in (51.0, 102.0, 204.0)]
    sheet = labelled_grid(shades, columns=2, tile=5)[0]
    expected = torch.tensor(PAPER) / 255
    assert sheet.shape == (8, 12, 3)
    for i, shade in enumerate(shades):
        top, left = 4 * (i // 2), 6 * (i % 2)
        torch.testing.assert_close(sheet[top : top + 4, left : left + 6], shade[0, 0].expand(4, 6, 3))
    torch.testing.assert_close(sheet[4:, 6:], expected.expand(4, 6, 3))


def test_columns_have_labels_above_and_rows_at_the_left():
    """Each label's ink lies in the strip of its own column or row, and the pictures are where they would be."""
    sheet = labelled_grid(
        [torch.full((96, 96, 3), shade) for shade in (0.2, 0.4, 0.6, 0.8)], columns=2, tile=96, heads=["a", "b"], sides=["", "row"]
    )[0]
    head, left = sheet.shape[0] - 2 * 96, sheet.shape[1] - 2 * 96
    assert head > 12
    assert left > 12
    for i, shade in enumerate((51, 102, 153, 204)):
        top, start = head + 96 * (i // 2), left + 96 * (i % 2)
        torch.testing.assert_close(sheet[top : top + 96, start : start + 96], torch.full((96, 96, 3), shade / 255))
    ink = (sheet - torch.tensor(PAPER) / 255).abs().amax(-1) > 0.01
    assert not ink[:head, :left].any()
    assert all(ink[:head, left + 96 * i + 40 : left + 96 * i + 56].any() for i in range(2))
    assert not ink[head : head + 96, :left].any()
    assert ink[head + 96 + 32 : head + 96 + 64, :left].any()


def test_a_long_label_of_a_row_takes_no_more_than_a_picture_s_width_and_makes_room():
    text = " ".join(["word"] * 30)
    sheet = labelled_grid([torch.ones(32, 32, 3)] * 2, columns=1, tile=32, sides=[text, "b"])[0]
    white = (sheet[:, -1] > 0.99).all(-1)
    assert sheet.shape[1] <= 64
    assert white.sum() == 64
    assert len(sheet) > 64
    assert not white[32 : len(sheet) // 2].any()


@pytest.mark.parametrize(
    "labels, said", [(dict(heads=["a"]), "^heads: got 1 for 2 columns"), (dict(sides=["a"]), "^sides: got 1 for 2 rows")]
)
def test_labels_of_other_numbers_of_columns_or_rows_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        labelled_grid([torch.zeros(4, 4, 3)] * 3, columns=2, **labels)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        ([], [], "^images: got none"),
        ([torch.zeros(4, 4, 3), torch.zeros(4, 6, 3)], [], "^images: got 4 x 4 and 6 x 4 pixels"),
        ([torch.zeros(4, 4, 3)], ["a", "b"], "^labels: got 2 for 1 pictures"),
    ],
)
def test_what_makes_no_sheet_is_refused_by_name(images, labels, said):
    with pytest.raises(ValueError, match=said):
        labelled_grid(images, labels)
