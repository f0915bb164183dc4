"""Draws a sheet of eight sliders from words on a demo model, nine strengths each: `docs/sliders_<model>.jpg`.

    COMFYUI=<host's folder> python bench/sheets.py [--model portrait|portrait-dit] [--out docs] [--smallest]

All rows are of one held-out seed, the first from 920 000 up whose picture has no glasses, hat or beard yet, as the judge reads it; the
middle column is the unedited picture. Sliders are Make Slider's as it starts, but hats have spread on, which takes in
what is joined to the place, and light has no focus and starts at 0.3, since it changes the whole picture.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, Stage, save_sheet, start_host
from ways import SCHEDULERS

STEPS, CFG = size(20, 4), 3.0
STRENGTHS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
SEED = FIRST_SEED + 20_000
SLIDERS = fewer(  # wanted, opposite, and what is not as Make Slider starts
    (
        ("big smile", "very sad", {}),
        ("open mouth", "closed mouth", {}),
        ("old", "young", {}),
        ("beard", "", {}),
        ("sunglasses", "", {}),
        ("hat", "", {"spread": True}),
        ("very long hair", "short hair", {}),
        ("light from the left", "light from the right", {"focus": 0.0, "start_percent": 0.3}),
    ),
    1,
)


def plain_seed(stage: Stage, settings) -> int:
    """The first seed whose picture has nothing on that a slider would put there."""
    sampler, sigmas = settings.sampler(), settings.sigmas(stage.model)
    for seed in range(SEED, SEED + size(50, 1)):
        read = stage.read(stage.sample(stage.model, sampler, sigmas, stage.noise(1, seed), SOURCE, CFG))
        if all(stage.faces.CATEGORICAL[name][int(read[name])] == "none" for name in ("glasses", "hat")) and float(read["beard"]) < 0.1:
            return seed
    return SEED


def rows(stage: Stage, scheduler: str):
    """The pictures of each slider, strength by strength."""
    from pack.host.strips import Rows, Settings, Strip, planned
    from pack.nodes.sliders import MakeSlider

    settings = Settings(stage.encode(""), {"samples": stage.empty()}, STEPS, CFG, "euler", scheduler, 1.0)
    seed = plain_seed(stage, settings)
    for wanted, opposite, changes in SLIDERS:
        words = dict(without=SOURCE, wanted=f"{SOURCE}, {wanted}", opposite=f"{SOURCE}, {opposite}" if opposite else "")
        slider = MakeSlider.execute(stage.model, stage.clip, 1.0, **words, **changes).args[1]
        runs = planned(slider, STRENGTHS, [Rows(stage.model, stage.encode(SOURCE), [seed])], settings, 1)
        yield stage.pictures(torch.cat(Strip(runs, settings, len(STRENGTHS)).drawn())), wanted


def labels(wanted: str) -> list[str]:
    """The strengths of a row, with what it shows in place of the last."""
    return [*(f"{strength:+g}" if strength else "0" for strength in STRENGTHS[:-1]), wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=INSTRUMENTS, default="portrait")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        stage = Stage({}, options.model)
        blocks = [([list(pictures)], labels(wanted)) for pictures, wanted in rows(stage, SCHEDULERS[options.model])]
    save_sheet(blocks, options.out / f"sliders_{options.model}.jpg")


if __name__ == "__main__":
    main()
