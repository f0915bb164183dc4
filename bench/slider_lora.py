"""Measures sliders of Train Slider LoRA beside those of Make Slider, and writes `docs/slider_lora.md`.

    COMFYUI=<host's folder> python bench/slider_lora.py [--model portrait|portrait-dit] [--attributes smile,hat] [--seeds 12] [--steps 200]
                                                [--rate 0.001] [--scale 2] [--minutes 60] [--report] [--out docs] [--smallest]

A LoRA is trained for each attribute on seeds from 600 000 up, and kept in `bench/.cache/`. Held-out seeds from 900 000 up are drawn with
it, and with Make Slider as it starts, at strengths of both signs, and read by the judge. What was found lies in
`docs/slider_lora_<model>.json`, so that a run that was stopped goes on where it was; the page is written anew from what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, SMALLEST, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SOURCE, TITLES, start_host
from ways import CACHE, CFG, CHUNK, LEARNED_ON, STEPS, TARGETS, Bench

STRENGTHS = size((-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0), (-1.0, 1.0))
WAYS = ("Train Slider LoRA", "Make Slider")
HEAD = f"""# Slider LoRAs, measured
*Train Slider LoRA* beside *Make Slider* on the demo models. `bench/slider_lora.py` writes this page. Held-out seeds from \
{FIRST_SEED:,} up, euler, {STEPS} steps, cfg {CFG:g}; the LoRAs were trained on other seeds. The judge says of each picture whether it \
shows the attribute (*shows*), and what share of the other attributes is what it was without the slider (*kept*).

