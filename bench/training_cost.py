"""Time and peak memory of training a direction for 100 latents: on the demo model, and on an SD 1.5-shaped model of random weights.

    COMFYUI=<host's folder> python bench/training_cost.py portrait|sd15 [--smallest]

Prints a row of a table. One model a process, as the peak is the process's. A run is stopped after some updates; its time for 100
latents is that of one update times their number.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import parsed, size
from speed import SD15
from stage import SOURCE, Stage, start_host

LATENTS, STEPS, END = size(100, 4), size(20, 2), 0.8
CONTEXT = 768


class Enough(Exception):
    """Ends a training of which the rest is not needed."""


class Shaped:
    """An SD 1.5-shaped model of random weights, with what Train Direction asks of a checkpoint."""

    def __init__(self):
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        config = comfy.supported_models.SD15(dict(SD15))
        config.unet_config["dtype"] = torch.float32 if not torch.cuda.is_available() else torch.float16
        config.manual_cast_dtype = None
        torch.manual_seed(0)
        network = config.get_model({}, "").requires_grad_(False)
        for weight in network.diffusion_model.parameters():
            weight.normal_(std=1 / max(1, weight[0].numel()) ** 0.5) if weight.ndim > 1 else weight.fill_(1e-2)
        device = comfy.model_management.get_torch_device()
        self.model = comfy.model_patcher.CoreModelPatcher(network, device, torch.device("cpu"))
        latent = {"samples": torch.zeros(1, 4, *size((32, 32), (16, 16)))}
        self.settings = dict(batch_size=1, images=2, latent=latent, vae=self, cfg=1.0, steps=4)

    def decode(self, latents):
        return latents[:, :3].movedim(1, -1).clamp(0, 1)

    def encode(self, prompt: str):
        return [[torch.randn(1, 77, CONTEXT, generator=torch.Generator().manual_seed(len(prompt))), {}]]


class Portrait(Stage):
    def __init__(self):
        super().__init__({"glasses": "sunglasses"}, half=False)
        self.settings = dict(batch_size=4, images=LATENTS, latent={"samples": self.empty()}, vae=self.vae, cfg=1.0, steps=STEPS)


MODELS = {"portrait": Portrait, "sd15": Shaped}
UPDATES = {"portrait": size(12, 2), "sd15": 2}  # after which a run is stopped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(MODELS))
    name = parsed(parser).model
    start_host()
    with torch.inference_mode():
        print(row(MODELS[name](), name))


def row(world, name: str) -> str:
    import comfy.sample

    from pack.host.training import Trainer
    from pack.nodes.train_direction import TrainDirection

    noise = torch.randn(world.settings["batch_size"], *world.settings["latent"]["samples"].shape[1:])

    def run() -> float:
        start = time.perf_counter()
        comfy.sample.sample(
            world.model,
            noise,
            1,
            1.0,
            "euler",
            "normal",
            world.encode(SOURCE),
            world.encode(""),
            torch.zeros_like(noise),
            disable_pbar=True,
        )
        return time.perf_counter() - start

    run()
    step, before = run(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent, updates = [], Trainer.step

    def timed(self, *moment):
        start = time.perf_counter()
        result = updates(self, *moment)
        spent.append(time.perf_counter() - start)
        if len(spent) == UPDATES[name]:
            raise Enough
        return result

    Trainer.step = timed
    inputs = {port.id: port.default for port in TrainDirection.define_schema().inputs if getattr(port, "default", None) is not None}
    whole = {
        **inputs,
        **dict(
            model=world.model,
            source=world.encode(SOURCE),
            target=world.encode(SOURCE + ", sunglasses"),
            negative=world.encode(""),
            epochs=1,
            end_percent=END,
        ),
        **world.settings,
    }
    try:
        TrainDirection.execute(**{key: [value] for key, value in whole.items()})
    except Enough:
        pass
    finally:
        Trainer.step = updates
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    update = sorted(spent)[len(spent) // 2] if name == "portrait" else spent[-1]
    count = LATENTS * round(END * STEPS) // world.settings["batch_size"]
    whole_time = f"{count * update / 60:.0f} min, from {len(spent)} updates"
    return (
        f"| {name} | {world.settings['batch_size']} | {step:.2f} s | {update:.2f} s | {update / step:.1f} | {whole_time} "
        f"| {before / 2**20:.1f} GB | {peak / 2**20:.1f} GB |"
    )


if __name__ == "__main__":
    main()
