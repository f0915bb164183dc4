"""What training a direction gives on the demo model, measured: `docs/training.md` and its pictures.

    COMFYUI=<host's folder> python bench/training.py [--seeds 40]

Directions are trained on seeds from 600 000 up, windows and thresholds calibrated on seeds from 500 000 up, and all is
judged on seeds from 900 000 up by the attribute classifier, through the pack's own nodes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stage import FIRST_SEED, ROOT, SOURCE, Stage, frechet, kept_at, sheet, start_host, written  # noqa: E402

STEPS, CFG, END = 15, 3.0, 0.8
TRAINED_FROM, TUNED_FROM = 600_000, 500_000
TARGETS = {"smile": "smiling", "glasses": "sunglasses", "beard": "beard", "hat": "hat", "skin": "dark"}
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
EQUAL = 0.8
IMAGES = 32
WAYS = ("two prompts", "prompt matching", "CLIP directional")


class Bench(Stage):
    """The demo model with directions for each attribute: from two prompts, and trained for both objectives."""

    def __init__(self, seeds: int):
        from pack.nodes.scoring import DemoScorer

        super().__init__(TARGETS)
        self.seeds, self.scorer = seeds, DemoScorer.execute().args[0]
        self.base = self.draw(self.model)
        self.directions, self.losses = {}, {}
        for name in tqdm(TARGETS, "training"):
            self.directions[name, "two prompts"] = self.find_direction(name, IMAGES, 16, 20, CFG, TRAINED_FROM)
            for way in WAYS[1:]:
                self.directions[name, way], self.losses[name, way] = self.train(name, way)

    def train(self, name: str, way: str, **changes):
        """The trained direction of an attribute's target value, and its losses."""
        scored = dict(clip_vision=self.scorer, clip=self.clip, source_text=SOURCE, target_text=self.prompt(name), **CLIP_SETTINGS) if way == WAYS[2] else {}
        direction, losses, _ = self.train_direction(name, objective=way, images=IMAGES, seed=TRAINED_FROM, **scored, **changes)
        return direction, losses["loss"]

    def edited(self, direction, strength: float, *, end: float = END, asymmetric: bool = False, form: str = "full", model=None):
        from pack.nodes.directions import ApplyDirection

        if strength == 0:
            return model or self.model
        return ApplyDirection.execute(model or self.model, direction, strength, 0.0, end, 0.0, "both", asymmetric, False, None, form).args[0]

    def draw(self, model, *, first: int = FIRST_SEED, seeds: int = 0, boost: float = 1.0, prompt: str = SOURCE, steps: int = STEPS) -> Tensor:
        """Pictures (n, 3, h, w) in [-1, 1] by DDIM, with fresh noise from boost on."""
        from comfy_extras.nodes_custom_sampler import BasicScheduler, SamplerCustom
        from pack.nodes.processes import DDIMSampler

        sampler, sigmas = DDIMSampler.execute(0.0, boost).args[0], BasicScheduler.execute(self.model, "normal", steps, 1.0).args[0]
        noise = self.noise(seeds or self.seeds, first)
        import comfy.samplers

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.encode(prompt), self.encode(""))
        guider.set_cfg(CFG)
        del SamplerCustom
        return self.vae.decode(guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=first)).movedim(-1, 1) * 2 - 1

    def logits(self, pictures: Tensor, name: str) -> Tensor:
        """The judge's log-odds (n,) of the attribute's target value."""
        with torch.no_grad():
            odds = self.judge(pictures.float())[name].log_softmax(1)
        at = self.faces.ATTRIBUTES[name].index(self.targets[name])
        return odds[:, at] - torch.cat([odds[:, :at], odds[:, at + 1:]], 1).logsumexp(1)
