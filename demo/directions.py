"""Finds the directions that ship with the demo model (`demo/directions`), through the pack's own nodes.

`python demo/directions.py` (with COMFYUI set); run it after training.
"""
from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
SOURCE, TARGETS = "a face", {"sunglasses": "a face, sunglasses", "dark skin": "a face, dark skin", "beard": "a face, beard"}


def main() -> None:
    sys.path.insert(0, os.environ["COMFYUI"])
    sys.argv[1:] = []  # the host parses the command line when it is imported
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])
    import nodes
    from pack import demo
    from pack.core.files import direction_tensors
    from pack.demo.faces import SIZE
    from pack.nodes.directions import DirectionFromPrompts

    demo.install()
    demo.DIRECTIONS.mkdir(exist_ok=True)
    with torch.inference_mode():
        model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint("semantic_latents_demo.safetensors")
        source, *targets, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in (SOURCE, *TARGETS.values(), ""))
        for name, target in zip(TARGETS, targets, strict=True):
            latent = {"samples": torch.zeros(1, 3, SIZE, SIZE)}
            direction = DirectionFromPrompts.execute(model, source, target, negative, latent, 32, 16, 12, 3.0, 0).args[0]
            direction.notes.update(source=SOURCE, target=TARGETS[name])
            save_file(*direction_tensors(direction)[:1], demo.DIRECTIONS / f"demo_{name.replace(' ', '_')}.safetensors", direction_tensors(direction)[1])


if __name__ == "__main__":
    main()
