"""Sampling processes: DDIM with quality boosting, and the inversion of a given picture (Kwon et al. 2023; Song et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy.k_diffusion.sampling import default_noise_sampler
from comfy.samplers import KSAMPLER
from comfy_api.latest import io
from torch import Tensor

from ..core.asyrp import sample_ddim
from ..core.inversion import Path, invert, nearest, sample_along
from .denoisers import levels_of, picture_share
from .hspace import SIGMA_DOWN, check_no_asymmetric_edit
from .latents import fitted
from .node import checked
from .seeds import countable
from .types import CATEGORY

SAME = 0.02  # how far a value of two encodings of one picture may be apart, as a share of the picture's largest


@dataclass(frozen=True)
class DDIM:
    """The sampler function of DDIM Sampler."""

    eta: float
    boost_percent: float

    __name__ = "sample_ddim"

    @property
    def draws_noise(self) -> bool:
        return self.eta > 0 or self.boost_percent < 1

    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None, **options: Any) -> Tensor:
        extra_args = extra_args or {}
        levels = levels_of(model)
        boost = levels.percent_to_sigma(self.boost_percent) if self.boost_percent < 1 else 0.0
        noise = default_noise_sampler(x, seed=countable(extra_args.get("seed")))
        return sample_ddim(
            model,
            x,
            sigmas,
            eta=self.eta,
            boost_below=boost,
            flow=picture_share(levels, 0.5) < 1,
            noise=noise,
            callback=callback,
            announce=lambda down: announced(extra_args, down),
        )


def announced(extra_args: dict[str, Any], down: float) -> dict[str, Any]:
    """A model call's arguments with the level that the step's deterministic part goes down to."""
    model_options = extra_args.get("model_options", {})
    told = {**model_options.get("transformer_options", {}), SIGMA_DOWN: down}
    return {**extra_args, "model_options": {**model_options, "transformer_options": told}}


class DDIMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_DDIMSampler",
            display_name="DDIM Sampler",
            category=CATEGORY,
            description="DDIM with an adjustable share of fresh noise, and fresh noise at the end of the run only, which sharpens edited "
            "pictures (quality boosting). Equals the host's ddim as it stands.",
            search_aliases=["ddim", "eta", "asyrp", "quality boosting", "stochastic", "sampler"],
            inputs=[
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of fresh noise in every step: 0 is deterministic, 1 is ancestral.",
                ),
                io.Float.Input(
                    "boost_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="From this part of the run on, every step takes fresh noise (eta 1): 0.8 is a good start, 1 turns it off.",
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    "sampler", tooltip="For SamplerCustom and SamplerCustomAdvanced; takes asymmetric edits of Apply Direction."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, eta, boost_percent) -> io.NodeOutput:
        return io.NodeOutput(KSAMPLER(DDIM(eta, boost_percent)))


class InvertedNoise:
    """A NOISE from which a run starts at given running latents (b, ...), whatever latents the sampler node is given.

    inverted: the LATENT that they are of, by which a part of it is known again; None for a single one.
    """

    seed = 0

    def __init__(self, start: Tensor, sigma: float, model_sampling: Any, latent_format: Any, inverted: dict[str, Any] | None = None):
        self.start, self.sigma, self.model_sampling, self.latent_format = start, sigma, model_sampling, latent_format
        self.pictures = None if inverted is None else inverted["samples"].cpu()
        self.indices = None if inverted is None else inverted.get("batch_index")

    def rows(self, latent: dict[str, Any]) -> list[int]:
        """Which of the inverted pictures each latent is: the one that it equals up to rounding.

        For other latents, such as empty ones, that of its batch_index, by which the host's own noise is found again, or of
        its place. Raises ValueError for an index that no inverted picture had.
        """
        if len(self.start) == 1:
            return [0] * len(latent["samples"])
        asked = self._asked(latent)
        found, apart = nearest(latent["samples"].cpu(), self.pictures, asked)
        largest = self.pictures.flatten(1).abs().amax(1).tolist()
        rows = [row if far <= SAME * largest[row] else told for row, far, told in zip(found, apart.tolist(), asked, strict=True)]
        if None in rows:
            index = latent["batch_index"][rows.index(None)]
            raise ValueError(
                f"latent_image: batch_index {index} is none of the {len(self.start)} pictures that were inverted; "
                "connect the latent that went into Invert, or a part of it."
            )
        return rows

    def _asked(self, latent: dict[str, Any]) -> list[int | None]:
        count, indices = len(self.start), latent.get("batch_index")
        if indices is None or indices == self.indices:
            return [i % count for i in range(len(latent["samples"]))]
        own = self.indices or list(range(count))
        return [own.index(index) if index in own else None for index in indices]

    def generate_noise(self, input_latent: dict[str, Any]) -> Tensor:
        """Noise (b, c, h, w) that the host scales and adds to the latent; ValueError for a latent of another size."""
        latent = input_latent["samples"].cpu()
        if latent.shape[1:] != self.start.shape[1:]:
            raise ValueError(
                f"latent_image: got {tuple(latent.shape[1:])}, the inverted picture has {tuple(self.start.shape[1:])}; connect "
                "the latent that went into Invert."
            )
        start = self.start[self.rows(input_latent)]
        if latent.count_nonzero():
            latent = self.latent_format.process_in(latent)
        largest = float(self.model_sampling.sigma_max)
        full = abs(self.sigma - largest) <= 1e-5 * max(self.sigma, largest) or self.sigma > largest
        unit = self.model_sampling.noise_scaling(torch.tensor(self.sigma), torch.ones(1), torch.zeros(1), full)
        return (start - picture_share(self.model_sampling, self.sigma) * latent) / unit


@dataclass(frozen=True, eq=False)
class AlongPath:
    """The sampler function that leads an unedited run back to the inverted picture."""

    path: Path
    sigmas: tuple[float, ...]

    __name__ = "sample_ddim"

    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None, **options: Any) -> Tensor:
        if len(sigmas) != len(self.sigmas) or not torch.allclose(sigmas.cpu(), torch.tensor(self.sigmas), rtol=1e-4):
            raise ValueError("sigmas: the exact sampler needs the sigmas that Invert was given; connect the same node to both.")
        mask = (extra_args or {}).get("denoise_mask")
        options = {**(extra_args or {}), "denoise_mask": None}  # with it, the model would see the picture with plain noise around the mask
        return sample_along(model, x, sigmas, self.path.to(x), mask=mask, callback=callback, options=options)


class Invert(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_Invert",
            display_name="Invert",
            category=CATEGORY,
            description="Finds the noise from which a real picture would be drawn, so that it can be edited like a generated one.",
            search_aliases=["inversion", "ddim inversion", "unsampler", "real image", "edit photo", "noise"],
            inputs=[
                io.Model.Input("model", tooltip="The model that you will draw with, without edits."),
                io.Conditioning.Input("positive", tooltip="A prompt that describes the picture; use the same one for drawing it again."),
                io.Latent.Input("latent", tooltip="The picture, from VAE Encode."),
                io.Sigmas.Input(
                    "sigmas", tooltip="From BasicScheduler, down to 0; use the same ones for drawing. More steps invert more exactly."
                ),
                io.Int.Input(
                    "refinements",
                    default=5,
                    min=0,
                    max=100,
                    tooltip="How often each step is corrected at most; 0 is plain DDIM inversion. Each costs one more model call.",
                ),
                io.Float.Input(
                    "tolerance",
                    default=0.0001,
                    min=0.0,
                    max=0.1,
                    step=0.00001,
                    round=0.0000001,
                    tooltip="A step is done when a correction changes less than this, in units of the noise.",
                ),
            ],
            outputs=[
                io.Noise.Output(
                    "noise", tooltip="For SamplerCustomAdvanced, with the same sigmas and the latent that came in or an empty one."
                ),
                io.Latent.Output(
                    "latent",
                    tooltip="The same as a noisy latent, for KSampler (Advanced) with add_noise disabled; a flow model (SD3, "
                    "Flux) takes it only from below its highest noise level.",
                ),
                io.Sampler.Output(
                    "exact",
                    tooltip="A sampler that returns to the picture exactly as long as nothing is edited; same sigmas, same prompt, cfg 1.",
                ),
                io.Float.Output(
                    "error",
                    tooltip="Root mean square difference of the picture drawn again by plain ddim, in units of the latent's own deviation.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model, positive, latent, sigmas, refinements, tolerance) -> io.NodeOutput:
        check_schedule(sigmas)
        check_no_asymmetric_edit(model, "which has no way back")
        latent = fitted(model, latent)
        inverse = Inversion(refinements, tolerance)
        back = run(model, positive, latent["samples"], sigmas, inverse)
        levels, latent_format = model.get_model_object("model_sampling"), model.get_model_object("latent_format")
        start, clean = inverse.path.trajectory[0].cpu(), inverse.path.trajectory[-1].cpu()
        noise = InvertedNoise(start, float(sigmas[0]), levels, latent_format, latent)
        exact = KSAMPLER(AlongPath(inverse.path.to(start), tuple(sigmas.tolist())))
        drawn = latent_format.process_in(back.cpu())
        error = (drawn - clean).square().mean().sqrt() / clean.std().clamp(min=1e-12)
        noisy = start / (picture_share(levels, float(sigmas[0])) or 1.0)
        return io.NodeOutput(noise, {**latent, "samples": latent_format.process_out(noisy)}, exact, float(error))


def check_schedule(sigmas: Tensor) -> None:
    """Raise ValueError unless sigmas go down to 0 and have a step."""
    if len(sigmas) < 2:
        raise ValueError("sigmas: no step to invert; connect BasicScheduler with at least 1 step and denoise above 0.")
    if float(sigmas[-1]) != 0 or not bool((sigmas[:-1] > sigmas[1:]).all()):
        raise ValueError(
            f"sigmas: must go down to 0, got {float(sigmas[0]):.4g} to {float(sigmas[-1]):.4g}; connect the whole schedule, "
            "not a part of it."
        )


class Inversion:
    """A sampler function that goes up instead of down, then once more down to see the error. Made for one run."""

    __name__ = "invert"

    def __init__(self, refinements: int, tolerance: float):
        self.refinements, self.tolerance = refinements, tolerance

    def __call__(self, model, x: Tensor, sigmas: Tensor, extra_args=None, callback=None, disable=None, **options: Any) -> Tensor:
        steps = len(sigmas) - 1
        bar = comfy.utils.ProgressBar(3 * steps)

        def denoised(x: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))

        trajectory = invert(
            denoised,
            model.latent_image.to(x),
            sigmas,
            refinements=self.refinements,
            tolerance=self.tolerance,
            on_step=lambda i, _: bar.update(1),
        )
        self.path = Path.along(denoised, trajectory, sigmas)
        bar.update(steps)
        back = sample_ddim(model, trajectory[0], sigmas, options=extra_args)
        bar.update(steps)
        return back


def run(model: Any, positive: Any, samples: Tensor, sigmas: Tensor, function: Any) -> Tensor:
    """The host's guidance at cfg 1 around a sampler function that starts from the latent itself."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    return guider.sample(torch.zeros_like(samples), samples, KSAMPLER(function), sigmas, disable_pbar=True)


NODES = [DDIMSampler, Invert]
