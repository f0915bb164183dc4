"""What the demo model draws when it is asked, judged by the attribute classifier: a table and a sheet of samples.

Runs the checkpoint through the host's own nodes, as a user would. Seeds from 100 000 up are used nowhere else.
`python demo/evaluate.py [--samples 200] [--out demo] [--smallest]` (with COMFYUI set) rewrites the measured part of the model card.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [os.environ["COMFYUI"], str(ROOT)]
from bench.sizes import fewer, parsed, size  # noqa: E402

PARSER = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.add_argument("--samples", type=int, default=size(200, 1), help="seeds a prompt")
OPTIONS = parsed(PARSER, ROOT / "demo")  # before the host, which parses the command line when it is imported
from comfy.cli_args import args as host_args  # noqa: E402

host_args.cpu = not torch.cuda.is_available()
import comfy.samplers  # noqa: E402

import demo  # noqa: E402
import nodes  # noqa: E402
from demo import classifier, faces, prompts  # noqa: E402

FIRST_SEED, CFG, STEPS, SAMPLER, SCHEDULER = 100_000, 5.0, size(16, 2), "dpmpp_2m", "normal"
UNSEEN, CODED = size(4000, 20), size(500, 4)  # drawn faces for the judge, and through the VAE
# Each prompt asks for several attributes, so that all values are asked for with few runs.
QUESTIONS = (
    dict(smile="smiling", hair="black", style="short", skin="tan", background="white"),
    dict(smile="frowning", hair="blond", style="long", glasses="none", shirt="red"),
    dict(smile="neutral", hair="red", style="curly", gaze="front", background="green"),
    dict(mouth="open", beard="beard", hair="brown", skin="pale", background="blue"),
    dict(mouth="closed", hat="hat", skin="dark", shirt="yellow", background="pink"),
    dict(glasses="sunglasses", style="spiky", hair="blue", gaze="left", shirt="white"),
    dict(glasses="glasses", style="bald", beard="mustache", skin="brown", background="orange"),
    dict(gaze="right", hair="gray", beard="none", hat="none", shirt="green", background="gray"),
    dict(smile="smiling", glasses="sunglasses", style="long", hair="black", shirt="black"),
)


class Checkpoint:
    """The demo checkpoint behind the host's stock nodes."""

    def __init__(self):
        demo.install()
        self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint("semantic_latents_demo.safetensors")

    def draw(self, prompt: str, seeds: list[int]) -> torch.Tensor:
        """Pictures (b, 3, h, w) in [-1, 1], one a seed."""
        encode = nodes.CLIPTextEncode().encode
        noise = torch.cat([torch.randn(1, 3, faces.SIZE, faces.SIZE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        samples = comfy.sample.sample(
            self.model,
            noise,
            STEPS,
            CFG,
            SAMPLER,
            SCHEDULER,
            encode(self.clip, prompt)[0],
            encode(self.clip, "")[0],
            torch.zeros_like(noise),
            disable_pbar=True,
        )
        return nodes.VAEDecode().decode(self.vae, {"samples": samples})[0].movedim(-1, 1) * 2 - 1


def success(checkpoint: Checkpoint, judge: classifier.AttributeClassifier, count: int, batch: int = 25) -> dict[tuple[str, str], float]:
    """Share of samples in which the judge finds each attribute that the prompt asked for."""
    found: dict[tuple[str, str], list[float]] = {}
    work = [(wanted, start) for wanted in QUESTIONS for start in range(0, count, batch)]
    for wanted, start in tqdm(work, "drawing"):
        seeds = list(range(FIRST_SEED + start, FIRST_SEED + min(start + batch, count)))
        labels = judge.label(checkpoint.draw(prompts.prompt_for(wanted), seeds))
        for name, value in wanted.items():
            hits = labels[name] == faces.ATTRIBUTES[name].index(value)
            found.setdefault((name, value), []).extend(hits.float().tolist())
    return {key: float(np.mean(hits)) for key, hits in found.items()}


def judge_accuracy(judge: classifier.AttributeClassifier, count: int = UNSEEN) -> dict[str, float]:
    """Accuracy per attribute on drawn faces that were in no training set."""
    rng = np.random.default_rng(987_654)
    shown = [faces.sample_face(rng) for _ in range(count)]
    labels, targets = judge.label(as_images(shown)), classifier.targets_of(shown)
    return {name: float((labels[name] == target)[target >= 0].float().mean()) for name, target in targets.items()}


def codec_agreement(checkpoint: Checkpoint, judge: classifier.AttributeClassifier, count: int = CODED) -> tuple[float, float]:
    """Share of labels that stay the same through VAE Encode and Decode, and the largest change of a pixel (0..1)."""
    rng = np.random.default_rng(555)
    images = as_images([faces.sample_face(rng) for _ in range(count)])
    pixels = (images.movedim(1, -1) + 1) / 2
    back = nodes.VAEDecode().decode(checkpoint.vae, nodes.VAEEncode().encode(checkpoint.vae, pixels)[0])[0]
    before, after = judge.label(images), judge.label(back.movedim(-1, 1) * 2 - 1)
    agreed = torch.stack([before[name] == after[name] for name in before]).float().mean()
    return float(agreed), float((back - pixels).abs().max())


def as_images(shown: list[faces.Face]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([faces.render(face) for face in shown]))
    return pixels.movedim(-1, 1).float() / 127.5 - 1


def sheet(checkpoint: Checkpoint, path: Path) -> None:
    """64 samples, eight prompts in rows by eight seeds in columns."""
    seeds = list(range(FIRST_SEED, FIRST_SEED + size(8, 1)))
    rows = [checkpoint.draw(prompts.prompt_for(wanted), seeds) for wanted in fewer(QUESTIONS[:8])]
    grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)
    pixels = ((grid.movedim(0, -1) + 1) * 127.5).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).resize((1024, 1024), Image.Resampling.NEAREST).save(path, quality=88)


def report(shares: dict, accuracy: dict, codec: tuple[float, float], count: int) -> str:
    """The measured part of the model card."""
    lines = [
        f"{count} seeds a prompt, from {FIRST_SEED} up; {SAMPLER}, {SCHEDULER}, {STEPS} steps, cfg {CFG}.",
        "",
        f"On average over the {len(shares)} attribute values asked for, the classifier finds "
        f"**{np.mean(list(shares.values())):.1%}** of what the prompt asked for.",
        "",
        "| attribute | share found, by value | mean | classifier's own accuracy |",
        "|---|---|---|---|",
    ]
    for name in faces.ATTRIBUTES:
        mine = {value: share for (attribute, value), share in shares.items() if attribute == name}
        values = ", ".join(f"{value} {share:.0%}" for value, share in mine.items())
        lines.append(f"| {name} | {values} | {np.mean(list(mine.values())):.1%} | {accuracy[name]:.2%} |")
    lines += [
        "",
        f"Classifier: mean accuracy **{np.mean(list(accuracy.values())):.2%}** on {UNSEEN} unseen drawn faces. "
        f"Codec (the host's pixel-space VAE): **{codec[0]:.2%}** of its labels on {CODED} drawn faces stay the same through "
        f"VAE Encode and Decode; the largest change of a pixel is {codec[1]:.1g}.",
        "",
        "Prompts:",
        "",
    ]
    return "\n".join(lines + [f"- `{prompts.prompt_for(wanted)}`" for wanted in QUESTIONS]) + "\n"


def main() -> None:
    judge = classifier.load(demo.JUDGES)
    with torch.inference_mode():
        checkpoint = Checkpoint()
        sheet(checkpoint, OPTIONS.out / "samples.jpg")
        shares = success(checkpoint, judge, OPTIONS.samples)
        text = report(shares, judge_accuracy(judge), codec_agreement(checkpoint, judge), OPTIONS.samples)
    head = (ROOT / "demo/MODEL_CARD.md").read_text().split("## Measured\n")[0]
    (OPTIONS.out / "MODEL_CARD.md").write_text(f"{head}## Measured\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
