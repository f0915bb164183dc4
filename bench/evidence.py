"""The frontier: what editing an attribute costs of the rest, for this pack and for what a user would do instead: `docs/evidence.md`.

    COMFYUI=<host's folder> python bench/evidence.py [--seeds 96] [--minutes 60] [--ways AVI,guidance] [--report]

Every way draws the same held-out seeds (from 900 000 up) with the same sampler and steps, at several settings, for the
same attributes. Learned things come from seeds from 600 000 up; the settings listed were chosen on seeds from 500 000 up.
What was drawn is judged by the attribute classifier, and the outcome of each picture goes into `docs/evidence.json`, so
that a run that was stopped goes on where it was, several may share the ways among them, and `--report` writes the page
from what is there. Trained directions wait for the next run in `bench/.cache/`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stage import FIRST_SEED, ROOT, SOURCE, Stage, start_host  # noqa: E402

LEARNED_ON, STEPS, CFG, EQUAL, CHUNK = 600_000, 16, 3.0, 0.8, 24
TARGETS = {"skin": "dark", "glasses": "sunglasses", "beard": "beard", "background": "green", "style": "curly", "hat": "hat", "shirt": "red", "smile": "smiling"}
DATA, PAGE, FIGURE = (ROOT / "docs" / f"evidence.{suffix}" for suffix in ("json", "md", "png"))
CACHE = ROOT / "bench/.cache"
PAPER = {"branch": 0.0, "ahead": 0.12, "residual": False, "percent": 0.5}
RESAMPLES = 1000


class Bench(Stage):
    """The ways, on a chunk of seeds at a time."""

    def __init__(self):
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        super().__init__(TARGETS)
        self.euler = sampler_object("euler")
        self.sigmas = BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        self.levels = self.model.get_model_object("model_sampling")

    @cached_property
    def scorer(self):
        from pack.nodes.scoring import DemoScorer, ImageScorer

        clip_vision = DemoScorer.execute().args[0]
        with torch.inference_mode(False), torch.no_grad():
            return clip_vision, ImageScorer(clip_vision)

    def draw(self, first: int, *, model: Any = None, sampler: Any = None, prompt: str = SOURCE, latent: Tensor | None = None, denoise: float = 1.0) -> Tensor:
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        sigmas = self.sigmas if denoise == 1 else BasicScheduler.execute(self.model, "normal", STEPS, denoise).args[0]
        return self.sample(model or self.model, sampler or self.euler, sigmas, self.noise(CHUNK, first), prompt, CFG, latent)

    @lru_cache(maxsize=len(TARGETS) + 1)
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

        return self.draw(first, sampler=KSAMPLER(lambda model, x, sigmas, **options: sample_euler(model, latent, sigmas[step:], **options)), prompt=prompt)

    def base(self, first: int) -> Tensor:
        return self.run(first)[1]

    @lru_cache(maxsize=None)
    def direction(self, name: str, objective: str = ""):
        from pack.core.direction_files import direction_tensors, load_direction
        from safetensors.torch import save_file

        if not objective:
            return self.find_direction(name, 16, 16, 20, CFG, LEARNED_ON)
        kept = CACHE / f"{objective} {name}.safetensors"
        if not kept.exists():
            CACHE.mkdir(exist_ok=True)
            tensors, notes = direction_tensors(self.trained(name, objective))
            save_file(tensors, kept, notes)
        return load_direction(kept)

    def trained(self, name: str, objective: str):
        scored = dict(clip_vision=self.scorer[0], clip=self.clip, source_text=SOURCE, target_text=self.prompt(name), learning_rate=3e-3) if objective == "CLIP directional" else {}
        return self.train_direction(name, objective=objective, images=16, epochs=3, seed=LEARNED_ON, **scored)[0]

    @lru_cache(maxsize=None)
    def attribute(self, name: str, paper: bool = False):
        return self.learn_attribute(name, self.sigmas, cfg=CFG, seed=LEARNED_ON, seeds=1 if paper else 16, **(PAPER if paper else {}))

    def step_at(self, percent: float) -> int:
        level = self.levels.percent_to_sigma(percent)
        return next(i for i, sigma in enumerate(self.sigmas.tolist()) if sigma <= level)


# Ways: each draws the pictures of a chunk of seeds from first up, for an attribute, at a setting.


def h_space(objective: str = "", asymmetric: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.nodes.directions import ApplyDirection

        direction = bench.direction(name, objective)
        return bench.draw(first, model=ApplyDirection.execute(bench.model, direction, strength, 0.0, 0.8, 0.0, "both", asymmetric, False).args[0])

    return way


def avi(paired: bool = True, paper: bool = False) -> Callable[..., Tensor]:
    def way(bench: Bench, name: str, strength: float, first: int) -> Tensor:
        from pack.nodes.attributes import ApplyAttribute

        target = bench.encode(bench.prompt(name)) if paired else None
        return bench.draw(first, sampler=ApplyAttribute.execute(bench.euler, bench.attribute(name, paper), strength, 0.0, target).args[0])

    return way


def target_prompt(bench: Bench, name: str, _: float, first: int) -> Tensor:
    return bench.run(first, bench.prompt(name))[1]


def steered(edit: Callable[[Tensor, int], Tensor], steps: tuple[int, ...]):
    """A SAMPLER, euler, with an edit of the foreseen picture at some steps."""
    from comfy.k_diffusion.sampling import sample_euler
    from comfy.samplers import KSAMPLER
    from pack.core.steering import sample_steered

    return KSAMPLER(lambda model, x, sigmas, **options: sample_steered(sample_euler, model, x, sigmas, edit=edit, steps=steps, target="x0", **options))


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
    from pack.core.training import difference
    from pack.nodes.scoring import text_embedding

    with torch.inference_mode(False), torch.no_grad():
        change = F.normalize(difference(*(text_embedding(bench.clip, text).clone() for text in (SOURCE, bench.prompt(name)))), dim=0)
    latent_format = bench.model.get_model_object("latent_format")

    def edit(x0: Tensor, _: int) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            point = x0.clone().requires_grad_(True)
            likeness = (F.normalize(bench.scorer[1].embed((latent_format.process_out(point) + 1) / 2), dim=1) @ change).sum()
            gradient, = torch.autograd.grad(likeness, point)
            unit = gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        return x0 + scale * unit

    return bench.draw(first, sampler=steered(edit, tuple(range(bench.step_at(0.8)))))


WAYS: dict[str, tuple[str, tuple[float, ...], Callable[..., Tensor]]] = {
    "direction from two prompts": ("strength", (1.0, 1.5, 2.0), h_space()),
    "the same, asymmetric": ("strength", (1.0, 1.5, 3.0), h_space(asymmetric=True)),
    "direction trained by prompt matching": ("strength", (0.5, 1.0, 1.5), h_space("prompt matching")),
    "direction trained by CLIP": ("strength", (0.5, 1.0, 1.5), h_space("CLIP directional")),
    "AVI, paired": ("strength", (0.5, 1.0, 1.5), avi()),
    "AVI, stored": ("strength", (1.0, 1.5, 2.0), avi(paired=False)),
    "AVI, the paper's form": ("strength", (0.5, 1.0, 1.5), avi(paper=True)),
    "the target prompt": ("", (1.0,), target_prompt),
    "the prompt switched": ("part of the run", (0.4, 0.25, 0.15), prompt_switched),
    "a blend of the latents": ("weight", (0.5, 0.75, 1.0), blended),
    "image-to-image": ("denoise", (0.5, 0.7, 0.85), image_to_image),
    "image guidance": ("shrunk by", (2.0, 4.0, 8.0), image_guidance),
    "classifier guidance": ("length of a step", (12.0, 25.0, 50.0), classifier_guidance),
}


def judged(bench: Bench, pictures: Tensor, name: str, first: int) -> dict[str, list]:
    """For each picture whether it shows the attribute, and how many of the other labels it keeps."""
    now, then = bench.judge.label(pictures), bench.judge.label(bench.base(first))
    at = bench.faces.ATTRIBUTES[name].index(TARGETS[name])
    kept = torch.stack([now[key] == then[key] for key in now if key != name]).sum(0)
    return {"hit": (now[name] == at).int().tolist(), "kept": kept.tolist(), "before": (then[name] == at).int().tolist()}


def measure(seeds: int, minutes: float, ways: list[str]) -> None:
    """Draw what is not in the data yet, chunk by chunk over all ways, so that an early stop leaves them equally far."""
    bench, ends = Bench(), time.monotonic() + 60 * minutes
    for first in range(FIRST_SEED, FIRST_SEED + seeds, CHUNK):
        for name in TARGETS:
            for way, (_, settings, draw) in WAYS.items():
                if any(part in way for part in ways):
                    for setting in settings:
                        key = f"{way}|{setting:g}|{name}|{first}"
                        if key not in read():
                            if time.monotonic() > ends:
                                return
                            keep(key, judged(bench, draw(bench, name, setting, first), name, first))


def read() -> dict[str, dict[str, list]]:
    return json.loads(DATA.read_text()) if DATA.exists() else {}


def keep(key: str, outcome: dict[str, list]) -> None:
    """Add to the data on disk; of several processes one at a time."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((read() | {key: outcome}).items())]
        partial = DATA.with_suffix(".partial")
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        partial.replace(DATA)


