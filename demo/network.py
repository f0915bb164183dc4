"""The host's own model classes, set up to be trained: VAE, text encoder, UNet, transformer and scorer."""

from __future__ import annotations

import copy
import os
import sys
from contextlib import contextmanager

import torch

if "comfy" not in sys.modules and os.environ.get("COMFYUI"):
    sys.path.insert(0, os.environ["COMFYUI"])
from comfy.cli_args import args as host_args

host_args.cpu = not torch.cuda.is_available()
import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.modules.attention  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.taesd.taesd  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from . import config  # noqa: E402

OPERATIONS = comfy.ops.disable_weight_init
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # of networks at work; their weights are kept in float32
QUICK_BFLOAT16 = DEVICE == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))  # other CPUs take a hundred times float32's time
LAYOUT = torch.channels_last if DEVICE == "cuda" else torch.contiguous_format  # of the VAE, which has no norms to undo it


@contextmanager
def in_training():
    """While it lasts, the host writes its rotary embedding in torch, which has gradients."""
    before, comfy.model_management.in_training = comfy.model_management.in_training, True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def initialise(module: torch.nn.Module) -> None:
    """Starting weights for the host's classes, which leave them empty."""
    for part in module.modules():
        if isinstance(part, (torch.nn.Linear, torch.nn.Conv2d)):
            torch.nn.init.kaiming_uniform_(part.weight, a=5**0.5)
            if part.bias is not None:
                torch.nn.init.zeros_(part.bias)
        elif isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.1)
        elif isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.RMSNorm)) and part.weight is not None:
            torch.nn.init.ones_(part.weight)
            if getattr(part, "bias", None) is not None:
                torch.nn.init.zeros_(part.bias)


def spare_inputs(module: torch.nn.Module) -> None:
    """Give each LayerNorm its own copy of its input: the host's blocks add to theirs in place, which autograd refuses."""
    for part in module.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.register_forward_pre_hook(lambda module, args: (args[0].clone(),))


def zero(module: torch.nn.Module, *names: str) -> None:
    """Zero the parameters whose names contain one of `names`: residual branches that start as the identity."""
    for name, parameter in module.named_parameters():
        if any(part in name for part in names):
            torch.nn.init.zeros_(parameter)


class TextModel(comfy.clip_model.CLIPTextModel):
    """CLIP's text transformer over the captions' own vocabulary."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.set_input_embeddings(operations.Embedding(config.WORDS, config.WIDTH, dtype=dtype, device=device))

    def encode(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (b, tokens, width) and pooled (b, width), as the host computes them, without its sums in place."""
        text = self.text_model
        x = text.embeddings(tokens)
        causal = torch.full((x.shape[1], x.shape[1]), -torch.finfo(x.dtype).max, device=x.device, dtype=x.dtype).triu_(1)
        attention = comfy.ldm.modules.attention.attention_pytorch
        for layer in text.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), causal, attention)
            x = x + layer.mlp(layer.layer_norm2(x))
        x = text.final_layer_norm(x)
        ends = (tokens == text.eos_token_id).int().argmax(1)
        return x, x[torch.arange(len(x), device=x.device), ends]


def text_model() -> TextModel:
    model = TextModel(config.TEXT_CONFIG, torch.float32, "cpu", OPERATIONS)
    initialise(model)
    torch.nn.init.eye_(model.text_projection.weight)
    return model


def vae() -> comfy.taesd.taesd.TAESD:
    model = comfy.taesd.taesd.TAESD(latent_channels=config.LATENT_CHANNELS)
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                torch.nn.init.zeros_(part.bias)
    for part in model.modules():
        if isinstance(part, comfy.taesd.taesd.Block):  # a block's sum starts near its input
            part.conv[4].weight.data.mul_(0.1)
    model.taesd_decoder[-1].weight.data.mul_(0.1)
    model.taesd_decoder[-1].bias.data.fill_(0.5)
    model.requires_grad_(True)
    model.vae_scale.requires_grad_(False), model.vae_shift.requires_grad_(False)
    return model


def unet() -> UNetModel:
    model = UNetModel(**config.UNET_CONFIG, operations=OPERATIONS)
    initialise(model)
    zero(model, "out.2.", ".out_layers.3.", ".proj_out.")
    return model


def transformer() -> comfy.ldm.flux.model.Flux:
    model = comfy.ldm.flux.model.Flux(**copy.deepcopy(config.DIT_CONFIG), operations=OPERATIONS)
    initialise(model)
    zero(model, "_mod.lin.", ".modulation.lin.", "final_layer.")
    spare_inputs(model)
    return model


def scorer() -> comfy.clip_model.CLIPVisionModelProjection:
    model = comfy.clip_model.CLIPVisionModelProjection(config.SCORER_CONFIG, torch.float32, "cpu", OPERATIONS)
    for name, weight in model.named_parameters():
        is_scale = "norm" in name and "weight" in name
        torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else torch.nn.init.constant_(weight, float(is_scale))
    spare_inputs(model)
    return model


def alpha_bar() -> torch.Tensor:
    """alpha-bar (1000,) of the schedule that the host builds for the UNet's family."""
    betas = torch.linspace(0.00085**0.5, config.LINEAR_END**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0).float()


def shifted(u: torch.Tensor) -> torch.Tensor:
    """Flux's time shift of noise levels in [0, 1]."""
    factor = torch.tensor(config.FLOW_SHIFT, dtype=torch.float64).exp().item()
    return factor * u / (1 + (factor - 1) * u)
