"""Texts on pictures: any script, long ones, several lines."""

import json
from pathlib import Path

import numpy as np
import pytest

from pack.core.pictures.typesetting import MOST, Typeset, paragraphs_of
from pack.tests.core.pictures.texts import LONG, pixels

LOCALES = Path(__file__).resolve().parents[3] / "locales"


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
    size = Typeset.fitting(["a portrait, smiling, with sunglasses, a hat, and a beard"], 184, 19).faces[0].size
    assert 9 <= size < 19 == Typeset.fitting(["a portrait"], 184, 19).faces[0].size


def test_an_ending_tells_long_texts_apart():
    long = LONG["a paragraph"]
    assert not np.array_equal(pixels(f"{long} 1", width=184), pixels(f"{long} 2", width=184))