class Outcomes:
    """The data of the chunks that every way has: hits and kept shares by way, setting, attribute and seed."""

    def __init__(self, data: dict[str, dict[str, list]]):
        firsts = sorted({int(key.split("|")[3]) for key in data})
        wanted = [(way, setting, name) for way, (_, settings, _) in WAYS.items() for setting in settings for name in TARGETS]
        self.firsts = [f for f in firsts if all(f"{way}|{setting:g}|{name}|{f}" in data for way, setting, name in wanted)]
        self.count, others = CHUNK * len(self.firsts), 10

        def column(way: str, setting: float, name: str, what: str) -> np.ndarray:
            return np.concatenate([np.array(data[f"{way}|{setting:g}|{name}|{f}"][what], float) for f in self.firsts]) if self.firsts else np.empty(0)

        self.hit = {(way, s): np.stack([column(way, s, name, "hit") for name in TARGETS]) for way, (_, settings, _) in WAYS.items() for s in settings}
        self.kept = {(way, s): np.stack([column(way, s, name, "kept") / others for name in TARGETS]) for way, (_, settings, _) in WAYS.items() for s in settings}
        first_way = next(iter(WAYS))
        self.before = np.stack([column(first_way, WAYS[first_way][1][0], name, "before") for name in TARGETS])

    def curve(self, way: str, chosen: np.ndarray) -> list[tuple[float, float]]:
        """Success and kept share, unedited first, over the settings, for the chosen seeds; the mean over attributes."""
        points = [(self.before[:, chosen].mean(), 1.0)]
        return points + [(self.hit[way, s][:, chosen].mean(), self.kept[way, s][:, chosen].mean()) for s in WAYS[way][1]]

    def interval(self, statistic: Callable[[np.ndarray], float]) -> tuple[float, float, float]:
        """A statistic of a set of seeds, and its 95 % interval over resampled seeds."""
        rng, everything = np.random.default_rng(0), np.arange(self.count)
        values = [statistic(rng.integers(self.count, size=self.count)) for _ in range(RESAMPLES)]
        low, high = np.nanpercentile(values, (2.5, 97.5)) if np.isfinite(values).mean() > 0.9 else (np.nan, np.nan)
        return statistic(everything), float(low), float(high)


