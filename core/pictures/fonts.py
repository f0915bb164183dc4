"""Which of this machine's fonts has which character."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

BASIC = ""  # stands for the font inside Pillow, which has ASCII and little else
NO_CHARACTER = "\U0010ffff"  # in its place a font draws the sign for what it lacks
SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
# Looked at before other fonts, in this order: sans serif with many scripts, as Linux, macOS and Windows have them.
FAMILIES = (
    "dejavusans",
    "notosanscjk",
    "sourcehansans",
    "wqy-microhei",
    "wqy-zenhei",
    "droidsansfallback",
    "hiragino sans gb",
    "pingfang",
    "arial unicode",
    "msyh",
    "meiryo",
    "msjh",
    "malgun",
    "segoeui",
    "arial",
    "notosans-",
)
STYLES = ("bold", "black", "light", "thin", "italic", "oblique", "condensed", "mono", "serif")  # looked at last


@lru_cache(maxsize=64)
def load(path: str, size: int) -> FreeTypeFont:
    """A font at a size in pixels. Raises OSError for a file that Pillow cannot read at this size."""
    return ImageFont.truetype(path, size) if path else _basic(size)


def _basic(size: int) -> FreeTypeFont:
    return cast(FreeTypeFont, ImageFont.load_default(size))  # it is of another class only where no size is given


def font_folders() -> list[Path]:
    """Where the system and its user keep fonts."""
    home, variable = Path.home(), os.environ.get
    if sys.platform == "win32":
        own = Path(variable("LOCALAPPDATA", home / "AppData/Local"), "Microsoft/Windows/Fonts")
        return [Path(variable("WINDIR", "C:/Windows"), "Fonts"), own]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    shared = [Path(folder, "fonts") for folder in variable("XDG_DATA_DIRS", "/usr/local/share:/usr/share").split(":")]
    return [Path(variable("XDG_DATA_HOME", home / ".local/share"), "fonts"), home / ".fonts", *shared]


def system_fonts() -> list[str]:
    """The system's font files, those first that suit a label best."""

    def preference(path: str) -> tuple[bool, int, str]:
        name = Path(path).stem.lower()
        rank = next((i for i, family in enumerate(FAMILIES) if name.startswith(family)), len(FAMILIES))
        return any(style in name for style in STYLES), rank, name

    files = [os.path.join(folder, name) for top in font_folders() for folder, _, names in os.walk(top) for name in names]
    return sorted((path for path in files if Path(path).suffix.lower() in SUFFIXES), key=preference)


def matplotlib_font() -> list[str]:
    """DejaVu Sans, which comes with matplotlib, found without importing it; nothing where it is not installed."""
    spec = find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    return [str(path)] if path and path.exists() else []


def covered(path: str, characters: Iterable[str]) -> set[str]:
    """Those of the characters that a font has."""
    try:
        font = ImageFont.truetype(path, 24, layout_engine=ImageFont.Layout.BASIC) if path else _basic(24)
        lacking = _glyph(font, NO_CHARACTER)
        return {character for character in characters if _glyph(font, character) != lacking}
    except OSError:  # of fixed sizes, or damaged: no font to draw with
        return set()


def _glyph(font: FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


class Fonts:
    """Font files in the order of preference; each is opened only for characters that none before it has."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        self.first: dict[str, str | None] = {}  # by character, the first font that has it
        self.covered: dict[tuple[str, str], bool] = {}  # by font and character

    def choose(self, text: str) -> dict[str, str | None]:
        """A font for each character of a text but spaces, or None where no font has it.

        One font for the whole text, if one of those that it needs has all of it; else each character's first.
        """
        characters = {character for character in text if not character.isspace()}
        self._find(characters)
        chosen = {character: self.first[character] for character in characters}
        drawable = {character: font for character, font in chosen.items() if font is not None}
        needed = sorted(set(drawable.values()), key=self.files.index)
        whole = [font for font in needed if len(needed) > 1 and self._has(font, drawable) == drawable.keys()]
        return chosen | dict.fromkeys(drawable, whole[0]) if whole else chosen

    def _find(self, characters: set[str]) -> None:
        wanted = {character for character in characters - self.first.keys() if character.isprintable()}
        for font in self.files if wanted else ():
            found = self._has(font, wanted)
            self.first |= dict.fromkeys(found, font)
            wanted -= found
            if not wanted:
                break
        self.first |= dict.fromkeys(characters - self.first.keys())

    def _has(self, font: str, characters: Collection[str]) -> set[str]:
        unknown = {character for character in characters if (font, character) not in self.covered}
        if unknown:
            found = covered(font, unknown)
            self.covered |= {(font, character): character in found for character in unknown}
        return {character for character in characters if self.covered[font, character]}


@lru_cache(maxsize=1)
def installed() -> Fonts:
    """The fonts of this machine."""
    return Fonts([BASIC, *matplotlib_font(), *system_fonts()])
