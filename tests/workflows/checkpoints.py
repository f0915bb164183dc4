"""Checkpoints in the layouts of real families, with random weights, as a user's own are: for stock Load Checkpoint."""

from __future__ import annotations

import zlib

import torch

WIDE = {
    "SD15": {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3,
    },
    "SDXL": {"channel_mult": [1, 2, 4]},
}
NARROW = {
    "SD15": {
        "channel_mult": [1, 1, 1, 1],
        "num_res_blocks": [1, 1, 1, 1],
        "transformer_depth": [1, 1, 1, 0],
        "transformer_depth_output": [1] * 6 + [0] * 2,
    },
    "SDXL": {"channel_mult": [1, 1, 1]},
}
UNETS = {  # what the host knows a family by
    "SD15": {
        "context_dim": 768,
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "num_heads": 8,
        "num_head_channels": -1,
    },
    "SDXL": {
        "context_dim": 2048,
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "num_heads": -1,
        "num_head_channels": 64,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}
DECODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
PERIOD = 1_000_003  # random numbers, with which weights are filled again and again


def fill(network):
    """Random weights that keep a signal's size on its way: matrices by their fan-in, scales of 1, shifts of 0."""
    noise = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0))
    network.requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            again = -(-weight.numel() // PERIOD)
            values = noise.roll(zlib.crc32(name.encode())).repeat(again)[: weight.numel()].view(weight.shape)
            weight.copy_(values / weight[0].numel() ** 0.5)
        elif name.endswith(("weight", "bias")):
            weight.fill_(float(name.endswith("weight")))
    return network


def write(path, family, whole=False):
    """Write a checkpoint of UNet, text encoders and VAE, in half precision, as the host's own node saves it.

    One that is not whole has a narrow UNet and the small TAESD.
    """
    from comfy.cli_args import args

    args.cpu = True  # before anything else of the host is imported
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.taesd.taesd import TAESD

    config = getattr(comfy.supported_models, family)({**COMMON, **UNETS[family], **(WIDE if whole else NARROW)[family]})
    config.set_inference_dtype(torch.float16, None)
    with torch.inference_mode():
        model = comfy.model_patcher.ModelPatcher(fill(config.get_model({}, "")), torch.device("cpu"), torch.device("cpu"))
        clip = comfy.sd.CLIP(config.clip_target())
        fill(clip.cond_stage_model)
        vae = fill(AutoencoderKL(ddconfig=DECODER, embed_dim=4) if whole else TAESD(latent_channels=4)).half()
        comfy.sd.save_checkpoint(str(path), model, clip, comfy.sd.VAE(sd=vae.state_dict()))
