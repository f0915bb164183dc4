"""The demo model and narrow models of real families, with what a user does with them."""

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
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "hidden_size": 64,
        "num_heads": 2,
        "axes_dim": [8, 12, 12],
        "depth": 1,
        "depth_single_blocks": 1,
        "context_in_dim": 48,
        "vec_in_dim": 32,
        "mlp_ratio": 4.0,
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
    },
    "WAN21_T2V": {"in_dim": 16, "out_dim": 16, "dim": 64, "num_heads": 2, "num_layers": 2, "ffn_dim": 128, "text_dim": 48},
}
WIDTHS = {"SDXL": (2048, 1280), "SD3": (48, 32), "Flux": (48, 32), "WAN21_T2V": (48, 0)}  # of a prompt's tokens and of its pooled embedding


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

    def encode(self, prompt):
        """A conditioning that depends on the prompt, in the family's width."""
        generator = torch.Generator().manual_seed(sum(map(ord, prompt)))
        more = {"pooled_output": torch.randn(1, self.pooled, generator=generator)} if self.pooled else {}
        conditioning = [[torch.randn(1, 77, self.width, generator=generator), more]]
        return self.beside_a_picture(conditioning) if self.inpaints else conditioning

    def beside_a_picture(self, conditioning):
        """With what core's node for inpainting models adds: a picture whose right half is to be repainted, and the mask that says so."""
        import nodes

        pixels, mask = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(3)), torch.zeros(1, 128, 128)
        mask[..., 64:] = 1
        return nodes.InpaintModelConditioning().encode(conditioning, [], pixels, self.vae, mask)[0]

    def empty(self, batch=1, size=16, width=None):
        frames = [3] if self.latent.latent_dimensions == 3 else []
        return {"samples": torch.zeros(batch, self.latent.latent_channels, *frames, size, width or size)}
