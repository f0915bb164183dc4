"""Whole checkpoints for stock Load Checkpoint from the parts that a training run wrote.

`python -m demo.assemble FOLDER TARGET`: FOLDER holds portrait_unet, portrait_dit, portrait_shared and
portrait_readers; TARGET/weights gets the checkpoints, TARGET/judges the judge and the scorer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from . import config

PREFIXES = {"vae.": "first_stage_model.", "text.": "cond_stage_model.transformer."}
MODELS = {
    "portrait_unet.safetensors": ("weights/semantic_latents_portrait.safetensors", "Portrait"),
    "portrait_dit.safetensors": ("weights/semantic_latents_portrait_dit.safetensors", "Portrait DiT"),
}


def tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})


def checkpoint(model: dict[str, torch.Tensor], shared: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stable Diffusion's key layout: model.diffusion_model, first_stage_model (TAESD's keys), cond_stage_model."""
    whole = {f"model.diffusion_model.{key}": value for key, value in model.items()}
    for key, value in shared.items():
        prefix = next(prefix for prefix in PREFIXES if key.startswith(prefix))
        whole[PREFIXES[prefix] + key.removeprefix(prefix)] = value
    return {key: value.half().contiguous() for key, value in whole.items()}


def assemble(folder: Path, target: Path) -> list[Path]:
    """Write what the folder has the parts of; the paths written."""
    for part in ("weights", "judges"):
        (target / part).mkdir(parents=True, exist_ok=True)
    shared, _ = tensors(folder / "portrait_shared.safetensors")
    written = []
    for source, (name, title) in MODELS.items():
        if (folder / source).exists():
            model, notes = tensors(folder / source)
            written.append(target / name)
            save_file(checkpoint(model, shared), written[-1], {"format": "pt", "modelspec.title": title} | notes)
    return written + readers(folder, target)


def readers(folder: Path, target: Path) -> list[Path]:
    """The judge and the scorer, each in its own file, and the scorer's configuration."""
    path, written = folder / "portrait_readers.safetensors", []
    if not path.exists():
        return written
    both, _ = tensors(path)
    for name in ("judge", "scorer"):
        own = {key.removeprefix(f"{name}."): value for key, value in both.items() if key.startswith(f"{name}.")}
        if own:
            written.append(target / "judges" / f"portrait_{name}.safetensors")
            save_file(own, written[-1], {"format": "pt"})
    (target / "judges" / "portrait_scorer.json").write_text(json.dumps(config.SCORER_CONFIG, indent=2) + "\n")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    for path in assemble(options.folder, options.target):
        print(f"{path} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
