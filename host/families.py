"""What a direction must have been found on to fit a model: its UNet, and the prediction type that is in force."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_sampling as sampling
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher

from ..core.hspace.direction import Family, check_same_family
from ..core.hspace.trained import AnyDirection
from .compiled import uncompiled
from .pixel_model import PixelDiffusion, is_unconditional

# By the classes that a node puts in a model's place, the most particular ones first. LCM's is one of EPS.
PREDICTIONS = (
    ("EDM", sampling.EDM),
    ("V_PREDICTION_EDM", sampling.V_PREDICTION, sampling.ModelSamplingContinuousEDM),
    ("V_PREDICTION_CONTINUOUS", sampling.V_PREDICTION, sampling.ModelSamplingContinuousV),
    ("V_PREDICTION", sampling.V_PREDICTION),
    ("IMG_TO_IMG_FLOW", sampling.IMG_TO_IMG_FLOW),
    ("FLOW", sampling.CONST),
    ("IMG_TO_IMG", sampling.IMG_TO_IMG),
    ("X0", sampling.X0),
    ("EPS", sampling.EPS),
)


def unet_of(model: ModelPatcher) -> UNetModel:
    """The model's UNet; ValueError for a model that has none, before anything is sampled."""
    network = uncompiled(model.get_model_object("diffusion_model"))
    if not isinstance(network, UNetModel):
        raise ValueError(
            f"model: {type(model.model).__name__} has no UNet with a middle block ({type(network).__name__} is a transformer "
            "or another design), so it has no h-space. Connect an SD 1.x, SD 2.x or SDXL checkpoint, or Portrait; the "
            "latent-space nodes (Spectrum Operation, Edit During Sampling) work on any family."
        )
    return network


def family_name(model: ModelPatcher) -> str:
    """The model's family by the class of its configuration in the host; of a pixel-space one, its checkpoint, too."""
    config = model.model.model_config
    return config.family if isinstance(config, PixelDiffusion) else type(config).__name__


def family_of(model: ModelPatcher) -> Family:
    """What a direction must have been found on to fit this model, by the prediction type that is in force."""
    unet = unet_of(model)
    return Family(family_name(model), prediction_in_force(model), int(unet.model_channels * unet.channel_mult[-1]))


def guidance(model: ModelPatcher, cfg: float) -> float:
    """The cfg of a run: 1, and so no second half of the prediction, for a model on which prompts have no effect."""
    return 1.0 if is_unconditional(model) else cfg


def check_reads_prompts(model: ModelPatcher, names: str, instead: str) -> None:
    """Raise ValueError for a model on which prompts have no effect. names: the inputs; instead: what to do."""
    if is_unconditional(model):
        raise ValueError(f"{names}: this pixel-space model is unconditional: prompts have no effect on it. {instead}")


def prediction_in_force(model: ModelPatcher) -> str:
    """The prediction type by the host's names: the checkpoint's, or that of a node such as ModelSamplingDiscrete."""
    in_force, checkpoint = model.get_model_object("model_sampling"), model.model.model_type.name
    if in_force is model.model.model_sampling:
        return checkpoint
    return next((name for name, *classes in PREDICTIONS if all(isinstance(in_force, c) for c in classes)), checkpoint)


def check_fits(model: ModelPatcher, direction: AnyDirection, name: str) -> None:
    """Raise ValueError for a direction of another family, or one that looks at another time embedding; name: its input.

    Directions saved by earlier versions say what the checkpoint predicts, whatever was in force: that fits, too.
    """
    family, found_on = family_of(model), direction.family
    if not found_on.fits(replace(family, prediction=model.model.model_type.name)):
        check_same_family(family, found_on, name)
    width = embedded_width(model)
    if direction.embedded not in (None, width):
        raise ValueError(
            f"{name}: it looks at a time embedding of {direction.embedded} channels, and that of this model has {width}. Connect the "
            "pixel-space checkpoint that it was made for."
        )


def embedded_width(model: ModelPatcher) -> int:
    """Channels of the time embedding, which are four times the model's own in the host's UNets."""
    return 4 * int(unet_of(model).model_channels)
