"""The demo model, its judge and its words, for benches that measure edits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from speed import ROOT, import_pack  # noqa: F401

FIRST_SEED = 900_000  # held-out seeds start here
SOURCE = "a face"
ELSEWHERE = (
    "The demo model's prompt enters at the middle block alone. On a UNet of its size whose prompt enters at every level, as in SD 1.5"
    " and SDXL, h-space contrasts of two prompts had no effect at strengths 1, 4 and 8: the attribute was found in 11 % of the "
    "pictures, as in unedited ones (sunglasses, beard and green background; 24 held-out seeds, euler, 16 steps, cfg 3). Expect little"
    " or nothing of them on such models. Trained directions were not tried there."
)


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
        self.judge = classifier.load(demo.JUDGES)

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

        from pack.nodes.avi import TrainAttribute

        inputs = {port.id: port.default for port in TrainAttribute.define_schema().inputs if hasattr(port, "default")}
        inputs |= dict(
            model=self.model,
            source=self.encode(SOURCE),
            target=self.encode(self.prompt(name)),
            negative=self.encode(""),
            vae=self.vae,
            sampler=sampler_object("euler"),
            sigmas=sigmas,
            latent={"samples": self.empty()},
        )
        return TrainAttribute.execute(**inputs | changes).args[0]

    def train_direction(self, name: str, **changes):
        """The outputs of Train Direction as it starts, for a target value, but for the changes."""
        from pack.nodes.train_direction import TrainDirection

        inputs = {port.id: port.default for port in TrainDirection.define_schema().inputs if getattr(port, "default", None) is not None}
        inputs |= dict(
            model=self.model,
            source=self.encode(SOURCE),
            target=self.encode(self.prompt(name)),
            negative=self.encode(""),
            vae=self.vae,
            latent={"samples": self.empty()},
        )
        return TrainDirection.execute(**{key: [value] for key, value in (inputs | changes).items()}).args

    def sample(self, model, sampler, sigmas: Tensor, noise: Tensor, prompt: str, cfg: float, latent: Tensor | None = None) -> Tensor:
        """Latents (n, 3, h, w) from noise, and from given ones, under a prompt and an empty negative one."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.encode(prompt), self.encode(""))
        guider.set_cfg(cfg)
        return guider.sample(noise, torch.zeros_like(noise) if latent is None else latent, sampler, sigmas, disable_pbar=True, seed=0)

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


Point = tuple[float, float]  # success and kept share


def mean(points: Iterable[Point]) -> Point:
    return tuple(np.mean(list(points), axis=0))


def cell(point: Point) -> str:
    return f"{point[0]:.0%} / {point[1]:.0%}"


def save_sheet(blocks: Iterable[tuple[Sequence[Sequence[Tensor]], Sequence[str]]], path: Path) -> None:
    """Blocks of pictures (3, h, w) in [-1, 1], one below another, as a JPEG; in each, rows of as many pictures as it has labels."""
    from PIL import Image

    from pack.core.pictures.sheet import labelled_grid

    sheets = [
        labelled_grid(
            [((x + 1) / 2).clamp(0, 1).movedim(0, -1) for row in rows for x in row], list(labels) * len(rows), columns=len(labels), tile=128
        )[0]
        for rows, labels in blocks
    ]
    width = max(sheet.shape[1] for sheet in sheets)
    sheets = [torch.nn.functional.pad(sheet, (0, 0, 0, width - sheet.shape[1]), value=float(sheet[0, 0, 0])) for sheet in sheets]
    Image.fromarray((torch.cat(sheets) * 255).round().to(torch.uint8).numpy()).save(path, quality=88)


def write_report(path: Path, head: str, parts: dict[str, Callable[[], list[str]]], only: str | None = None) -> None:
    """A page of sections, measured one after another; it is written again after each, so that little is lost.

    only: measure the section of this title alone, and take the others from the page as it stands.
    """
    kept = dict(section.split("\n\n", 1) for section in path.read_text().split("\n## ")[1:]) if only else {}
    sections = {title: [text.rstrip()] for title, text in kept.items()}
    for title, measure in parts.items():
        if only in (None, title):
            sections[title] = measure()
        page = "\n\n".join([head, *(f"## {title}\n\n" + "\n".join(sections[title]) for title in parts if title in sections)]) + "\n"
        path.write_text(page)
    print(page)
