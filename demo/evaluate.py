"""What the trained portrait models draw when they are asked, read by the judge; the figures and sheets of the model card.

Samples with plain loops, not the host's samplers, so that it runs where the models were trained. Faces and prompts come
from seeds that no training used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import captions, data, diffusion, faces, judge, runs, scorer, sheets, text, vae
from .faces import CATEGORICAL, CONTINUOUS

FIRST_SEED = 100_000


def questions(rng: np.random.Generator, levels: int = 5) -> list[tuple[str, dict[str, str | float]]]:
    """Each value of each attribute (of numbers, `levels` evenly spaced ones), asked for together with up to three others."""
    targets = [(name, value) for name, values in CATEGORICAL.items() for value in values]
    targets += [(name, float(value)) for name, limits in CONTINUOUS.items() for value in np.linspace(*limits, levels)]
    return [(name, _with_others(rng, name, value)) for name, value in targets]


def _with_others(rng: np.random.Generator, name: str, value: str | float) -> dict[str, str | float]:
    while True:
        face = faces.sample_face(rng, **{name: value})
        seen = faces.visible(face)
        if name in seen:
            break
    others = [other for other in seen if other in {**face.labels, **face.numbers} and other != name]
    chosen = rng.permutation(sorted(others))[:3]
    return {str(key): {**face.labels, **face.numbers}[str(key)] for key in (name, *chosen)}


def draw(model, encoder, codec, prompts: list[str], seeds: list[int], device: str, batch: int = 256, steps: int = 20, cfg: float = 3.0):
    """Pictures (b, 3, 256, 256) in [-1, 1], batch by batch."""
    empty = diffusion.empty_prompt(encoder, device)
    for start in range(0, len(prompts), batch):
        noise = torch.cat(
            [torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in seeds[start : start + batch]]
        )
        tokens = torch.tensor([data.padded(prompt) for prompt in prompts[start : start + batch]], device=device)
        context, pooled = encoder.encode(tokens)
        yield vae.decode(codec, model.sample(noise.to(device), context, pooled, empty, steps, cfg))


@dataclass(frozen=True)
class Effort:
    """Rounds of all questions, or of every n-th; sampling steps."""

    rounds: int = 24
    every: int = 1
    steps: int = 20


def asked_of(model, encoder, codec, reader: judge.Judge, device: str, effort: Effort, end: float, cfg: float = 3.0) -> dict:
    """Shares of values found, and correlations of numbers asked for with numbers read."""
    hits: dict[str, dict[str, list[float]]] = {name: {} for name in (*CATEGORICAL, *CONTINUOUS)}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTINUOUS}
    done = 0
    while done < effort.rounds and (done == 0 or time.time() < end):
        wanted = questions(np.random.default_rng([FIRST_SEED, done]))[:: effort.every]
        prompts = [captions.prompt_for(**each) for _, each in wanted]
        seeds = [FIRST_SEED + done * len(wanted) + i for i in range(len(wanted))]
        parts = [reader.read(images) for images in draw(model, encoder, codec, prompts, seeds, device, steps=effort.steps, cfg=cfg)]
        read = {name: torch.cat([part[name] for part in parts]).tolist() for name in (*CATEGORICAL, *CONTINUOUS)}
        said = captions.said_in(prompts)
        for i, (_, each) in enumerate(wanted):
            for name, value in each.items():
                if name in CATEGORICAL:
                    hits[name].setdefault(str(value), []).append(read[name][i] == CATEGORICAL[name].index(value))
                elif said[name][i] == said[name][i]:
                    asked, low_high = said[name][i], CONTINUOUS[name]
                    pairs[name].append((asked, read[name][i]))
                    near = abs(read[name][i] - asked) < 0.25 * (low_high[1] - low_high[0])
                    hits[name].setdefault(captions.prompt_for(**{name: value}).split(", ")[1], []).append(near)
        done += 1
    shares = {name: {value: round(float(np.mean(found)), 4) for value, found in values.items()} for name, values in hits.items()}
    return {
        "cfg": cfg,
        "rounds": done,
        "found": shares,
        "labels_found": float(np.mean([share for name in CATEGORICAL for share in shares[name].values()])),
        "numbers_near": float(np.mean([share for name in CONTINUOUS for share in shares[name].values()])),
        "correlation": {name: round(float(np.corrcoef(np.array(rows).T)[0, 1]), 4) for name, rows in pairs.items() if len(rows) > 2},
        "samples": {name: {value: len(found) for value, found in values.items()} for name, values in hits.items()},
    }


def sheet(model, encoder, codec, device: str, path: Path, columns: int = 8, side: int = 128, steps: int = 20) -> None:
    """64 samples: eight prompts in rows by eight seeds in columns."""
    prompts = [prompt for prompt in sheets.PROMPTS for _ in range(columns)]
    seeds = list(range(FIRST_SEED, FIRST_SEED + columns)) * len(sheets.PROMPTS)
    tiled(torch.cat(list(draw(model, encoder, codec, prompts, seeds, device, 32, steps))), columns, side).save(path)


def tiled(images: torch.Tensor, columns: int, side: int) -> Image.Image:
    images = torch.nn.functional.interpolate(images.float().cpu(), (side, side), mode="area")
    rows = [torch.cat(list(row), 2) for row in images.split(columns)]
    grid = torch.cat(rows, 1)
    return Image.fromarray(((grid.movedim(0, -1).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())


@torch.no_grad()
def of_model(kind: str, folder: Path, device: str, effort: Effort, end: float) -> dict:
    """A drawing model's figures; its sheet is written to the folder first."""
    model, encoder, codec = diffusion.load(kind, folder, device), text.load(folder, device), vae.load(folder, device)
    sheet(model, encoder, codec, device, sheets.path_of(folder, kind), max(1, 8 // effort.every), steps=effort.steps)
    reader, begun = judge.load(folder, device), time.time()
    out = asked_of(model, encoder, codec, reader, device, effort, end)
    out["pictures_a_second"] = round(out["rounds"] * len(questions(np.random.default_rng(0))) / effort.every / (time.time() - begun), 1)
    if time.time() < end:
        out["at_cfg_5"] = asked_of(model, encoder, codec, reader, device, replace(effort, rounds=max(1, effort.rounds // 4)), end, 5.0)
    return out


@torch.no_grad()
def of_readers(unseen: data.Store, folder: Path, device: str, count: int, tripped: int | None = None) -> dict:
    """Figures of the VAE, the judge and the scorer on faces of no training set; tripped: how many of them go through the VAE."""
    codec, out = vae.load(folder, device), {}
    images = runs.as_images(torch.from_numpy(np.array(unseen.pixels[:count])))
    latents = [vae.encode(codec, some.to(device)).cpu() for some in images[:tripped].split(50)]
    back = torch.cat([vae.decode(codec, some.to(device)).cpu() for some in latents])
    latents = torch.cat(latents)[:400]
    quality = vae.psnr(back, images[:tripped])
    out["vae"] = {
        "faces": len(back),
        "psnr_mean": quality.mean().item(),
        "psnr_5th_percentile": quality.quantile(0.05).item(),
        "latent_mean": latents.mean(dim=(0, 2, 3)).tolist(),
        "latent_std": latents.std(dim=(0, 2, 3)).tolist(),
        "latent_largest": latents.abs().max().item(),
    }
    tiled(torch.cat([part for i in range(0, 16, 8) for part in (images[i : i + 8], back[i : i + 8])]), 8, 128).save(
        sheets.path_of(folder, "vae")
    )
    if (folder / judge.FILE).exists():
        out |= of_judge(judge.load(folder, device), unseen, images.to(device), back.to(device))
    if (folder / scorer.FILE).exists():
        out["scorer"] = of_scorer(scorer.load(folder, device), text.load(folder, device), unseen, images.to(device))
    return out


def of_judge(reader: judge.Judge, unseen: data.Store, images: torch.Tensor, back: torch.Tensor) -> dict:
    """Figures of the judge on drawn faces, and on the first of them as the VAE gives them back."""
    drawn, shown = judge.figures(reader, unseen, images), torch.from_numpy(np.array(unseen.shown[: len(back)]))
    before, after = reader.read(images[: len(back)]), reader.read(back)
    same = {name: (before[name] == after[name]).cpu()[shown[:, i]].float().mean().item() for i, name in enumerate(CATEGORICAL)}
    moved = {name: (before[name] - after[name]).abs().mean().item() for name in CONTINUOUS}
    return {
        "judge": drawn,
        "judge_mean_accuracy": float(np.mean([drawn[name] for name in CATEGORICAL])),
        "judge_mean_r2": float(np.mean([drawn[name] for name in CONTINUOUS])),
        "judge_identity_r2": float(np.mean([value for name, value in drawn.items() if name.startswith("identity")])),
        "judge_after_vae": judge.figures(reader, unseen, back),
        "vae_agreement": same,
        "vae_agreement_mean": float(np.mean(list(same.values()))),
        "vae_numbers_moved": moved,
    }


def of_scorer(model, encoder, unseen: data.Store, images: torch.Tensor) -> dict:
    """Accuracy of choosing the right plain prompt, by attribute; of smiles, among three, of all and of clear ones."""
    labels, shown, numbers = (np.array(getattr(unseen, name)[: len(images)]) for name in ("labels", "shown", "numbers"))
    out = {}
    for i, (name, values) in enumerate(CATEGORICAL.items()):
        chosen = scorer.choices(model, encoder, images, [captions.prompt_for(**{name: value}) for value in values]).cpu().numpy()
        out[name] = float((chosen == labels[:, i])[shown[:, i]].mean())
    smiles = numbers[:, list(CONTINUOUS).index("smile")]
    chosen = scorer.choices(model, encoder, images, [captions.prompt_for(smile=value) for value in (-0.675, 0.0, 0.675)]).cpu().numpy()
    right = chosen == np.where(smiles < -0.3, 0, np.where(smiles > 0.3, 2, 1))
    out["smile"] = float(right.mean())
    clear = (np.abs(smiles) > 0.45) | (np.abs(smiles) < 0.15)
    return out | {"mean": float(np.mean(list(out.values()))), "smile, clear ones": float(right[clear].mean()), "clear": float(clear.mean())}


def write(folder: Path, part: str, figures: dict) -> None:
    path = folder / f"figures_{part}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1))
    partial.replace(path)
    print(json.dumps({name: value for name, value in figures.items() if not isinstance(value, dict)}), flush=True)


def card(figures: dict) -> str:
    """The tables of the model card, from the figures."""
    readers, judged = figures["readers"], figures["readers"]["judge"]
    models = {"Portrait (UNet)": figures["unet"], "Portrait DiT": figures["dit"]}
    rows = ["| | " + " | ".join(models) + " |", "|---|---|---|"]
    rows.append("| labels that prompts ask for, found | " + " | ".join(f"{found['labels_found']:.1%}" for found in models.values()) + " |")
    for kind, names in (("label's values", CATEGORICAL), ("number's words", CONTINUOUS)):
        rows.append(f"| least of a {kind} | " + " | ".join(_least(found["found"], names) for found in models.values()) + " |")
    for name in CONTINUOUS:
        rows.append(f"| {name.replace('_', ' ')}: correlation of what was asked with what is read | ")
        rows[-1] += " | ".join(f"{found['correlation'][name]:.3f}" for found in models.values()) + " |"
    rows += ["", "| the judge, on unseen drawn faces | |", "|---|---|"]
    rows += [f"| {name} | {judged[name]:.1%} |" for name in CATEGORICAL]
    rows += [f"| {name.replace('_', ' ')}: R² | {judged[name]:.3f} |" for name in CONTINUOUS]
    parts = {name.removeprefix("identity."): value for name, value in judged.items() if name.startswith("identity.")}
    well = [name for name, value in parts.items() if value >= 0.5]
    rows.append(f"| identity: parts read at R² .5 or better | {len(well)} of {len(parts)}, mean {np.mean([parts[n] for n in well]):.2f} |")
    rows.append("| identity: parts that it hardly reads | " + ", ".join(n.replace("_", " ") for n in parts if n not in well) + " |")
    rows += ["", "| the VAE and the scorer | |", "|---|---|"]
    rows.append(
        f"| VAE: PSNR, mean (5th percentile) | {readers['vae']['psnr_mean']:.1f} dB ({readers['vae']['psnr_5th_percentile']:.1f}) |"
    )
    rows.append(f"| VAE: the judge's labels that stay the same | {readers['vae_agreement_mean']:.1%} |")
    found = readers["scorer"]
    told = [f"{name} {found[name]:.0%}" for name in (*CATEGORICAL, "smile")]
    rows.append(f"| scorer: the right one of an attribute's prompts chosen | {found['mean']:.0%} ({', '.join(told)}) |")
    rows.append(
        f"| scorer: of smiling, neutral and frowning, without faces near the border (a number within .15 of it; {1 - found['clear']:.0%}) "
        f"| {found['smile, clear ones']:.0%} |"
    )
    return "\n".join(rows)


def _least(found: dict, names: Iterable[str]) -> str:
    share, name, value = min((share, name, value) for name in names for value, share in found[name].items())
    return f"{name.replace('_', ' ')}, {value}: {share:.1%}"


def main() -> None:
    """Write the tables of the model card anew."""
    here = Path(__file__).resolve().parent
    page = (here / "MODEL_CARD.md").read_text()
    begin, end = (f"<!-- figures {word} -->" for word in ("from here", "to here"))
    before, rest = page.split(begin)
    tables = card(json.loads((here / "figures.json").read_text()))
    (here / "MODEL_CARD.md").write_text(f"{before}{begin}\n{tables}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
