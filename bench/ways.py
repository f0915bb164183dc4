"""Ways to change an attribute of a drawn picture, this pack's and what a user would do instead, for `bench/evidence.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import fewer, size
from stage import ROOT, SOURCE, Stage

LEARNED_ON, STEPS, CFG, CHUNK = 600_000, size(16, 3), 3.0, size(24, 1)
TARGETS = {
    "skin": "dark",
    "glasses": "sunglasses",
    "beard": "beard",
    "background": "green",
    "style": "curly",
    "hat": "hat",
    "shirt": "red",
    "smile": "smiling",
}
TARGETS = size(TARGETS, {"glasses": "sunglasses"})
CACHE = ROOT / "bench/.cache"
PAPER = {"branch": 0.0, "ahead": 0.12, "residual": False, "percent": 0.5}
NAMES = {"AVI, the paper's form": "AVI, the paper's form in part (2 of 4 loss terms, no network)"}  # where a key of the data says too much


class Bench(Stage):
    """The ways, on a chunk of seeds at a time. Trained directions wait in a folder for the next run."""

    def __init__(self, cache: Path = CACHE):
        from comfy.samplers import sampler_object

        super().__init__(TARGETS)
        self.cache, self.euler, self.sigmas = cache, sampler_object("euler"), self.schedule()
        self.levels = self.model.get_model_object("model_sampling")

    @cached_property
    def scorer(self):
        from pack.host.scorer import ImageScorer
        from pack.nodes.pictures import DemoScorer

        clip_vision = DemoScorer.execute().args[0]
        with torch.inference_mode(False), torch.no_grad():
            return clip_vision, ImageScorer(clip_vision)

    def schedule(self, denoise: float = 1.0) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.model, "normal", STEPS, denoise).args[0]

    def draw(
        self,
        first: int,
        *,
        model: Any = None,
        sampler: Any = None,
        prompt: str = SOURCE,
        latent: Tensor | None = None,
        denoise: float = 1.0,
    ) -> Tensor:
        return self.sample(
            model or self.model, sampler or self.euler, self.schedule(denoise), self.noise(CHUNK, first), prompt, CFG, latent
        )

    @lru_cache(maxsize=len(TARGETS) + 1)  # noqa: B019 (a bench's object lives as long as the process)
    def run(self, first: int, prompt: str = SOURCE) -> tuple[list[Tensor], Tensor]:
        """The running latents before each step of a prompt's run, and its pictures."""
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        latents: list[Tensor] = []

        def sampler(model, x, sigmas, **options):
            return sample_euler(model, x, sigmas, **options | {"callback": lambda moment: latents.append(moment["x"].clone())})

        pictures = self.draw(first, sampler=KSAMPLER(sampler), prompt=prompt)
        return latents, pictures

    def drawn_on(self, latent: Tensor, step: int, prompt: str, first: int) -> Tensor:
        """Pictures from running latents at a step."""
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        return self.draw(
            first,
            sampler=KSAMPLER(lambda model, x, sigmas, **options: sample_euler(model, latent, sigmas[step:], **options)),
            prompt=prompt,
        )

    def base(self, first: int) -> Tensor:
        return self.run(first)[1]

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def direction(self, name: str, objective: str = ""):
        from safetensors.torch import save_file

        from pack.core.hspace.file import direction_tensors, load_direction

        if not objective:
            return self.find_direction(name, size(16, 2), 16, size(20, 2), CFG, LEARNED_ON)
        kept = self.cache / f"{objective} {name}.safetensors"
        if not kept.exists():
            self.cache.mkdir(exist_ok=True)
            tensors, notes = direction_tensors(self.trained(name, objective))
            save_file(tensors, kept, notes)
        return load_direction(kept)

    def trained(self, name: str, objective: str):
        scored = (
            dict(clip_vision=self.scorer[0], clip=self.clip, source_text=SOURCE, target_text=self.prompt(name), learning_rate=3e-3)
            if objective == "CLIP directional"
            else {}
        )
        given = dict(objective=objective, images=size(16, 2), epochs=size(3, 1), steps=size(20, 2), seed=LEARNED_ON)
        return self.train_direction(name, **given, **scored)[0]

    @cache  # noqa: B019 (a bench's object lives as long as the process)
    def attribute(self, name: str, paper: bool = False):
        form = {"seeds": 1, **PAPER} if paper else {"seeds": size(16, 1)}
        return self.learn_attribute(name, self.sigmas, cfg=CFG, seed=LEARNED_ON, **form)

    def step_at(self, percent: float) -> int:
        level = self.levels.percent_to_sigma(percent)
        return next(i for i, sigma in enumerate(self.sigmas.tolist()) if sigma <= level)


# Ways: each draws the pictures of a chunk of seeds from first up, for an attribute, at a setting.


