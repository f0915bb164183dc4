"""The demo model and narrow models of real families, with what a user does with them."""

from typing import NamedTuple

import torch

from pack.tests.wiring import node


class World:
    """A model, `vae` and `encode` for it, and what a user wires to them."""

    def sigmas(self, steps=6, scheduler="normal", model=None):
        return node("custom_sampler.BasicScheduler", model=model or self.model, scheduler=scheduler, steps=steps, denoise=1.0)

    def wired(self, sampler, *, steps=6, sigmas=None, noise=None, seed=1, cfg=2.0, latent=None, prompt="a portrait", model=None):
        """The inputs of SamplerCustomAdvanced."""
        prompts = dict(positive=self.encode(prompt), negative=self.encode(""))
        return dict(
            noise=noise or node("custom_sampler.RandomNoise", noise_seed=seed),
            guider=node("custom_sampler.CFGGuider", model=model or self.model, cfg=cfg, **prompts),
            sampler=sampler,
            sigmas=self.sigmas(steps) if sigmas is None else sigmas,
            latent_image=latent or self.empty(),
        )

    def sample(self, sampler, *, steps=6, latent=None, seed=1, cfg=2.0, prompt="a portrait, red hair", model=None, scheduler="normal"):
        """SamplerCustom's latent for a SAMPLER."""
        return node(
            "custom_sampler.SamplerCustom",
            model=model or self.model,
            add_noise=True,
            noise_seed=seed,
            cfg=cfg,
            positive=self.encode(prompt),
            negative=self.encode(""),
            sampler=sampler,
            sigmas=self.sigmas(steps, scheduler, model),
            latent_image=latent or self.empty(),
        )["samples"]


class Demo(World):
    """The demo checkpoint as the host's stock nodes load and use it."""

    def __init__(self):
        import nodes

        self.nodes = nodes
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint("semantic_latents_portrait.safetensors")

    def encode(self, prompt):
        with torch.inference_mode():
            return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def empty(self, batch=1, size=8, width=None):
        """A quarter of a portrait's side; a step on whole ones costs more than ten times as much."""
        return {"samples": torch.zeros(batch, 4, size, width or size)}


