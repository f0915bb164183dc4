"""The three properties of Wang et al. 2025 on a demo model, measured: `docs/properties.md` or `properties-dit.md`, and pictures.

    COMFYUI=<host's folder> python bench/properties.py [--model portrait-dit] [--seeds 12] [--out docs] [--smallest]

Held-out seeds from 900 000 up, through the pack's own nodes and core; attributes by the judge of portraits.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sizes import DOCS, parsed, size
from stage import FIRST_SEED, INSTRUMENTS, SIDE, SOURCE, Stage, precision, save_sheet, start_host, write_report
from ways import SCHEDULERS

STEPS, CFG = size(16, 6), 3.0
RANKS, PERCENTS, TRIPLETS, GAINS = (1, 2, 4, 8), size((0.15, 0.3, 0.5, 0.7), (0.3,)), size((1, 2, 3, 4, 6, 12), (1, 2, 4)), (0.0, 2.0)
COARSE, FINE = ("background", "skin", "shirt", "hair"), ("smile", "mouth", "glasses", "eyes")
NEAR, APART = 0.25, 0.3  # of the distance of random subspaces; of a rank: what counts


class Bench(Stage):
    """Trajectories of the held-out seeds, and runs gone on with from a step; pictures go to a folder."""

    def __init__(self, model: str, seeds: int, folder: Path):
        from comfy.samplers import sampler_object
        from comfy_extras.nodes_custom_sampler import BasicScheduler, CFGGuider

        from pack.nodes.trajectories import SampleTrajectory

        super().__init__({}, model)
        self.seeds, self.folder, self.euler, self.suffix = seeds, folder, sampler_object("euler"), model.removeprefix("portrait")
        self.sigmas = BasicScheduler.execute(self.model, SCHEDULERS[model], STEPS, 1.0).args[0]
        self.guider = CFGGuider.execute(self.model, self.encode(SOURCE), self.encode(""), CFG).args[0]
        start = self.noise(seeds)

        class Given:
            seed = 0

            def generate_noise(self, latent):
                return start

        self.trajectory = SampleTrajectory.execute(Given(), self.guider, self.euler, self.sigmas, {"samples": self.empty(seeds)}).args[1]
        self.final = self.pictures(self.model.get_model_object("latent_format").process_out(self.trajectory.x[-1]))
        self.before, self.found = self.judge.read(self.final), {}

    def step_at(self, percent: float) -> int:
        return next(i for i, part in enumerate(self.trajectory.percents) if part >= percent)

    def finished(self, x: Tensor, step: int) -> Tensor:
        """Pictures (n, 3, h, w) of running latents (n, 4, h, w) gone on with from a step."""
        from comfy.k_diffusion.sampling import sample_euler
        from comfy.samplers import KSAMPLER

        sampler = KSAMPLER(lambda model, noise, sigmas, **options: sample_euler(model, x.clone(), sigmas[step:], **options))
        return self.pictures(self.sample(self.model, sampler, self.sigmas, self.noise(len(x)), SOURCE, CFG))

    def changed(self, pictures: Tensor) -> dict[str, float]:
        """By attribute, in what share of the pictures it is no longer as it was: another label, or a tenth of a number's range away."""
        now, shares = self.judge.read(pictures), {}
        for name in (*self.faces.CATEGORICAL, *self.faces.CONTINUOUS):
            moved = (now[name] - self.before[name]).abs()
            low, high = self.faces.CONTINUOUS.get(name, (0, 0))
            shares[name] = float((moved > 0.1 * (high - low)).float().mean())
        return shares


