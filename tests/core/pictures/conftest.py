"""Fonts that a test chooses."""

import pytest

from pack.core.pictures import typesetting
from pack.core.pictures.fonts import BASIC, Fonts


@pytest.fixture
def only(monkeypatch):
    """`only(path, ...)`: the fonts of the machine, beside the one inside Pillow."""

    def install(*paths):
        found = Fonts([BASIC, *paths])
        monkeypatch.setattr(typesetting, "installed", lambda: found)
        return found

    return install
