"""The picture of the model card, from the sheets of a training."""

import pytest
from PIL import Image

from pack.demo import sheets

COLOURS = {"unet": "red", "dit": "blue", "vae": "green"}


@pytest.mark.parametrize(
    ("kinds", "size"), [(("unet", "dit", "vae"), (136, 440)), (("unet", "dit"), (136, 380)), (("dit",), (64, 380)), (("vae",), (64, 92))]
)
def test_the_sheets_that_there_are_stand_in_one_picture(tmp_path, kinds, size):
    for kind in kinds:
        Image.new("RGB", (64, 64 if kind == "vae" else 128), COLOURS[kind]).save(sheets.path_of(tmp_path, kind))
    picture = sheets.together(tmp_path)
    assert picture.size == size
    found = {colour: count for count, colour in picture.getcolors(2**20)}
    for kind in kinds:  # every pixel of every sheet
        colour = Image.new("RGB", (1, 1), COLOURS[kind]).getpixel((0, 0))
        assert found[colour] == 64 * (64 if kind == "vae" else 128)


def test_no_sheet_is_no_picture(tmp_path):
    assert sheets.together(tmp_path) is None
