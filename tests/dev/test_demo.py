"""What `make demo` draws, kept as the picture of a template."""

from PIL import Image

from pack.dev.demo import WIDEST, keep


def drawn(folder, name, size, colour):
    Image.new("RGB", size, colour).save(folder / name)
    return folder / name


def test_pictures_lie_one_below_another(tmp_path):
    keep([drawn(tmp_path, "a.png", (64, 32), "red"), drawn(tmp_path, "b.png", (32, 64), "blue")], tmp_path / "kept.jpg")
    kept = Image.open(tmp_path / "kept.jpg")
    assert kept.format == "JPEG"
    assert kept.size == (64, 96)
    red, blue = (kept.getpixel(place) for place in ((8, 16), (8, 72)))
    assert red[0] > 200 > 50 > red[2]
    assert blue[2] > 200 > 50 > blue[0]


def test_a_wide_picture_is_made_smaller(tmp_path):
    keep([drawn(tmp_path, "a.png", (2 * WIDEST, 100), "red")], tmp_path / "kept.jpg")
    assert Image.open(tmp_path / "kept.jpg").size == (WIDEST, 50)