def h_space(objective: str = "", asymmetric: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.nodes.directions import ApplyDirection

        direction = bench.direction(name, objective)
        return bench.draw(
            first, model=ApplyDirection.execute(bench.model, direction, strength, 0.0, 0.8, 0.0, "both", asymmetric, False).args[0]
        )

    return way


def avi(paired: bool = True, paper: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.nodes.avi import ApplyAttribute

        target = bench.encode(bench.prompt(name)) if paired else None
        return bench.draw(first, sampler=ApplyAttribute.execute(bench.euler, bench.attribute(name, paper), strength, 0.0, target).args[0])

    return way


def target_prompt(bench: Bench, name: str, _: float, first: int) -> Tensor:
    return bench.run(first, bench.prompt(name))[1]


def steered(edit: Callable[[Tensor, int], Tensor], steps: tuple[int, ...]):
    """A SAMPLER, euler, with an edit of the foreseen picture at some steps."""
    from comfy.k_diffusion.sampling import sample_euler
    from comfy.samplers import KSAMPLER

    from pack.core.sampling.steering import sample_steered

    return KSAMPLER(
        lambda model, x, sigmas, **options: sample_steered(sample_euler, model, x, sigmas, edit=edit, steps=steps, target="x0", **options)
    )


def prompt_switched(bench: Bench, name: str, percent: float, first: int) -> Tensor:
    step = bench.step_at(percent)
    return bench.drawn_on(bench.run(first)[0][step], step, bench.prompt(name), first)


def blended(bench: Bench, name: str, weight: float, first: int) -> Tensor:
    step = bench.step_at(0.7)
    source, target = (bench.run(first, prompt)[0][step] for prompt in (SOURCE, bench.prompt(name)))
    return bench.drawn_on(torch.lerp(source, target, weight), step, SOURCE, first)


def image_to_image(bench: Bench, name: str, denoise: float, first: int) -> Tensor:
    return bench.draw(first, prompt=bench.prompt(name), latent=bench.base(first), denoise=denoise)


def image_guidance(bench: Bench, name: str, factor: float, first: int) -> Tensor:
    """The target prompt, its foreseen picture drawn to the unedited one in what is left after shrinking by a factor (Choi et al. 2021)."""
    base, latent_format = bench.base(first), bench.model.get_model_object("latent_format")
    reference = latent_format.process_in(base)

    def coarse(x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, int(factor)), x.shape[-2:], mode="bilinear")

    steps = tuple(range(bench.step_at(0.5)))
    return bench.draw(first, sampler=steered(lambda x0, _: x0 + coarse(reference.to(x0)) - coarse(x0), steps), prompt=bench.prompt(name))


def classifier_guidance(bench: Bench, name: str, scale: float, first: int) -> Tensor:
    """The source prompt, the foreseen picture moved up the gradient of its likeness to the target text (He et al. 2024, on x0)."""
    from pack.core.hspace.training import difference
    from pack.host.scorer import text_embedding

    with torch.inference_mode(False), torch.no_grad():
        change = F.normalize(difference(*(text_embedding(bench.clip, text).clone() for text in (SOURCE, bench.prompt(name)))), dim=0)
    latent_format = bench.model.get_model_object("latent_format")

    def edit(x0: Tensor, _: int) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = x0.clone().requires_grad_(True)
            likeness = (F.normalize(bench.scorer[1].embed((latent_format.process_out(point) + 1) / 2), dim=1) @ change).sum()
            (gradient,) = torch.autograd.grad(likeness, point)
            unit = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        return x0 + scale * unit

    return bench.draw(first, sampler=steered(edit, tuple(range(bench.step_at(0.8)))))


WAYS: dict[str, tuple[str, tuple[float, ...], Callable[..., Tensor]]] = {
    "direction from two prompts": ("strength", fewer((1.0, 1.5, 2.0)), h_space()),
    "the same, asymmetric": ("strength", fewer((1.0, 1.5, 3.0)), h_space(asymmetric=True)),
    "direction trained by prompt matching": ("strength", fewer((0.5, 1.0, 1.5)), h_space("prompt matching")),
    "direction trained by CLIP": ("strength", fewer((0.5, 1.0, 1.5)), h_space("CLIP directional")),
    "AVI, paired": ("strength", fewer((0.5, 1.0, 1.5)), avi()),
    "AVI, stored": ("strength", fewer((1.0, 1.5, 2.0)), avi(paired=False)),
    "AVI, the paper's form": ("strength", fewer((0.5, 1.0, 1.5)), avi(paper=True)),
    "the target prompt": ("", (1.0,), target_prompt),
    "the prompt switched": ("part of the run", fewer((0.4, 0.25, 0.15)), prompt_switched),
    "a blend of the latents": ("weight", fewer((0.5, 0.75, 1.0)), blended),
    "image-to-image": ("denoise", fewer((0.5, 0.7, 0.85)), image_to_image),
    "image guidance": ("shrunk by", fewer((2.0, 4.0, 8.0)), image_guidance),
    "classifier guidance": ("length of a step", fewer((12.0, 25.0, 50.0)), classifier_guidance),
}


def named(way: str) -> str:
    """What a way is called on the page."""
    return NAMES.get(way, way)
