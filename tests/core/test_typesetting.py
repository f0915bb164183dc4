"""Texts on pictures: any script, long ones, several lines."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from pack.core.pictures import fonts, typesetting
from pack.core.pictures.fonts import BASIC, Fonts, system_fonts
from pack.core.pictures.sheet import PAPER, labelled_grid
from pack.core.pictures.typesetting import MOST, Typeset, paragraphs_of

LOCALES = Path(__file__).resolve().parents[2] / "locales"


def font_with(path, characters):
    """A font file with these characters: squares, each of another size."""

    def square(side):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0)), pen.lineTo((0, side)), pen.lineTo((side, side)), pen.lineTo((side, 0)), pen.closePath()
        return pen.glyph()

    names = {ord(character): f"u{ord(character):04X}" for character in characters}
    builder = FontBuilder(1000)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({name: square(1000 * (i + 1) // (len(names) + 1)) for i, name in enumerate([".notdef", *names.values()])})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def only(monkeypatch):
    """`only(path, ...)`: the fonts of the machine, beside the one inside Pillow."""

    def install(*paths):
        found = Fonts([BASIC, *paths])
        monkeypatch.setattr(typesetting, "installed", lambda: found)
        return found

    return install


def pixels(text, width=300, size=20):
    return np.asarray(Typeset.fitting([text], width, size).mask(0, centred=False))


def inked(text, **options):
    return bool(pixels(text, **options).any())


PAIRS = [
    ("微笑", "胡子"),
    ("笑顔", "帽子"),
    ("борода", "улыбка"),
    ("é", "ü"),
    ("±1", "−1"),
    ("smile", "beard"),
    ("🙂", "🙃"),
    ("\ud800", "\udfff"),
    ("\x01", "\x02"),
    ("a\u0301", "a"),
]


@pytest.mark.parametrize("machine", ["with its own fonts", "with none"])
@pytest.mark.parametrize("a, b", PAIRS)
def test_different_texts_look_different(a, b, machine, only):
    if machine == "with none":
        only()
    assert not np.array_equal(pixels(a), pixels(b))
    assert inked(a)
    assert np.array_equal(pixels(a), pixels(a))


@pytest.mark.parametrize("language", ["zh", "zh-TW", "ja"])
def test_the_pack_s_own_words_look_different_in_its_languages(language):
    words = [node["display_name"] for node in json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")).values()]
    drawn = [pixels(word, width=900).tobytes() for word in words]
    assert len(set(drawn)) == len(set(words)) > 10


def test_a_character_comes_from_the_first_font_that_has_it(tmp_path, only):
    squares, more = font_with(tmp_path / "squares.ttf", "微笑"), font_with(tmp_path / "more.ttf", "微胡")
    assert only(squares, more).choose("a微 胡子") == {"a": BASIC, "微": squares, "胡": more, "子": None}
    boxes = pixels("子子")
    assert not np.array_equal(pixels("微微"), pixels("胡胡"))
    assert not np.array_equal(pixels("微微"), boxes)


def test_one_font_draws_the_whole_text_if_it_can(tmp_path, only):
    squares = font_with(tmp_path / "squares.ttf", "caf微笑")
    assert set(only(squares).choose("caf 微").values()) == {squares}
    assert only(squares).choose("cafe 微")["c"] == BASIC


def test_no_font_is_opened_for_what_those_before_it_have(tmp_path, only, monkeypatch):
    opened, covered = [], fonts.covered
    monkeypatch.setattr(fonts, "covered", lambda font, characters: opened.append(font) or covered(font, characters))
    squares, more = font_with(tmp_path / "squares.ttf", "微笑"), font_with(tmp_path / "more.ttf", "胡子")
    found = only(squares, more)
    for text in ("smile 1", "微", "1 微 smile"):
        found.choose(text)
    assert set(opened) == {BASIC, squares}
    count = len(opened)
    for text in ("smile 1", "微", "1 微 smile"):
        found.choose(text)
    assert len(opened) == count


def test_files_that_are_no_fonts_are_passed_over(tmp_path, only):
    (tmp_path / "damaged.ttf").write_bytes(bytes(200))
    squares = font_with(tmp_path / "squares.ttf", "微")
    assert only(str(tmp_path / "damaged.ttf"), str(tmp_path / "gone.ttf"), squares).choose("微") == {"微": squares}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="folders of Linux")
def test_the_system_s_fonts_are_found_the_plain_ones_first(tmp_path, monkeypatch):
    for folder in ("HOME", "DIRS"):
        (tmp_path / folder / "fonts" / "deep").mkdir(parents=True)
        monkeypatch.setenv(f"XDG_DATA_{folder}", str(tmp_path / folder))
    names = ["HOME/fonts/A.ttf", "DIRS/fonts/deep/NotoSansCJK-Regular.ttc", "DIRS/fonts/deep/NotoSansCJK-Bold.ttc", "HOME/fonts/readme.txt"]
    for name in names:
        (tmp_path / name).touch()
    found = [Path(path).name for path in system_fonts() if path.startswith(str(tmp_path))]
    assert found == ["NotoSansCJK-Regular.ttc", "A.ttf", "NotoSansCJK-Bold.ttc"]


# --- lines


def test_all_lines_are_drawn(only):
    only()
    one, three = (Typeset.fitting([text], 300, 20) for text in ("one", "one\ntwo\nthree"))
    line = sum(one.extent)
    assert three.height == one.height + 2 * line
    mask = np.asarray(three.mask(0, centred=False))
    for i, text in enumerate(("one", "two", "three")):
        assert np.array_equal(mask[i * line : i * line + one.height - 4], pixels(text)[:-4])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\u2028", "\x0b"])
def test_every_kind_of_line_end_ends_a_line(end):
    assert paragraphs_of(f"one{end}two") == ["one", "two"]


def test_marks_that_nothing_is_drawn_for_are_left_out():
    assert paragraphs_of("a\u200db\ufe0fc\u00ad") == ["abc"]
    assert paragraphs_of("e\u0301") == ["é"]
    assert paragraphs_of("") == [""]


LONG = {
    "words": "a photograph of a young woman, smiling, short brown hair, tan skin, blue background",
    "one word": "x" * 200,
    "a file": "semantic_latents_direction_from_prompts_00012_.safetensors",
    "ideographs": "日本語の長いラベルがここにあります" * 4,
    "a paragraph": " ".join(f"word{i}" for i in range(300)),
    "a book": "all work and no play " * 10000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
@pytest.mark.parametrize("width", [24, 96, 184])
def test_long_texts_are_broken_into_lines_that_fit(text, width):
    typeset = Typeset.fitting([text, "short"], width, 19)
    (lines, _), face = typeset.lines, typeset.faces[0]
    assert 1 < len(lines) <= MOST
    assert all(face.length(line) <= width or len(line) == 1 for line in lines)
    if len(lines) < MOST and len(text) < 2000:
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert text.startswith(lines[0].split()[0])
    assert text.rstrip().endswith(lines[-1].split()[-1])


def test_a_text_that_is_a_little_long_is_drawn_smaller(only):
    only()
    size = Typeset.fitting(["a face, smiling, with sunglasses, a hat, and a beard"], 184, 19).faces[0].size
    assert 9 <= size < 19 == Typeset.fitting(["a face"], 184, 19).faces[0].size


def test_an_ending_tells_long_texts_apart():
    long = LONG["a paragraph"]
    assert not np.array_equal(pixels(f"{long} 1", width=184), pixels(f"{long} 2", width=184))


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
