"""Text of any script as a picture: lines that fit a width, in fonts that have the characters."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from math import ceil

from PIL import Image, ImageDraw

from .fonts import BASIC, installed, load

SIZES = (1.0, 0.8, 0.65)  # of the text, as shares of the size asked for: the first at which it takes few lines
FEW, MOST, SMALLEST = 2, 12, 9  # lines at that size; lines of one text; pixels
LONGEST = 2000  # characters of a text that are drawn
PADDING = 4  # pixels above the first line; the last has a little more below it
BOX = 1.1  # width of the box that stands for a character that no font has, in units of the size
# A line may end after a space, an underscore or a slash, and after any ideograph, kana or hangul.
PIECES = re.compile("[^\\s_/\\\\\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]*.\\s*", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Face:
    """The fonts of one text at one size in pixels: by character, None where no font has it."""

    fonts: dict[str, str | None]
    size: int

    def runs(self, text: str) -> Iterator[tuple[str | None, str]]:
        """The text in runs of one font; a space is in that of the character before it."""
        font: str | None = BASIC
        pairs: list[tuple[str | None, str]] = []
        for character in text:
            font = self.fonts.get(character, BASIC if font is None else font)
            pairs.append((font, character))
        return ((font, "".join(character for _, character in run)) for font, run in groupby(pairs, key=lambda pair: pair[0]))

    def run_length(self, font: str | None, run: str) -> float:
        return BOX * self.size * len(run) if font is None else load(font, self.size).getlength(run)

    def length(self, text: str) -> float:
        """Width in pixels, without spaces at the end."""
        return sum(self.run_length(font, run) for font, run in self.runs(text.rstrip()))

    def extent(self) -> tuple[int, int]:
        """Pixels that a line takes above and below its baseline, in the tallest of the fonts."""
        fonts = [load(font, self.size) for font in {BASIC, *self.fonts.values()} - {None}]
        return max(font.getmetrics()[0] for font in fonts), max(ceil(font.getbbox("Hg", anchor="ls")[3]) for font in fonts)

    def write(self, pen: ImageDraw.ImageDraw, left: float, baseline: float, text: str) -> None:
        """Draw a line in white."""
        for font, run in self.runs(text):
            if font is None:
                for i, character in enumerate(run):
                    write_code(pen, left + i * BOX * self.size, baseline, character, self.size)
            else:
                pen.text((left, baseline), run, 255, load(font, self.size), anchor="ls")
            left += self.run_length(font, run)


@dataclass(frozen=True, eq=False)
class Typeset:
    """Texts at one size, each in lines at most so many pixels wide."""

    lines: tuple[tuple[str, ...], ...]
    faces: tuple[Face, ...]
    width: int

    @classmethod
    def fitting(cls, texts: Sequence[str], width: int, size: int) -> Typeset:
        """Texts at a size in pixels: smaller where one needs many lines, and without its middle where it needs too many."""
        paragraphs = [paragraphs_of(text) for text in texts]
        fonts = [installed().choose("".join(one)) for one in paragraphs]
        for share in SIZES:
            faces = [Face(one, max(SMALLEST, round(share * size))) for one in fonts]
            lines = [
                [line for paragraph in one for line in wrapped(paragraph, width, face)] for one, face in zip(paragraphs, faces, strict=True)
            ]
            if all(len(found) <= max(FEW, len(one)) for found, one in zip(lines, paragraphs, strict=True)):
                break
        return cls(tuple(map(shortened, lines)), tuple(faces), width)

    def narrowed(self) -> Typeset:
        """The same, no wider than its longest line."""
        longest = max(face.length(line) for lines, face in zip(self.lines, self.faces, strict=True) for line in lines)
        return replace(self, width=max(1, ceil(longest)))

    @cached_property
    def extent(self) -> tuple[int, int]:
        """Pixels that each line takes above and below its baseline."""
        above, below = zip(*(face.extent() for face in self.faces))
        return max(above), max(below)

    @property
    def height(self) -> int:
        """Pixels that the text of most lines takes, with margins."""
        return max(map(len, self.lines)) * sum(self.extent) + 2 * PADDING + 2

    def mask(self, number: int, *, centred: bool) -> Image.Image:
        """One of the texts, white on black, as wide and high as all of them."""
        mask = Image.new("L", (self.width, self.height))
        pen, face, (above, below) = ImageDraw.Draw(mask), self.faces[number], self.extent
        for i, line in enumerate(self.lines[number]):
            left = (self.width - face.length(line)) / 2 if centred else 0.0
            face.write(pen, left, PADDING + above + i * (above + below), line)
        return mask


def paragraphs_of(text: str) -> list[str]:
    """The lines of a text as they were given, composed (NFC), without marks that nothing is drawn for."""
    text = text if len(text) <= LONGEST else text[: LONGEST // 2] + "…" + text[-LONGEST // 2 :]
    shown = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
    return [" ".join(line.split()) for line in shown.splitlines()] or [""]


def wrapped(text: str, width: float, face: Face) -> list[str]:
    """Lines of at most this width: broken between words or ideographs, inside a word only where it is wider itself."""
    lines: list[str] = []
    line = ""
    for piece in PIECES.findall(text):
        if line and face.length(line + piece) > width:
            lines, line = [*lines, line], ""
        while len(piece) > 1 and face.length(piece) > width:
            fitting = max(1, bisect_right(range(1, len(piece)), width, key=lambda n: face.length(piece[:n])))
            lines, piece = [*lines, piece[:fitting]], piece[fitting:]
        line += piece
    return [line.rstrip() for line in [*lines, line]]


def shortened(lines: list[str]) -> tuple[str, ...]:
    """The lines, without those in the middle where there are too many: texts differ most often at their ends."""
    return tuple(lines if len(lines) <= MOST else [*lines[: MOST // 2], "…", *lines[1 - MOST // 2 :]])


def write_code(pen: ImageDraw.ImageDraw, left: float, baseline: float, character: str, size: int) -> None:
    """Draw a box with a character's code in hexadecimal digits, so that each character looks different."""
    code = f"{ord(character):04X}"
    columns = -(-len(code) // 2)
    top, right, bottom = baseline - 0.85 * size, left + (BOX - 0.1) * size, baseline + 0.2 * size
    pen.rectangle((left + 1, top, right, bottom), outline=160)
    font = load(BASIC, max(6, round(0.5 * size)))
    for i, digit in enumerate(code.zfill(2 * columns)):
        across, down = (i % columns + 0.5) / columns, (i // columns + 0.5) / 2
        pen.text((left + 1 + across * (right - left - 1), top + down * (bottom - top)), digit, 255, font, anchor="mm")
