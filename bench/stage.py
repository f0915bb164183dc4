"""The demo model, its judge and its words, for benches that measure edits."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed import ROOT, import_pack  # noqa: E402, F401

FIRST_SEED = 900_000  # held-out seeds start here
SOURCE = "a face"


def start_host() -> None:
    """Import the pack as the host does, and the host itself."""
    sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import_pack()
    from pack import demo

    demo.install()


class Stage:
    """The demo model, its judge, and the attribute values that are asked for."""

    def __init__(self, targets: dict[str, str]):
        import nodes
        from pack import demo
        from pack.demo import classifier, faces, prompts

        self.nodes, self.faces, self.prompts, self.targets = nodes, faces, prompts, targets
        self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint("semantic_latents_demo.safetensors")
        self.judge = classifier.load(demo.WEIGHTS)

    def encode(self, prompt: str):
        return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def prompt(self, *names: str) -> str:
        return self.prompts.prompt_for({name: self.targets[name] for name in names})

    def find_direction(self, name: str, *settings):
        """The direction of an attribute's target value; settings: images, batch size, steps, cfg and seed."""
        from pack.nodes.directions import DirectionFromPrompts

        prompts = (self.encode(text) for text in (SOURCE, self.prompt(name), ""))
        return DirectionFromPrompts.execute(self.model, *prompts, {"samples": self.empty()}, *settings).args[0]

    def learn_attribute(self, name: str, sigmas: Tensor, **changes):
        """The attribute of a target value by Train Attribute as it starts, with euler, but for the changes."""
        from comfy.samplers import sampler_object
        from pack.nodes.attributes import TrainAttribute

        inputs = {port.id: port.default for port in TrainAttribute.define_schema().inputs if hasattr(port, "default")}
        inputs |= dict(model=self.model, source=self.encode(SOURCE), target=self.encode(self.prompt(name)), negative=self.encode(""), vae=self.vae,
                       sampler=sampler_object("euler"), sigmas=sigmas, latent={"samples": self.empty()})
        return TrainAttribute.execute(**inputs | changes).args[0]

    def empty(self, count: int = 1) -> Tensor:
        return torch.zeros(count, 3, self.faces.SIZE, self.faces.SIZE)

    def noise(self, count: int, first: int = FIRST_SEED) -> Tensor:
        """Noise (count, 3, h, w) of the seeds from first up."""
        shape = self.empty().shape
        return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(first + i)) for i in range(count)])

    def has(self, images: Tensor, name: str) -> float:
        """Share of pictures (n, 3, h, w) in [-1, 1] that show the attribute's target value."""
        return float((self.judge.label(images)[name] == self.faces.ATTRIBUTES[name].index(self.targets[name])).float().mean())

    def kept(self, images: Tensor, before: Tensor, *but: str) -> float:
        """Share of the other attributes' labels that are what they were."""
        now, then = self.judge.label(images), self.judge.label(before)
        return float(torch.stack([(now[k] == then[k]).float() for k in now if k not in but]).mean())


def kept_at(success: float, curve: list[tuple[float, float]]) -> float:
    """The kept share where a curve of (success, kept) first reaches a success; NaN if it never does."""
    for (hit, kept), (next_hit, next_kept) in zip(curve, curve[1:]):
        if next_hit >= success:
            return next_kept + (next_hit - success) / (next_hit - hit) * (kept - next_kept) if hit < success else kept
    return float("nan")
