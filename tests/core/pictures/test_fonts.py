"""Fonts: which one draws a character."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from pack.core.pictures import fonts
from pack.core.pictures.fonts import BASIC, system_fonts
from pack.tests.core.pictures.texts import pixels


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
