"""MODEL, VAE and CONDITIONING of a pixel-space checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..core.hspace.direction import PIXEL
from ..core.pixel.configuration import Reading
from ..core.pixel.file import Checkpoint
from ..core.pixel.schedule import noise_levels
from .pixel_unet import PixelUNet
from .types import VAE, Conditioning, WrapperExecutor

KEY = "semantic_latents_pixel"
LABEL = "semantic_latents_label"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_LABEL = 999_999
RANGES = ("timestep_start", "timestep_end")


class PixelSpace(comfy.latent_formats.LatentFormat):
    """Pictures themselves, with values from -1 to 1."""

    scale_factor = 1.0
    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class PixelDiffusion(comfy.supported_models_base.BASE):
    """What the host asks of a model family, for one checkpoint. family: its name, by which directions know it."""

    unet_extra_config: dict[str, Any] = {}
    latent_format = PixelSpace
    memory_usage_factor = 0.5

    def __init__(self, checkpoint: Checkpoint, reading: Reading) -> None:
        configuration = checkpoint.configuration
        shown = {
            "model_channels": configuration.width,
            "channel_mult": configuration.multipliers,
            "in_channels": 3,
            "out_channels": 3,
        }
        super().__init__({**shown, "configuration": configuration, "reading": reading})
        self.family = f"{PIXEL} {checkpoint.identity}"
        # for nodes that make a sampling of their own; the checkpoint's own levels are those of noise_levels
        self.sampling_settings = {
            "beta_schedule": "sqrt_linear" if reading.schedule == "linear" else "cosine",
            "linear_start": 1e-4,
            "linear_end": 2e-2,
        }

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raises ValueError: a saved file would not say how its weights are to be read."""
        raise ValueError("model: a pixel-space model cannot be saved, as no key would say how to read it. Keep the file that it came from.")


class PixelModel(comfy.model_base.BaseModel):
    """The host's model around a pixel-space network, with that network's noise levels."""

    def __init__(self, config: PixelDiffusion, device: torch.device | None = None) -> None:
        super().__init__(config, comfy.model_base.ModelType.EPS, device, PixelUNet)
        reading: Reading = config.unet_config["reading"]
        self.model_sampling.set_sigmas(noise_levels(reading.schedule, reading.steps))
        self.classes: int | None = config.unet_config["configuration"].classes

    def encode_adm(self, **kwargs: Any) -> Tensor | None:
        """The label of a prompt, (1,); None for a network without. Raises ValueError for a prompt that has none."""
        if self.classes is None:
            return None
        if LABEL not in kwargs:
            raise ValueError(
                "positive, negative: this model draws classes, and the prompt names none. Connect the conditioning of Load Pixel "
                "Diffusion Model."
            )
        return torch.tensor([kwargs[LABEL]])


def is_unconditional(model: ModelPatcher) -> bool:
    """Whether the model predicts the same under all prompts, so that guidance has no meaning."""
    return isinstance(model.model, PixelModel) and model.model.classes is None


def once_for_all_prompts(
    executor: WrapperExecutor,
    model: PixelModel,
    conds: list[list[dict[str, Any]] | None],
    x_in: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
) -> list[Tensor]:
    """CALC_COND_BATCH wrapper of an unconditional model: the prediction under the first prompt stands for those under all others."""
    first = next((i for i, cond in enumerate(conds) if cond), None)
    if first is None:
        return executor(model, conds, x_in, timestep, model_options)
    entry = {key: value for key, value in (conds[first] or [{}])[0].items() if key not in RANGES}  # in force at every step
    found = executor(model, [[entry] if i == first else None for i in range(len(conds))], x_in, timestep, model_options)
    return [found[first].clone() if cond and i != first else found[i] for i, cond in enumerate(conds)]


def model_of(checkpoint: Checkpoint, reading: Reading, dtype: torch.dtype) -> ModelPatcher:
    """The MODEL of a checkpoint, its weights of this type. Raises ValueError for heads that do not divide the channels."""
    for channels in checkpoint.configuration.attentions():
        reading.heads_of(channels)
    device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    config = PixelDiffusion(checkpoint, reading)
    cast = comfy.model_management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    model = PixelModel(config, offload)
    model.diffusion_model.load_state_dict(checkpoint.weights)
    patcher = comfy.model_patcher.CoreModelPatcher(model, device, offload)
    if checkpoint.configuration.classes is None:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, once_for_all_prompts)
    return patcher


def pixel_vae() -> VAE:
    """The host's VAE that takes pictures for latents."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def conditioning_of(checkpoint: Checkpoint, label: int) -> Conditioning:
    """An empty prompt, with a label for a network that draws classes. Raises ValueError for a label that it has not."""
    classes = checkpoint.configuration.classes
    if classes is None:
        return [[torch.zeros(1, 1, 1), {}]]
    if label >= classes:
        raise ValueError(f"label: got {label}; this network has the {classes} classes 0 to {classes - 1}.")
    return [[torch.zeros(1, 1, 1), {LABEL: label}]]


def described(path: Path, checkpoint: Checkpoint, reading: Reading) -> str:
    """What a checkpoint is and how it is read, a line for each."""
    c, deepest = checkpoint.configuration, checkpoint.configuration.levels[-1].channels
    return "\n".join(
        [
            f"{path.name}: {checkpoint.layout.name} layout, identity {checkpoint.identity}",
            f"channels {c.width} x {', '.join(f'{m:g}' for m in c.multipliers)}; h: {deepest}, at 1/{2 ** (len(c.levels) - 1)} of a side",
            f"heads at h {reading.heads_of(deepest)}, attention order {reading.order}, conventions of {reading.conventions}",
            f"{reading.schedule} noise schedule of {reading.steps} steps",
            "no classes" if c.classes is None else f"{c.classes} classes",
        ]
    )
