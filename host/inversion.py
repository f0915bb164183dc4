"""The inversion of given pictures: the noise from which a run returns to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..core.sampling.ddim import sample_ddim
from ..core.sampling.inversion import ExactPath, OtherRun, invert, nearest, sample_along
from ..core.sampling.steering import Callback, Denoiser, Traits
from .carried import check_carries_none
from .denoisers import NoiseLevels, picture_share
from .progress import check_cancelled
from .runs import check_set, guided, run
from .samplers import EXACT_NAME
from .types import Conditioning, KSamplerX0Inpaint, Latent, LatentFormat
from .unedited import in_one_pass

SAME = 0.02  # how far a value of two encodings of one picture may be apart, as a share of the picture's largest


class InvertedNoise:
    """A NOISE from which a run starts at given running latents (b, ...), whatever latents the sampler node is given.

    inverted: the LATENT that they are of, by which a part of it is known again; None for a single one.
    """

    seed = 0

    def __init__(
        self, start: Tensor, sigma: float, model_sampling: NoiseLevels, latent_format: LatentFormat, inverted: Latent | None = None
    ) -> None:
        self.start, self.sigma, self.model_sampling, self.latent_format = start, sigma, model_sampling, latent_format
        self.pictures = None if inverted is None else inverted["samples"].cpu()
        self.indices = None if inverted is None else inverted.get("batch_index")

    def rows(self, latent: Latent) -> list[int]:
        """Which of the inverted pictures each latent is: the one that it equals up to rounding.

        For other latents, such as empty ones, that of its batch_index, by which the host's own noise is found again, or of
        its place. Raises ValueError for an index that no inverted picture had.
        """
        if len(self.start) == 1:
            return [0] * len(latent["samples"])
        assert self.pictures is not None  # None only of a single one
        asked = self._asked(latent)
        found, apart = nearest(latent["samples"].cpu(), self.pictures, asked)
        largest = self.pictures.flatten(1).abs().amax(1).tolist()
        rows = [row if far <= SAME * largest[row] else told for row, far, told in zip(found, apart.tolist(), asked, strict=True)]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            index = latent["batch_index"][rows.index(None)]
            raise ValueError(
                f"latent_image: batch_index {index} is none of the {len(self.start)} pictures that were inverted; "
                "connect the latent that went into Invert, or a part of it."
            )
        return known

    def _asked(self, latent: Latent) -> list[int | None]:
        count, indices = len(self.start), latent.get("batch_index")
        if indices is None or indices == self.indices:
            return [i % count for i in range(len(latent["samples"]))]
        own = self.indices or list(range(count))
        return [own.index(index) if index in own else None for index in indices]

    def generate_noise(self, input_latent: Latent) -> Tensor:
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

    path: ExactPath
    sigmas: tuple[float, ...]

    __name__ = EXACT_NAME
    traits = Traits(first_order=True)

    def __call__(
        self,
        model: Denoiser,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        if len(sigmas) != len(self.sigmas) or not torch.allclose(sigmas.cpu(), torch.tensor(self.sigmas), rtol=1e-4):
            raise ValueError("sigmas: the exact sampler needs the sigmas that Invert was given; connect the same node to both.")
        mask = (extra_args or {}).get("denoise_mask")
        options = {**(extra_args or {}), "denoise_mask": None}  # with it, the model would see the picture with plain noise around the mask
        try:
            return sample_along(model, x, sigmas, self.path.to(x), mask=mask, callback=callback, options=options)
        except OtherRun as error:
            raise ValueError(
                f"sampler: the inversion has {error.difference}; use the same sigmas and the same latents as Invert."
            ) from error


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

    def __init__(self, refinements: int, tolerance: float) -> None:
        self.refinements, self.tolerance = refinements, tolerance

    def __call__(
        self,
        model: KSamplerX0Inpaint,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        steps = len(sigmas) - 1
        bar = comfy.utils.ProgressBar(3 * steps)

        def denoised(x: Tensor, sigma: float) -> Tensor:
            check_cancelled()
            return model(x, sigma * x.new_ones(len(x)), **(extra_args or {}))

        trajectory = invert(
            denoised,
            model.latent_image.to(x),
            sigmas,
            refinements=self.refinements,
            tolerance=self.tolerance,
            on_step=lambda i, _: bar.update(1),
        )
        self.path = ExactPath.along(denoised, trajectory, sigmas)
        bar.update(steps)
        back = sample_ddim(model, trajectory[0], sigmas, options=extra_args)
        bar.update(steps)
        return back


def inverted(model: ModelPatcher, source: Conditioning, pictures: Sequence[Latent], sigmas: Tensor) -> Tensor:
    """The noise (n, c, h, w) from which the model draws given pictures under their prompt."""
    check_carries_none(model, "which has no way back")
    sizes = {tuple(latent["samples"].shape[1:]) for latent in pictures}
    if len(sizes) > 1:
        raise ValueError(
            f"pictures: of {len(sizes)} sizes ({', '.join(map(str, sorted(sizes)))}); scale or crop them to one size before VAE Encode."
        )
    samples = comfy.sample.fix_empty_latent_channels(model, torch.cat([latent["samples"] for latent in pictures]))
    check_set(samples)
    levels, latent_format, noise = model.get_model_object("model_sampling"), model.get_model_object("latent_format"), []
    for one in samples.split(1):
        inversion = Inversion(3, 1e-3)
        run(guided(in_one_pass(model), {"positive": source}), torch.zeros_like(one), inversion, sigmas, latent=one)
        start = InvertedNoise(inversion.path.trajectory[0].cpu(), float(sigmas[0]), levels, latent_format)
        noise.append(start.generate_noise({"samples": torch.zeros_like(one)}))
    return torch.cat(noise)