def neighbourhood(bench: Bench) -> list[str]:
    """Geodesic distances between the spans of leading left vectors over a run, beside those of random subspaces."""
    from PIL import Image

    from pack.core.pictures.figures import distance_figure
    from pack.core.svd.subspaces import distance_matrix, random_distance

    rows = [
        "| latents | vectors | from one step to the next | all pairs of steps | first half, all pairs | second half | random subspaces |",
        "|---|---|---|---|---|---|---|",
    ]
    half = bench.step_at(0.5)
    for of, rank in ((of, rank) for of in ("x_t", "x0") for rank in RANKS):
        matrix, random = distance_matrix(bench.trajectory.latents(of), rank, "left"), random_distance(SIDE, rank)

        def pairs(block: Tensor) -> float:
            return float(block.sum() / (len(block) * (len(block) - 1)))

        figures = (float(matrix.diagonal(1).mean()), pairs(matrix), pairs(matrix[:half, :half]), pairs(matrix[half:, half:]), random)
        rows.append(f"| {of} | {rank} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
        if rank == 4:
            bench.found[of] = figures
            picture = distance_figure(matrix, bench.trajectory.percents, random)
            Image.fromarray((picture[0] * 255).round().to(torch.uint8).numpy()).save(
                bench.folder / f"neighbourhood_{of}{bench.suffix}.png", optimize=True
            )
    return [
        *rows,
        "",
        f"![distances between all steps, noisy latents](neighbourhood_x_t{bench.suffix}.png) "
        f"![the same, foreseen latents](neighbourhood_x0{bench.suffix}.png)",
    ]


def encoded(bench: Bench) -> list[str]:
    """Share of faces in which an attribute changes when one triplet is taken out or doubled at a part of the run."""
    from pack.core.svd.decomposition import variants

    names, changed, blocks = list(bench.changed(bench.final)), {}, []
    for percent in tqdm(PERCENTS, "triplets"):
        step = bench.step_at(percent)
        assert not any(bench.changed(bench.finished(bench.trajectory.x[step], step)).values()), "the run does not go on as it was"
        for triplet in TRIPLETS:
            moved = []
            for gain in GAINS:
                drawn = bench.finished(torch.cat([variants(one[None], [triplet], [gain]) for one in bench.trajectory.x[step]]), step)
                moved.append(list(bench.changed(drawn).values()))
                if percent == 0.3 and gain == 0 and triplet <= 6:
                    blocks.append((triplet, drawn[:6]))
            changed[percent, triplet] = np.mean(moved, axis=0)
    rows = ["| at | triplet | " + " | ".join(names) + " | all |", "|---|---|" + "---|" * (len(names) + 1)]
    for (percent, triplet), shares in changed.items():
        rows.append(f"| {percent:g} | {triplet} | " + " | ".join(f"{share:.0%}" for share in shares) + f" | {shares.mean():.0%} |")
    shown = min(6, bench.seeds)
    save_sheet(
        [
            ([bench.final[:6]], ["unedited"] * shown),
            *(([drawn], [f"without triplet {triplet}"] * shown) for triplet, drawn in blocks),
        ],
        bench.folder / f"encoded{bench.suffix}.jpg",
    )
    bench.found["triplets"] = {key: float(shares.mean()) for key, shares in changed.items()}
    bench.centres = {
        (percent, kind): centre([changed[percent, t][[names.index(n) for n in group]].mean() for t in TRIPLETS])
        for percent in PERCENTS
        for kind, group in (("coarse", COARSE), ("fine", FINE))
    }
    return [
        *rows,
        "",
        "Mean of taking the triplet out and of doubling it, in all channels. A number changes when it moves by a tenth of its range.",
        "",
        f"![faces without one triplet, taken out at 0.3](encoded{bench.suffix}.jpg)",
    ]


def centre(effects: list[float]) -> float:
    """Mean rank, weighted by effect."""
    return float(np.average(TRIPLETS, weights=np.maximum(effects, 1e-9)))


def mobility(bench: Bench) -> list[str]:
    """Change of rank of the finished picture's leading triplets, and at which ranks coarse and fine attributes stand over a run."""
    from pack.core.svd.subspaces import followed

    rows = [
        "| latents | steps from | to | mean change of rank a step | likeness of a triplet to itself a step on |",
        "|---|---|---|---|---|",
    ]
    for of in ("x_t", "x0"):
        paths = [
            followed([x[i : i + 1] for x in bench.trajectory.latents(of)], channel, 8) for i in range(bench.seeds) for channel in range(4)
        ]
        for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0)):
            steps = [i for i, part in enumerate(bench.trajectory.percents[:-1]) if low <= part < high]
            moved = np.mean([(p.ranks[i + 1] - p.ranks[i]).abs().double().mean() for p in paths for i in steps])
            sure = np.mean([p.likeness[i].mean() for p in paths for i in steps])
            rows.append(f"| {of} | {low:g} | {high:g} | {moved:.2f} | {sure:.2f} |")
    rows += [
        "",
        f"Mean rank of the triplets whose change moves coarse ({', '.join(COARSE)}) and fine ({', '.join(FINE)}) attributes, "
        "weighted by how many of them change:",
        "",
        "| at | coarse | fine |",
        "|---|---|---|",
    ]
    return rows + [
        f"| {percent:g} | {bench.centres[percent, 'coarse']:.2f} | {bench.centres[percent, 'fine']:.2f} |" for percent in PERCENTS
    ]


