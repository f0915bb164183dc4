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
from sizes import size
from speed import ROOT, import_pack  # noqa: F401

FIRST_SEED = 900_000  # held-out seeds start here
SOURCE = "a portrait"
INSTRUMENTS = {"portrait": "semantic_latents_portrait.safetensors", "portrait-dit": "semantic_latents_portrait_dit.safetensors"}
TITLES = {"portrait": "Portrait, a latent diffusion UNet", "portrait-dit": "Portrait DiT, a flow transformer"}
SIDE = size(32, 8)  # of the latents
PIXELS = 256  # side of the pictures that the judge and the pages are given
TILE = 128  # pixels of a picture on a sheet


def start_host() -> None:
    """Import the pack as the host does, and the host itself."""
    sys.path.insert(0, os.environ["COMFYUI"])
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True  # the host's choice on a GPU, and the quicker one on a CPU
    import_pack()
    from pack import demo

    demo.install()


def precision() -> str:
    """What the benches' networks compute in: bfloat16, as on a user's GPU, or float32 where this machine is slow at that."""
    from pack.demo import network

    return "bfloat16" if network.QUICK_BFLOAT16 else "float32"


class Stage:
    """A demo model, the judge of its pictures, and the attribute values that are asked for.

    targets: by attribute, a label of `faces.CATEGORICAL` or a number in the range of `faces.CONTINUOUS`.
    half: the network computes in `precision()`, else in float32. side: of its latents.
    """

    side = SIDE

    def __init__(self, targets: dict[str, str | float], instrument: str = "portrait", half: bool = True):
        import nodes
        from pack import demo
        from pack.demo import captions, faces, judge

        self.nodes, self.faces, self.captions, self.targets = nodes, faces, captions, targets
        self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint(INSTRUMENTS[instrument])
        if half:
            self.model.set_model_compute_dtype(getattr(torch, precision()))
        self.judge = judge.load(demo.JUDGES)

    def encode(self, prompt: str):
        return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def prompt(self, *names: str) -> str:
        return self.captions.prompt_for(**{name: self.targets[name] for name in names})

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
        """Latents (n, 4, h, w) from noise, and from given ones, under a prompt and an empty negative one."""
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.encode(prompt), self.encode(""))
        guider.set_cfg(cfg)
        return guider.sample(noise, torch.zeros_like(noise) if latent is None else latent, sampler, sigmas, disable_pbar=True, seed=0)

    def empty(self, count: int = 1) -> Tensor:
        return torch.zeros(count, 4, self.side, self.side)

    def noise(self, count: int, first: int = FIRST_SEED) -> Tensor:
        """Noise (count, 4, h, w) of the seeds from first up."""
        shape = self.empty().shape
        return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(first + i)) for i in range(count)])

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, 256, 256) in [-1, 1] of latents."""
        pictures = self.vae.decode(latents).movedim(-1, 1) * 2 - 1
        return pictures if pictures.shape[-1] == PIXELS else torch.nn.functional.interpolate(pictures, (PIXELS, PIXELS))

    def read(self, latents: Tensor) -> dict[str, Tensor]:
        """What the judge reads off the pictures of latents, by attribute: the index of a label, or a number; and "identity"."""
        return self.judge.read(self.pictures(latents))

    def shows(self, read: dict[str, Tensor], name: str) -> Tensor:
        """Whether pictures (n) show an attribute's target value: the label, or a number past the nearer end of what its word means."""
        wanted = self.targets[name]
        if name in self.faces.CATEGORICAL:
            return read[name] == self.faces.CATEGORICAL[name].index(wanted)
        low, high = self.faces.CONTINUOUS[name]
        end = wanted - 0.2 * (high - low) * (1 if wanted > (low + high) / 2 else -1)
        return read[name] > end if wanted > (low + high) / 2 else read[name] < end

    def others(self, name: str) -> list[str]:
        """The attributes that an edit of one shall keep: all but it and those that it hides by itself, as a hat hides hair."""
        hidden = HIDES.get(name, ())
        return [k for k in (*self.faces.CATEGORICAL, *self.faces.CONTINUOUS) if k != name and k not in hidden]

    def keeps(self, now: dict[str, Tensor], then: dict[str, Tensor], *names: str) -> Tensor:
        """The share (n) of the attributes to be kept that are: the same label, or a number within a tenth of its range."""
        others = [k for k in self.others(names[0]) if all(k in self.others(name) for name in names)]
        kept = []
        for key in others:
            if key in self.faces.CATEGORICAL:
                kept.append(now[key] == then[key])
            else:
                low, high = self.faces.CONTINUOUS[key]
                kept.append((now[key] - then[key]).abs() < 0.1 * (high - low))
        return torch.stack(kept).float().mean(0)

    def has(self, latents: Tensor, name: str) -> float:
        """Share of latents whose pictures show the attribute's target value."""
        return float(self.shows(self.read(latents), name).float().mean())

    def kept(self, latents: Tensor, before: Tensor, *names: str) -> float:
        """Share of the other attributes that are what they were."""
        return float(self.keeps(self.read(latents), self.read(before), *names).mean())


# What an attribute hides or stands for by itself, and so is not counted among what its edit shall keep (`faces.visible`).
HIDES = {
    "hat": ("style", "hair_length"),
    "style": ("hair_length", "hair"),
    "hair_length": ("style",),
    "glasses": ("eyes",),
    "age": ("hair",),
    "mouth": ("smile",),
}


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

    def small(picture: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(picture, (TILE, TILE))

    sheets = [
        labelled_grid(
            [((small(x) + 1) / 2).clamp(0, 1).movedim(0, -1) for row in rows for x in row],
            list(labels) * len(rows),
            columns=len(labels),
            tile=TILE,
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