def kept_at(curve: list[tuple[float, float]]) -> float:
    from stage import kept_at as at

    return at(EQUAL, curve)


def percent(value: float, low: float, high: float) -> str:
    return "not reached" if np.isnan(value) else f"{value:.1%} ({low:.1%} to {high:.1%})" if not np.isnan(low) else f"{value:.1%}"


def report() -> str:
    """The page: the frontier's table and figure, with intervals."""
    outcomes = Outcomes(read())
    if not outcomes.firsts:
        raise SystemExit("evidence: no chunk of seeds is there for all ways yet")
    everything = np.arange(outcomes.count)
    rows = [f"| way | success / others kept, by setting | others kept at {EQUAL:.0%} success (95 % interval) |", "|---|---|---|"]
    for way, (what, settings, _) in WAYS.items():
        points = outcomes.curve(way, everything)[1:]
        cells = ", ".join((f"{setting:g}: " if what else "") + f"{hit:.0%} / {kept:.0%}" for setting, (hit, kept) in zip(settings, points))
        rows.append(f"| {way}{f', by {what}' if what else ''} | {cells} | {percent(*outcomes.interval(lambda chosen, way=way: kept_at(outcomes.curve(way, chosen))))} |")
    widest = max(1.96 * np.sqrt(h.mean() * (1 - h.mean()) / h.size) for h in outcomes.hit.values())
    figure(outcomes)
    return (f"# The frontier\n\nWritten by `bench/evidence.py` from `evidence.json`. The demo model, euler, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`, {len(TARGETS)} attributes, "
            f"{outcomes.count} held-out seeds each from {FIRST_SEED} up ({outcomes.count * len(TARGETS)} pictures a setting; a success is known to +-{widest:.1%} at the most). Attributes and directions "
            f"from seeds from {LEARNED_ON} up; settings chosen on seeds from 500000 up. Intervals by resampling seeds.\n\n![success against preservation](evidence.png)\n\n" + "\n".join(rows) + "\n")


def figure(outcomes: Outcomes) -> None:
    from matplotlib.figure import Figure

    chart = Figure(figsize=(9, 6), dpi=90, layout="constrained")
    axes = chart.add_subplot(xlabel="success", ylabel="other attributes kept")
    for i, way in enumerate(WAYS):
        points = np.array(outcomes.curve(way, np.arange(outcomes.count)))
        axes.plot(*points.T, marker="osD^v"[i % 5], color=f"C{i % 10}", linestyle="-" if i < 7 else "--", label=way, markersize=4)
    axes.axvline(EQUAL, color="0.7", zorder=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    chart.savefig(FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=96, help="held-out seeds for each attribute and setting")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop drawing after this long; the next run goes on")
    parser.add_argument("--ways", default="", help="draw only the ways whose names have one of these parts, with commas between")
    parser.add_argument("--report", action="store_true", help="write the page from what was drawn")
    options, sys.argv[1:] = parser.parse_args(), []
    if not options.report:
        start_host()
        with torch.inference_mode():
            measure(options.seeds, options.minutes, options.ways.split(","))
    PAGE.write_text(report())
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
