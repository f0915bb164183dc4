"""Time of an edit in h-space, as a ratio to a plain UNet call, on an SD 1.5-shaped model (batch 2 as with cfg, 64 x 64).

    COMFYUI=<host's folder> python bench/passes.py [--rounds 3] [--device cpu] [--smallest]

Rounds go through all variants in turn. Two full passes are what the asymmetric form would cost without sharing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import parsed, size
from speed import SD15, import_pack, seconds, unet_step


def variants(device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """One UNet call of each kind."""
    step = unet_step(device)
    import comfy.model_sampling
    from comfy.patcher_extension import WrappersMP

    from pack.core.hspace.direction import Direction, Family
    from pack.core.hspace.injection import Window
    from pack.host.edits import HEdit, RunPlan, run_unet, shift_h
    from pack.host.options import EDITING as KEY
    from pack.host.options import PLAN

    channels = SD15["model_channels"] * SD15["channel_mult"][-1]
    direction = Direction(torch.randn(1, channels, 8, 8), (1.0,), Family("SD15", "EPS", channels), "random")
    sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def edited(branch: str, asymmetric: bool) -> Callable[[], Tensor]:
        edit = HEdit(direction, 1.0, Window(), branch, asymmetric, False, None)
        options = {
            "sigmas": torch.tensor([5.0]),
            "cond_or_uncond": [1, 0],
            PLAN: RunPlan((edit,), [10.0, 5.0, 1.0, 0.0], sampling),
            "patches": {"middle_block_after_patch": [shift_h]},
            "wrappers": {WrappersMP.DIFFUSION_MODEL: {KEY: [run_unet]}},
        }
        return lambda: step(transformer_options=dict(options))

    return {
        "plain": step,
        "symmetric": edited("both", False),
        "asymmetric, conditional half": edited("conditional", True),
        "asymmetric, both halves": edited("both", True),
        "two full passes": lambda: (step(), step())[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=size(3, 1), help="rounds behind each median")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parsed(parser)
    import_pack()
    device = torch.device(options.device)
    with torch.inference_mode():
        runs = variants(device)
        rounds = [{name: seconds(run, device) for name, run in runs.items()} for _ in range(options.rounds + 1)][1:]
    for name in runs:
        ratio = median(r[name] / r["plain"] for r in rounds)
        print(f"{name:32}{1e3 * median(r[name] for r in rounds):9.0f} ms {ratio:6.2f} x a plain call")


if __name__ == "__main__":
    main()