SMALL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "num_head_channels": 16,
    "num_heads": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
}
STREAMS = {  # a block of two streams and one of a single stream
    "hidden_size": 64,
    "num_heads": 2,
    "axes_dim": [8, 12, 12],
    "depth": 1,
    "depth_single_blocks": 1,
    "context_in_dim": 48,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
}
NEXT = {  # what Lumina 2 and Z-Image have in common
    "in_channels": 16,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
    "cap_feat_dim": 48,
    "qk_norm": True,
}
FAMILIES = {  # by the host's class; a word after its name tells one of several apart
    "SD15": {**SMALL, "context_dim": 768},
    "SD20": {**SMALL, "context_dim": 1024},
    "SD15 inpaint": {**SMALL, "context_dim": 768, "in_channels": 9},
    "SD15 distilled": {**SMALL, "context_dim": 768, "transformer_depth_middle": -2},  # without a middle block, as KOALA and SDXS are
    "SD15 shallow": {
        **SMALL,
        "context_dim": 768,
        "num_res_blocks": [1, 1],
        "channel_mult": [1, 2],
        "transformer_depth": [0, 0],
        "transformer_depth_output": [0] * 4,
    },
    **dict.fromkeys(("SDXL", "SDXL v_pred"), {**SMALL, "context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816}),
    "SD3": {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "depth": 1,
        "num_blocks": 2,
        "input_size": None,
        "adm_in_channels": 32,
        "qk_norm": "rms",
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 64}},
    },
    "Flux": {
        **STREAMS,
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 32,
        "theta": 10000,
        "guidance_embed": True,
        "txt_ids_dims": [],
    },
    "WAN21_T2V": {"in_dim": 16, "out_dim": 16, "dim": 64, "num_heads": 2, "num_layers": 2, "ffn_dim": 128, "text_dim": 48},
    "Flux2": {
        **STREAMS,
        "in_channels": 128,
        "out_channels": 128,
        "patch_size": 1,
        "axes_dim": [8, 8, 8, 8],
        "vec_in_dim": None,
        "mlp_ratio": 3.0,
        "theta": 2000,
        "qkv_bias": False,
        "guidance_embed": True,
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
        "default_ref_method": "index",
        "ref_index_scale": 10.0,
    },
    "Chroma": {
        **STREAMS,
        "in_channels": 64,
        "out_channels": 64,
        "patch_size": 2,
        "vec_in_dim": None,
        "theta": 10000,
        "txt_ids_dims": [],
        "in_dim": 64,
        "out_dim": 64,
        "hidden_dim": 64,
        "n_layers": 1,
    },
    "HunyuanVideo": {
        **STREAMS,
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "vec_in_dim": 32,
        "theta": 256,
        "guidance_embed": True,
        "byt5": False,
        "meanflow": False,
        "meanflow_sum": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
    },
    "QwenImage": {
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 48,
        "axes_dims_rope": (8, 12, 12),
    },
    "Lumina2": {**NEXT, "dim": 64, "n_kv_heads": 1, "axes_dims": [8, 12, 12], "axes_lens": [300, 512, 512]},
    "ZImage": {  # its timestep is embedded in 256 channels, and it is no narrower
        **NEXT,
        "dim": 256,
        "n_kv_heads": 2,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "rope_theta": 256.0,
        "z_image_modulation": True,
        "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    },
    "LTXV": {
        "in_channels": 128,
        "cross_attention_dim": 64,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "caption_channels": 48,
        "num_layers": 2,
    },
    "CosmosT2IPredict2": {
        "max_img_h": 240,
        "max_img_w": 240,
        "max_frames": 128,
        "in_channels": 16,
        "out_channels": 16,
        "patch_spatial": 2,
        "patch_temporal": 1,
        "model_channels": 64,
        "num_blocks": 2,
        "num_heads": 2,
        "crossattn_emb_channels": 48,
        "pos_emb_cls": "rope3d",
        "pos_emb_learnable": True,
        "use_adaln_lora": True,
        "adaln_lora_dim": 16,
        "rope_h_extrapolation_ratio": 4.0,
        "rope_w_extrapolation_ratio": 4.0,
        "rope_enable_fps_modulation": False,
    },
    "Krea2": {"features": 64, "heads": 2, "kvheads": 1, "layers": 2, "txtdim": 32, "txtlayers": 3, "txtheads": 2, "txtkvheads": 2},
    "HiDream": {
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "caption_channels": [48, 48],
        "text_emb_dim": 32,
        "axes_dims_rope": [16, 8, 8],
        "llama_layers": [0, 1],
    },
    "PixArtSigma": {
        "input_size": 128,
        "pe_interpolation": 2,
        "hidden_size": 64,
        "num_heads": 2,
        "depth": 2,
        "caption_channels": 48,
        "model_max_length": 77,
        "micro_condition": False,
    },
    "AuraFlow": {"dim": 64, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 64, "cond_seq_dim": 48, "max_seq": 256},
}
WIDTHS = {  # of a prompt's tokens and of its pooled embedding
    "SDXL": (2048, 1280),
    "SD3": (48, 32),
    "Flux": (48, 32),
    "WAN21_T2V": (48, 0),
    **dict.fromkeys(("Flux2", "Chroma", "QwenImage", "Lumina2", "ZImage", "LTXV", "CosmosT2IPredict2", "PixArtSigma", "AuraFlow"), (48, 0)),
    "HunyuanVideo": (48, 32),
    "Krea2": (96, 0),  # 3 layers of its text encoder beside each other
    "HiDream": (48, 32),
}
VIDEO = ("WAN21_T2V", "HunyuanVideo", "LTXV")  # of latents with frames; other latents of three dimensions have one


class TextEncoder(NamedTuple):
    """What a family's text encoder gives for a prompt, beside its width.

    tokens: how many, or None for as many as there are words, and two more. masked: whether it says which of them are not padding.
    layers: how many layers of a second encoder it gives, (1, layers, tokens, width), for the families that read one in each block.
    size: of its values, above 1 where a network of random weights answers little to words.
    """

    tokens: int | None = 77
    masked: bool = False
    layers: int = 0
    size: float = 1.0


ENCODERS = {
    **dict.fromkeys(("Flux2", "Chroma", "HunyuanVideo", "QwenImage", "Krea2"), TextEncoder(tokens=None)),
    "PixArtSigma": TextEncoder(tokens=None, size=8.0),
    **dict.fromkeys(("Lumina2", "ZImage"), TextEncoder(tokens=None, masked=True)),
    "LTXV": TextEncoder(masked=True),
    "HiDream": TextEncoder(layers=2),
}
SETTINGS = {  # what nodes for a family put beside a run's prompts
    **dict.fromkeys(("Flux", "Flux2", "HunyuanVideo"), {"guidance": 4.0}),
    "LTXV": {"frame_rate": 24.0},
}
LEAST = {"PixArtSigma": 34}  # cells of a side; of fewer its positions have no scale


def known(family):
    """Whether this host has the family."""
    import comfy.supported_models

    return hasattr(comfy.supported_models, family.split()[0])


class AnyVae:
    """Stands in for a VAE: three channels of the latent as a picture, a picture's cells of 8 x 8 as a latent."""

    def decode(self, x):
        return x[:, :3].movedim(1, -1).clamp(0, 1)

    def encode(self, pixels):
        cells = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([cells, cells.mean(1, keepdim=True)], 1)


class AnyClip:
    """Stands in for a CLIP: encodes words as its world does."""

    def __init__(self, world):
        self.world = world

    def tokenize(self, words):
        return words

    def encode_from_tokens_scheduled(self, words):
        return self.world.encode(words)


class Shaped(World):
    """A model of a real family's class, prediction type and conditioning, with a narrow network of random weights."""

    def __init__(self, family, dtype=torch.float32, cast=None):
        import comfy.model_patcher
        import comfy.supported_models

        config = getattr(comfy.supported_models, family.split()[0])(FAMILIES[family])
        config.set_inference_dtype(dtype, cast)
        generator = torch.Generator().manual_seed(5)
        v_mark = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.randn(64, generator=generator)}
        network = config.get_model({**v_mark, **dict.fromkeys(family.split()[1:], torch.zeros(0))}, "")
        network.requires_grad_(False)
        for name, weight in network.diffusion_model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise / weight[0].numel() ** 0.5 if weight.ndim > 1 else 1 + 0.1 * noise if "weight" in name else 0.1 * noise)
        self.model = comfy.model_patcher.CoreModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
        self.vae, self.clip, self.latent, self.inpaints = AnyVae(), AnyClip(self), network.latent_format, bool(network.concat_keys)
        self.width, self.pooled = WIDTHS.get(family.split()[0], (FAMILIES[family].get("context_dim"), 0))
        self.encoder, self.settings = ENCODERS.get(family, TextEncoder()), SETTINGS.get(family, {})
        self.least = LEAST.get(family, 8)
        self.frames = [3 if family in VIDEO else 1] if self.latent.latent_dimensions == 3 else []

    def encode(self, prompt):
        """A conditioning that depends on the prompt, in the family's width."""
        generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
        more = {"pooled_output": torch.randn(1, self.pooled, generator=generator)} if self.pooled else {}
        read = 2 + len(prompt.split())
        tokens = self.encoder.tokens or read
        conditioning = [[self.encoder.size * torch.randn(1, tokens, self.width, generator=generator), more]]
        if self.encoder.masked:
            more["attention_mask"] = (torch.arange(tokens) < read).long()[None]
        if self.encoder.layers:
            more["conditioning_llama3"] = torch.randn(1, self.encoder.layers, tokens, self.width, generator=generator)
        return self.beside_a_picture(conditioning) if self.inpaints else conditioning

    def beside_a_picture(self, conditioning):
        """With what core's node for inpainting models adds: a picture whose right half is to be repainted, and the mask that says so."""
        import nodes

        pixels, mask = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(3)), torch.zeros(1, 128, 128)
        mask[..., 64:] = 1
        return nodes.InpaintModelConditioning().encode(conditioning, [], pixels, self.vae, mask)[0]

    def empty(self, batch=1, size=None, width=None):
        size = size or max(16, self.least)
        return {"samples": torch.zeros(batch, self.latent.latent_channels, *self.frames, size, width or size)}
