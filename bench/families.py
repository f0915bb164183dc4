"""Tries Make Slider on every family of models that users run, and writes `docs/families.md`.

    COMFYUI=<host's folder> python bench/families.py [--out docs] [--smallest]

The models have the host's own classes and narrow random weights, so that this takes minutes and no download; `tests/campaigns/sliders.py`
says what is looked at. What each host's version gives is kept in `families.json` beside the page, which has a section for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, fewer, parsed
from stage import start_host

HEAD = """# Sliders on families of models
Whether Make Slider works on a family, or refuses by name what it does not do there; by the place where it acts and by what else is asked \
of a run. `bench/families.py` writes this page; `tests/campaigns/test_sliders_on_families.py` tries a share of the same cells, and all of \
them where the slow tests are asked for.

*works* means: at strength 0 the latents are those without the slider, bit for bit; at strength 1 they are others, for each picture of a \
batch, by more than a thousandth of its largest value; \
the second run equals the first; under a mask, with the rest held, the latents outside of it are those without the slider, bit for \
bit; and the model is afterwards what it was, without hooks and patches. *refused* means that the node, or the run, stops with a message \
that names the input; a note below says its words. *prediction held* is Make Slider as it starts, *prediction* the same with `hold_rest` \
off. Under *tiles* another node's patch calls the model on one half of the picture after the other, under *context windows* on 4 of 6 \
frames. Under *offload* the weights stay away from where the model computes and are cast and patched layer by layer, as under `--novram`, \
with a patch on each linear layer, and the model is unloaded before each run; the latents are those of the loaded model, to rounding. A \
CPU can show no more of it than this. Under *fp16* weights and computation are float16, also on families for which the host by itself \
would choose another format. Prompts are random tensors of the shape that a family's text encoder gives, with the guidance or the frame \
rate that its own nodes put beside them; PixArt's are eight times as large as the others', as its random weights answer little to words."""
EXPECT = """## What to expect on real weights
These are random weights: they show that nothing breaks, and say nothing about how well a slider edits. That was measured on the two demo \
models alone ([evidence](evidence.md)), one a UNet and one a flow transformer, both of faces that a program draws. For SDXL, Flux and \
Z-Image this is an expectation and no measurement:

- **SDXL**: a slider on the prediction does what words in the prompt would do, from where it starts in the run, so it can draw what the \
checkpoint can draw from words. In the cross-attention it is faster and keeps less of the picture, as on the demo UNet.
- **Flux** (dev): its guidance is distilled, so a run has cfg 1 and no negative prompt, and nothing multiplies the contrast of the two \
prompts. Strengths above 1 may be needed; Calibrate Slider finds the range.
- **Z-Image** (Turbo): a few steps and cfg 1, so that a slider has a few calls to act in, of which the first decide most of the picture. \
`start_percent` 0 may be needed where the attribute is a large shape.

On all of them the slider costs two more calls of the model a step (one, where one of its texts is the prompt itself), and as much \
again where the rest is held. Fast, distilled models leave less room for it; models that read long prompts may want longer words than \
*a portrait, smiling*."""
SCALES = ("model_channels", "hidden_size", "dim", "features")  # what the hosts' configurations call a network's width


def width(settings: dict[str, Any]) -> int:
    """The channels of a network of these settings."""
    named = next((settings[key] for key in SCALES if key in settings), 0)
    heads = settings.get("num_attention_heads", 0) * settings.get("attention_head_dim", 0)
    return named or heads or 64 * settings["depth"]  # SD3 has 64 for each of its depth


def measured(family: str) -> dict[str, Any]:
    """What a family's model is, and by place and trait what Make Slider does on it."""
    from pack.tests.campaigns import sliders
    from pack.tests.models import FAMILIES, Shaped

    shaped = cache(Shaped)
    name = sliders.FAMILIES[family]
    world = shaped(name, torch.float32)
    found: dict[str, dict[str, str]] = {}
    for cell in fewer(sliders.cells(family)):
        try:
            result = sliders.outcome(cell, shaped)
        except Exception as error:
            result = f"breaks: {type(error).__name__}: {error}".splitlines()[0]
        found.setdefault(cell.place, {})[cell.trait] = result
        print(*cell, result, sep=", ", flush=True)
    network = type(world.model.model.diffusion_model).__name__
    return {"class": name, "model": type(world.model.model).__name__, "network": network, "width": width(FAMILIES[name]), "found": found}


def section(version: str, families: dict[str, Any]) -> Iterable[str]:
    """The lines of a host's version: a table for each place, the words of what was refused, and what the models were."""
    notes: list[str] = []

    def said(result: str | None) -> str:
        """A result in a table; its words are in the notes."""
        kind, _, words = (result or "").partition(": ")
        if not words:
            return kind or "no video"
        if words not in notes:
            notes.append(words)
        return f"{kind} by name [{notes.index(words) + 1}]" if kind == "refused" else f"**{kind}** [{notes.index(words) + 1}]"

    known = {family: row for family, row in families.items() if row}
    places = {place: list(found) for row in known.values() for place, found in row["found"].items()}
    traits = max((list(found) for row in known.values() for found in row["found"].values()), key=len)
    yield f"## On ComfyUI {version}"
    for place in places:
        yield from ["", f"### {place}", f"| family | {' | '.join(traits)} |", "|" + "---|" * (1 + len(traits))]
        for family, row in families.items():
            cells = [said(row["found"][place].get(trait)) for trait in traits] if row else ["not known to this host"] * len(traits)
            yield f"| {family} | {' | '.join(cells)} |"
    for number, words in enumerate(notes, 1):
        yield from ["", f"[{number}] *{words} ...*"]
    yield from ["", "### What it was run on", "| family | configuration | model | network | channels |", "|---|---|---|---|---|"]
    for family, row in known.items():
        yield f"| {family} | `{row['class']}` | `{row['model']}` | `{row['network']}` | {row['width']} |"


def page(kept: dict[str, Any]) -> str:
    newest_first = sorted(kept, key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    return "\n\n".join([HEAD, *("\n".join(section(version, kept[version])) for version in newest_first), EXPECT]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options = parsed(parser, DOCS)
    start_host()
    from comfyui_version import __version__

    from pack.tests.campaigns import sliders

    table = options.out / "families.json"
    kept = json.loads(table.read_text()) if table.exists() else {}
    with torch.inference_mode():
        kept[__version__] = {family: measured(family) if sliders.is_known(family) else None for family in fewer(sliders.FAMILIES)}
    table.write_text(json.dumps(kept, indent=1) + "\n")
    (options.out / "families.md").write_text(page(kept))


if __name__ == "__main__":
    main()
