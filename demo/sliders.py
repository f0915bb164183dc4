"""Finds the directions and learns the attribute that ship with the demo model (`demo/sliders`), through the pack's own nodes.

`python demo/sliders.py [--out demo/sliders] [--smallest]` (with COMFYUI set); run it after training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from sizes import fewer, parsed, size
from stage import SOURCE, Stage, start_host

HOME = Path(__file__).resolve().parent / "sliders"
DIRECTIONS = fewer({"glasses": "sunglasses", "skin": "dark", "beard": "beard"})
ATTRIBUTES = {"glasses": "sunglasses"}


def direction(stage: Stage, name: str):
    from pack.core.hspace.file import direction_tensors

    found = stage.find_direction(name, size(32, 2), 16, size(12, 2), 3.0, 0)
    found.notes.update(source=SOURCE, target=stage.prompt(name))
    return direction_tensors(found)


def attribute(stage: Stage, name: str):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    from pack.core.avi.file import attribute_tensors

    mix = stage.learn_attribute(name, BasicScheduler.execute(stage.model, "normal", size(20, 6), 1.0).args[0], seeds=size(32, 2))
    mix.parts[0][0].notes.update(source=SOURCE, target=stage.prompt(name))
    return attribute_tensors(mix)


def main() -> None:
    folder = parsed(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), HOME).out
    start_host()
    with torch.inference_mode():
        for kind, targets, find in (("", DIRECTIONS, direction), ("attribute_", ATTRIBUTES, attribute)):
            stage = Stage(targets)
            for name in targets:
                tensors, metadata = find(stage, name)
                words = stage.prompt(name).removeprefix(f"{SOURCE}, ").replace(" ", "_")
                save_file(tensors, folder / f"demo_{kind}{words}.safetensors", metadata)


if __name__ == "__main__":
    main()