def holds(bench: Bench) -> list[str]:
    """What of each property is found, by the figures above."""
    near, everywhere, *_, random = bench.found["x_t"]
    latest = {triplet: share for (percent, triplet), share in bench.found["triplets"].items() if percent == PERCENTS[-1]}
    strongest = max(latest, key=lambda triplet: latest[triplet])
    ordered = [f"{percent:g}" for percent in PERCENTS if bench.centres[percent, "fine"] - bench.centres[percent, "coarse"] > APART]
    others = [f"{percent:g}" for percent in PERCENTS if f"{percent:g}" not in ordered]
    return [
        f"- A small neighbourhood **{'holds' if near < NEAR * random else 'does not hold'}** from step to step, and "
        f"{'holds' if everywhere < NEAR * random else 'does not hold'} over the whole run: {near:.2f} and {everywhere:.2f}, where random "
        f"subspaces are {random:.2f} apart (noisy latents, 4 vectors; a quarter of it counts as near).",
        f"- Single triplets **{'do' if max(bench.found['triplets'].values()) > 0.05 else 'do not'}** change attributes. At "
        f"{PERCENTS[-1]:g} of the run triplet {strongest} changes most, {latest[strongest]:.0%} of them; the others change "
        f"{max([share for triplet, share in latest.items() if triplet != strongest]):.0%} at the most.",
        f"- Coarse attributes stand at lower ranks than fine ones, by more than {APART}, at {', '.join(ordered) or 'no part'} of the run"
        + (f", and do not at {', '.join(others)}." if others else "."),
    ]


def head(model: str, seeds: int) -> str:
    return (
        "# Three properties of the latent space, measured\n\n"
        "Written by `bench/properties.py`. What Wang et al. 2025 find on Stable Diffusion 2.1, looked for on the demo model "
        f"`{INSTRUMENTS[model]}`, computed in {precision()}: euler, {SCHEDULERS[model]}, {STEPS} steps, cfg {CFG:g}, prompt `{SOURCE}`, "
        f"{seeds} seeds from {FIRST_SEED} up. Its latents have 4 channels of {SIDE} x {SIDE}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(INSTRUMENTS), default="portrait", help="which demo model draws")
    parser.add_argument("--seeds", type=int, default=size(12, 1), help="held-out seeds")
    options = parsed(parser, DOCS)
    start_host()
    with torch.inference_mode():
        bench = Bench(options.model, options.seeds, options.out)
        parts = {
            "Small neighbourhood": neighbourhood,
            "Encoded attributes": encoded,
            "Mobility in order": mobility,
            "What holds": holds,
        }
        write_report(
            options.out / f"properties{bench.suffix}.md",
            head(options.model, options.seeds),
            {title: lambda part=part: part(bench) for title, part in parts.items()},
        )


if __name__ == "__main__":
    main()
