"""Sizes of the portrait models; none of them needs the host to be read."""

from __future__ import annotations

from .captions import END, MAX_TOKENS, VOCABULARY

WIDTH = 128  # of the text encoder
TEXT_CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": MAX_TOKENS,
    "eos_token_id": END,
}
WORDS = len(VOCABULARY)

LATENT_CHANNELS, LATENT_SIZE, DOWNSCALE = 4, 32, 8

# As Stable Diffusion 1.5: cross-attention beside each residual block of every level, in encoder, middle and decoder.
UNET_CONFIG = {
    "image_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1] * 6,
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "num_head_channels": 32,
    "num_heads": -1,
}
LINEAR_END = 0.02  # of the noise schedule: sigma_max 66, as at SD's 14.6 the mean colour of 32 x 32 latents is still seen

# Flux at width 192: double and single blocks, patches of 2, so 256 picture tokens.
DIT_CONFIG = {
    "image_model": "flux",
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "patch_size": 2,
    "vec_in_dim": WIDTH,
    "context_in_dim": WIDTH,
    "hidden_size": 192,
    "mlp_ratio": 4.0,
    "num_heads": 6,
    "depth": 3,
    "depth_single_blocks": 5,
    "axes_dim": [4, 14, 14],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
FLOW_SHIFT = 0.5  # Flux's own for 256 picture tokens: noise levels move towards high noise by a factor of exp(0.5)

SCORER_CONFIG = {
    "model_type": "clip_vision_model",
    "image_size": 128,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "num_channels": 3,
    "patch_size": 16,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "intermediate_size": 384,
    "hidden_act": "gelu",
    "projection_dim": WIDTH,
}