*Dead zone* is the share of the strengths from 0 to 1 at which the attribute, as the judge reads it, has gone less than a tenth of the \
way that it goes to strength 1; only of attributes that the judge reads as a number. *Cost* is the time of a picture at strength 1 \
over that of one without a slider (medians of three, each between two without).
"""


def trained(bench: Bench, name: str, options: argparse.Namespace, found: dict[str, Any]) -> Any:
    """The slider LoRA of an attribute: from the cache, or trained as the node starts but for the options."""
    from safetensors.torch import load_file, save_file

    from pack.core.lora.file import lora_metadata, notes_of_lora
    from pack.host.sliders import LoraSlider
    from pack.nodes.train_slider_lora import TrainSliderLora

    cache = options.out if SMALLEST else CACHE
    path = cache / options.model / f"slider_lora_{name}_{options.steps}_{options.rate:g}_{options.scale:g}_{bench.side}.safetensors"
    key = f"trained|{name}|{options.steps}|{options.rate:g}|{options.scale:g}"
    if path.exists() and key in found:
        return LoraSlider(name, load_file(path), notes_of_lora(path))
    inputs = {port.id: port.default for port in TrainSliderLora.define_schema().inputs if getattr(port, "default", None) is not None}
    inputs |= dict(model=bench.model, clip=bench.clip, vae=bench.vae, latent={"samples": bench.empty()})
    inputs |= dict(neutral=SOURCE, wanted=bench.prompt(name), seed=LEARNED_ON, cfg=CFG)
    inputs |= dict(steps=options.steps, learning_rate=options.rate, scale=options.scale)
    start = time.perf_counter()
    _, curve, _, slider = TrainSliderLora.execute(**inputs).args
    found[key] = {"minutes": (time.perf_counter() - start) / 60, "losses": curve["loss"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(slider.weights, path, lora_metadata(slider.notes))
    return slider


def made(bench: Bench, name: str) -> Any:
    """Make Slider as it starts."""
    from pack.nodes.sliders import MakeSlider

    return MakeSlider.execute(bench.model, bench.clip, 1.0, SOURCE, bench.prompt(name)).args[1]


def read(bench: Bench, model: Any, name: str, first: int, before: dict[str, Any]) -> dict[str, Any]:
    """What the judge finds of a chunk of seeds drawn with a model."""
    now = bench.read(bench.draw(first, model=model))
    value = float(now[name].float().mean()) if name in bench.faces.CONTINUOUS else None
    return {
        "shows": bench.shows(now, name).float().tolist(),
        "kept": bench.keeps(now, before, name).tolist(),
        "value": value,
    }


def costs(bench: Bench, sliders: dict[str, Any]) -> dict[str, float]:
    """The time of a picture with each slider over that of one without."""
    bench.count, found = size(2, 1), {}
    bench.draw(LEARNED_ON)
    for way, slider in sliders.items():
        model = slider.on(bench.model, 1.0)
        found[way], _ = bench.beside_plain(LEARNED_ON, lambda model=model: bench.draw(LEARNED_ON, model=model))
    return found


def measure(options: argparse.Namespace, data: Path) -> None:
    """Train and draw what is not there yet, until the minutes are over."""
    start_host()
    found: dict[str, Any] = json.loads(data.read_text()) if data.exists() else {}
    deadline = time.monotonic() + 60 * options.minutes

    def keep() -> None:
        partial = data.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(found.items())) + "\n}\n")
        partial.replace(data)

    with torch.inference_mode():
        bench = Bench(options.model)
        for name in options.attributes:
            sliders = {WAYS[0]: trained(bench, name, options, found), WAYS[1]: made(bench, name)}
            keep()
            for first in range(FIRST_SEED, FIRST_SEED + options.seeds, CHUNK):
                bench.count, plain, before = min(CHUNK, FIRST_SEED + options.seeds - first), f"plain|{name}|0|{first}", None
                for way, strength in ((way, s) for way in WAYS for s in STRENGTHS):
                    key = f"{way}|{name}|{strength:g}|{first}"
                    if key in found and plain in found:
                        continue
                    if time.monotonic() > deadline:
                        return
                    if before is None:
                        before = bench.read(bench.base(first))
                        found[plain] = read(bench, bench.model, name, first, before)
                    found[key] = read(bench, sliders[way].on(bench.model, strength), name, first, before)
                    keep()
            if f"cost|{name}" not in found:
                found[f"cost|{name}"] = costs(bench, sliders)
                keep()


def page(folder: Path) -> str:
    """The page, of all models whose figures are there."""
    parts = [HEAD]
    for model, title in TITLES.items():
        data = folder / f"slider_lora_{model}.json"
        if data.exists():
            parts += [f"## {title}\n", *section(json.loads(data.read_text()))]
    return "\n".join(parts)


def section(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, learned in ((key, value) for key, value in found.items() if key.startswith("trained|")):
        _, name, steps, rate, scale = key.split("|")
        lines.append(
            f"**{name}**: {steps} updates at a learning rate of {rate}, scale {scale}, took {learned['minutes']:.1f} minutes; the loss "
            f"went from {np.mean(learned['losses'][:20]):.2f} to {np.mean(learned['losses'][-20:]):.2f} (means of 20).\n"
        )
        drawn = {
            (way, strength): rows
            for way in WAYS
            for strength in STRENGTHS
            if (rows := [value for k, value in found.items() if k.startswith(f"{way}|{name}|{strength:g}|")])
        }
        plain = [value for k, value in found.items() if k.startswith(f"plain|{name}|")]
        if not plain:
            continue
        lines += [
            f"{seeds(plain)} seeds; *shows* / *kept*, and what the judge reads.\n",
            "| strength | " + " | ".join(WAYS) + " |",
            "|---|---|---|",
        ]
        for strength in (*(s for s in STRENGTHS if s < 0), 0.0, *(s for s in STRENGTHS if s > 0)):
            cells = [cell(plain if strength == 0 else drawn.get((way, strength), [])) for way in WAYS]
            lines.append(f"| {strength:g} | " + " | ".join(cells) + " |")
        cost = found.get(f"cost|{name}", {})
        lines.append("| cost | " + " | ".join(f"{cost[way]:.2f} x" if way in cost else "" for way in WAYS) + " |")
        lines.append("| dead zone | " + " | ".join(dead_zone(drawn, plain, way) for way in WAYS) + " |\n")
    return lines


def seeds(rows: list[dict[str, Any]]) -> int:
    return sum(len(row["shows"]) for row in rows)


def mean(rows: list[dict[str, Any]], what: str) -> float:
    """The mean over all pictures."""
    return float(np.mean([value for row in rows for value in (row[what] if isinstance(row[what], list) else [row[what]])]))


def cell(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    value = "" if rows[0]["value"] is None else f", {mean(rows, 'value'):+.2f}"
    return f"{mean(rows, 'shows'):.0%} / {mean(rows, 'kept'):.0%}{value}"


def dead_zone(drawn: dict[tuple[str, float], list[dict[str, Any]]], plain: list[dict[str, Any]], way: str) -> str:
    """Of the strengths from 0 to 1, by straight lines between those that were drawn."""
    at = [0.0, *(s for s in STRENGTHS if s > 0 and (way, s) in drawn)]
    if plain[0]["value"] is None or 1.0 not in at:
        return ""
    values = [mean(plain, "value"), *(mean(drawn[way, s], "value") for s in at[1:])]
    whole = values[-1] - values[0]
    fine = np.linspace(0, 1, 1001)
    gone = (np.interp(fine, at, values) - values[0]) / whole if whole else np.zeros(1001)
    return f"{fine[np.argmax(gone >= 0.1)]:.0%}" if (gone >= 0.1).any() else "all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(INSTRUMENTS), default="portrait")
    parser.add_argument("--attributes", type=lambda text: text.split(","), default=list(TARGETS))
    parser.add_argument("--seeds", type=int, default=size(12, 1))
    parser.add_argument("--steps", type=int, default=size(200, 2))
    parser.add_argument("--rate", type=float, default=0.001)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--report", action="store_true", help="write the page alone")
    options = parsed(parser, DOCS)
    if not options.report:
        measure(options, options.out / f"slider_lora_{options.model}.json")
    (options.out / "slider_lora.md").write_text(page(options.out).rstrip() + "\n")


if __name__ == "__main__":
    main()
