"""Time of the latent SVD beside one step of an SD 1.5-shaped UNet, in the same run with the same threads.

    COMFYUI=<host's folder> python bench/speed.py [--json rows.json] [--repeats 9] [--device cpu] [--smallest]

Prints medians in milliseconds, as a share of one UNet step (batch 2 as with cfg, 64 x 64 latent), and as a speed beside
the plain way: torch.linalg.svd in the latent's float32, the edit, and the product back. Rounds go through all
measurements of a size in turn, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import fewer, parsed, size

ROOT = Path(__file__).resolve().parent.parent
SIZES = fewer(
    {
        "4x64x64": (1, 4, 64, 64),
        "4x128x128": (1, 4, 128, 128),
        "16x128x128": (1, 16, 128, 128),
        "4x512x512": (1, 4, 512, 512),
        "16x21x60x104": (1, 16, 21, 60, 104),
    }
)
# A slow machine stops early: no further round, no further UNet step, once they took this long together.
SIZE_SECONDS, UNET_SECONDS = size((15, 40), (0, 0))
SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": size(320, 32),
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "legacy": False,
}


def import_pack() -> None:
    """The pack as ComfyUI imports it, by path, under the name pack."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "__init__.py")
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])


@dataclass
class Step:
    """A call of a UNet."""

    model: torch.nn.Module
    x: Tensor
    timesteps: Tensor
    context: Tensor

    def __call__(self, **options) -> Tensor:
        return self.model(self.x, timesteps=self.timesteps, context=self.context, **options)


def unet_step(device: torch.device) -> Step:
    """One call of the host's UNet in SD 1.5's shape, random weights: float16 on a GPU, float32 on the CPU."""
    sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    dtype = torch.float32 if device.type == "cpu" else torch.float16
    model = UNetModel(**SD15, dtype=dtype, device=device, operations=comfy.ops.disable_weight_init).eval()
    for weight in model.parameters():
        weight.data.fill_(1) if weight.ndim == 1 else weight.data.uniform_(-0.01, 0.01)
    side = size(64, 16)
    x, context = torch.randn(2, 4, side, side, device=device, dtype=dtype), torch.randn(2, 77, 768, device=device, dtype=dtype)
    timesteps = torch.full((2,), 500.0, device=device)
    return Step(model, x, timesteps, context)


def latent(shape: tuple[int, ...], noise: float) -> Tensor:
    """A latent with the amplitude spectrum 1 / frequency of natural images, unit variance, plus noise."""
    white = torch.fft.rfft2(torch.randn(shape))
    rows, cols = (torch.fft.fftfreq(shape[-2]) * shape[-2])[:, None], torch.fft.rfftfreq(shape[-1]) * shape[-1]
    image = torch.fft.irfft2(white / (rows**2 + cols**2).sqrt().clamp(min=1), s=shape[-2:])
    return image / image.std() + noise * torch.randn(shape)


def measurements(x: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed on one latent."""
    from pack.core.svd.applying import apply_spectrum
    from pack.core.svd.decomposition import decompose
    from pack.core.svd.rescaling import Band, Power, SpectrumOperation, Threshold

    def plain() -> Tensor:
        U, S, Vh = torch.linalg.svd(x, full_matrices=False)
        S[..., :8] *= 1.5
        return (U * S[..., None, :]) @ Vh

    edits = {"gain on triplets 1-8": Band(1, 8, 1.5), "power 1.2": Power(1.2), "soft threshold": Threshold(1.0)}
    return {
        "plain svd, edit, product": plain,
        "decompose": lambda: decompose(x),
        "decompose, rank 8": lambda: decompose(x, rank=8),
        **{name: lambda edit=edit: apply_spectrum(x, SpectrumOperation(edit)) for name, edit in edits.items()},
    }


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, all queued work done."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_size(shape: tuple[int, ...], device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each measurement, on a clean latent and on a noisy one; the first round warms up."""
    runs = {
        (name, kind): run
        for kind, noise in (("clean", 0.0), ("noisy", 2.0))
        for name, run in measurements(latent(shape, noise).to(device)).items()
    }
    rounds, start = [], time.perf_counter()
    while len(rounds) <= repeats and (len(rounds) < 4 or time.perf_counter() - start < SIZE_SECONDS):
        rounds.append({key: seconds(run, device) for key, run in runs.items()})
    names = dict.fromkeys(name for name, _ in runs)
    return {name: {kind: median(r[name, kind] for r in rounds[1:]) for kind in ("clean", "noisy")} for name in names}


def measure(device: torch.device, repeats: int) -> tuple[float, dict[str, dict[str, dict[str, float]]]]:
    """Median seconds of a UNet step, and of everything at every size; the steps are spread between the sizes."""
    step = unet_step(device)
    seconds(step, device)
    steps, sizes = [seconds(step, device)], {}
    for label, shape in SIZES.items():
        sizes[label] = measure_size(shape, device, repeats)
        if sum(steps) < UNET_SECONDS:
            steps.append(seconds(step, device))
    return median(steps), sizes


def rows_of(step: float, sizes: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """One row per size and measurement: milliseconds, share of a UNet step, speed beside the plain way."""
    return [
        {
            "latent": size,
            "operation": name,
            **{f"{kind}_ms": 1e3 * t for kind, t in times.items()},
            **{f"{kind}_unet_steps": t / step for kind, t in times.items()},
            **{f"{kind}_speedup": sizes[size]["plain svd, edit, product"][kind] / t for kind, t in times.items()},
        }
        for size, measured in sizes.items()
        for name, times in measured.items()
    ]


def print_table(rows: list[dict[str, object]]) -> None:
    """The rows as text: for a clean and a noisy latent, ms, percent of a UNet step, and speed beside the plain way."""
    heading = f"{'ms':>9} {'% of step':>9} {'speed':>6}"
    print(f"{'':39}{'clean latent':>26} {'noisy latent':>26}")
    print(f"{'latent':13}{'operation':26}{heading} {heading}")
    for row in rows:
        cells = [
            f"{row[f'{kind}_ms']:9.2f} {100 * row[f'{kind}_unet_steps']:9.3f} {row[f'{kind}_speedup']:5.1f}x" for kind in ("clean", "noisy")
        ]
        print(f"{row['latent']:13}{row['operation']:26}{' '.join(cells)}")


def processor() -> str:
    """Name of the CPU, as Linux or Python gives it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Measure, print, and write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--repeats", type=int, default=size(9, 1), help="rounds behind each median (default 9; fewer on a slow machine)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parsed(parser)
    if "COMFYUI" not in os.environ:
        parser.error("set COMFYUI to the host's folder, or use make bench")
    device = torch.device(options.device)
    import_pack()
    torch.manual_seed(0)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    about = {"machine": machine, "device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    with torch.inference_mode():
        step, sizes = measure(device, options.repeats)
    print(f"one UNet step (SD 1.5's shape, batch 2, 64x64 latent): {1e3 * step:.0f} ms\n")
    rows = rows_of(step, sizes)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps({**about, "unet_step_ms": 1e3 * step, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
