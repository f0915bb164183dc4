"""Makes the sliders that ship with the demo models (`demo/sliders`): attributes and a direction of Portrait, through the pack's own nodes.

    COMFYUI=<host's folder> python demo/sliders.py [--out demo/sliders] [--smallest]

Run it after training. All are found on the pictures of the seeds from 0 up, computed in float32.
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
TARGETS = {"smile": 0.7, "glasses": "sunglasses"}
SAID = {"smile": "smile", "glasses": "sunglasses"}  # in the names of files
DIRECTIONS, ATTRIBUTES = ("glasses",), fewer(("smile", "glasses"), 1)


def direction(stage: Stage, name: str):
    from pack.core.hspace.file import direction_tensors

    found = stage.find_direction(name, size(16, 2), 8, size(12, 2), 3.0, 0)
    found.notes.update(source=SOURCE, target=stage.prompt(name))
    return direction_tensors(found)


def attribute(stage: Stage, name: str):
    from comfy_extras.nodes_custom_sampler import BasicScheduler

    from pack.core.avi.file import attribute_tensors

    mix = stage.learn_attribute(name, BasicScheduler.execute(stage.model, "normal", size(20, 6), 1.0).args[0], seeds=size(16, 2))
    mix.parts[0][0].notes.update(source=SOURCE, target=stage.prompt(name))
    return attribute_tensors(mix)


def main() -> None:
    folder = parsed(argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), HOME).out
    start_host()
    with torch.inference_mode():
        stage = Stage(TARGETS, half=False)
        for kind, names, find in (("direction", DIRECTIONS, direction), ("attribute", ATTRIBUTES, attribute)):
            for name in names:
                tensors, metadata = find(stage, name)
                path = folder / f"portrait_{kind}_{SAID[name]}.safetensors"
                save_file(tensors, path, metadata)
                print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
