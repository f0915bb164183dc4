"""How large a bench runs, and the folder that it writes to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
DOCS = Path(__file__).resolve().parent.parent / "docs"
SMALLEST = "--smallest" in sys.argv  # read here, before the host reads the command line


def size(usual: T, smallest: T) -> T:
    """A size as it is measured, or with --smallest one that only shows that the code runs."""
    return smallest if SMALLEST else usual


def fewer(things: Iterable[T], count: int = 1) -> Iterable[T]:
    """The things as they are, or with --smallest the first of them; a dict stays one."""
    first = dict(islice(things.items(), count)) if isinstance(things, dict) else tuple(islice(things, count))
    return first if SMALLEST else things


def parsed(parser: argparse.ArgumentParser, home: Path | None = None) -> argparse.Namespace:
    """The command line, with --smallest, and with --out for a program that writes to home. It is emptied: the host reads it, too."""
    parser.allow_abbrev = False
    parser.add_argument("--smallest", action="store_true", help="go through all of it at its smallest size; the figures then mean nothing")
    if home:
        parser.add_argument("--out", type=Path, default=home, help=f"the folder to write to, {home.name}/ if left out")
    options = parser.parse_args()
    if home and SMALLEST and options.out.resolve() == home:
        parser.error(f"--smallest: its figures mean nothing; choose another folder than {home.name}/ with --out.")
    if home:
        options.out.mkdir(parents=True, exist_ok=True)
    sys.argv[1:] = []
    return options
