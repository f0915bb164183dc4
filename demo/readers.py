"""Train the judge and the scorer of the portrait models on a CPU, beside the weights that are there.

`python -m demo.readers FOLDER --part judge|scorer [--faces 160000] [--anew]` (with COMFYUI set) draws faces into FOLDER, takes
the VAE and the text encoder from the checkpoint in `weights/`, and trains that part until it has seen so many faces. Both go
on from their weights, where there are some (the scorer not with `--anew`). A run that was stopped goes on; `--figures` measures both on
faces of no training set.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE / "weights" / "semantic_latents_portrait.safetensors"
DRAWN, UNSEEN, THROUGH_VAE = 40_000, 2_000, 100
BATCH, TRIPPED, RATE = 64, 0, {"judge": 1e-3, "scorer": 2e-3}


def parts_of_checkpoint(folder: Path) -> None:
    """Write the VAE and the text encoder of the checkpoint as the trainers read them."""
    from . import runs, text, vae
    from .assemble import PREFIXES

    tensors, _ = runs.read(CHECKPOINT)
    for prefix, name in zip(PREFIXES.values(), (vae.FILE, text.FILE)):
        part = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        runs.write(folder / name, part)


def drawing(folder: Path, count: int, workers: int) -> list[subprocess.Popen]:
    """Processes that draw what the stores lack."""
    from . import data

    for name, faces in (("unseen", UNSEEN), ("train", count)):
        data.Store(folder / name, faces, workers)
    command = [sys.executable, "-m", "demo.data", str(folder)]
    return [subprocess.Popen([*command, str(worker)], cwd=HERE.parent) for worker in range(workers)]


def there(folder: Path) -> Path | None:
    """Where the scorer's weights are that the training goes on from: the folder's, or those that ship; None if there are none yet."""
    from . import scorer

    return next((place for place in (folder, HERE / "judges") if (place / scorer.FILE).exists()), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=("judge", "scorer"), help="what to train")
    parser.add_argument("--faces", type=int, default=160_000, help="faces to be seen in all")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="faces to be drawn")
    parser.add_argument("--anew", action="store_true", help="the scorer from fresh weights")
    parser.add_argument("--figures", action="store_true", help="measure what is in the folder, and print it")
    options = parser.parse_args()
    if not (options.part or options.figures):
        parser.error("choose --part judge, --part scorer or --figures")
    if "COMFYUI" not in os.environ:
        parser.error("set COMFYUI to ComfyUI's folder; `make where` prints one")
    if options.drawn < BATCH:
        parser.error(f"--drawn: got {options.drawn}; choose {BATCH} or more, a batch of the training")
    options.folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args

    args.cpu = args.use_pytorch_cross_attention = True  # read when the host's attention is first imported
    from . import data, evaluate, judge, runs, scorer

    parts_of_checkpoint(options.folder)
    drawers = drawing(options.folder, options.drawn, 2)
    store, unseen = (data.Store(options.folder / name) for name in ("train", "unseen"))
    store.wait(options.drawn, 3600.0)
    for drawer in drawers:
        drawer.wait()
    if options.figures:
        found = evaluate.of_readers(unseen, options.folder, "cpu", UNSEEN, THROUGH_VAE)
        evaluate.write(options.folder, "readers", found)
        print(json.dumps(found, indent=1))
    elif options.part == "judge":
        begin = HERE / "judges"
        judge.train(store, options.folder, runs.Plan(total=options.faces), "cpu", BATCH, RATE["judge"], tripped=TRIPPED, begin=begin)
    elif options.part == "scorer":
        scorer.train(
            store,
            options.folder,
            runs.Plan(total=options.faces, cooldown=0.5),
            "cpu",
            BATCH,
            RATE["scorer"],
            tripped=TRIPPED,
            begin=None if options.anew else there(options.folder),
        )


if __name__ == "__main__":
    main()
