"""The portrait models as model families of the host: stock Load Checkpoint, CLIP Text Encode and VAE nodes work on them.

Portrait is the host's UNet in Stable Diffusion 1.5's key layout, v-prediction; Portrait DiT the host's Flux at small width.
Both read CLIP's text transformer over the captions' own words, and draw latents of a VAE in TAESD's layout, which the host
recognises by its keys.
"""

from __future__ import annotations

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from . import captions, config


class PortraitLatents(comfy.latent_formats.LatentFormat):
    """The VAE's latents as they are: mean 0 and deviation 1."""

    scale_factor = 1.0
    latent_channels = config.LATENT_CHANNELS
    # By least squares from the latents of 200 drawn faces to their colours, cell by cell: R^2 0.81, 0.87 and 0.88 for red, green and blue.
    latent_rgb_factors = [[0.044, 0.195, 0.045], [0.288, -0.008, 0.016], [0.127, 0.12, -0.053], [-0.01, 0.074, 0.366]]
    latent_rgb_factors_bias = [0.247, 0.156, 0.068]


class WordTokenizer:
    """The part of a Hugging Face tokenizer that the host's SDTokenizer calls, over the captions' vocabulary."""

    @classmethod
    def from_pretrained(cls, path, **options):
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [captions.START, *captions.words_to_ids(text), captions.END]}

    def get_vocab(self) -> dict[str, int]:
        return dict(captions.VOCABULARY)

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        words = {i: word for word, i in captions.VOCABULARY.items()}
        return " ".join(words[i] for i in ids if not (skip_special_tokens and i in (captions.START, captions.END)))


class TextModel(comfy.clip_model.CLIPTextModel):
    """CLIP's text transformer over the captions' own vocabulary."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.set_input_embeddings(operations.Embedding(config.WORDS, config.WIDTH, dtype=dtype, device=device))


class TextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        special = {"start": captions.START, "end": captions.END, "pad": captions.END}
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options,
            max_length=captions.MAX_TOKENS,
            textmodel_json_config=dict(config.TEXT_CONFIG),
            model_class=TextModel,
            special_tokens=special,
            return_projected_pooled=False,
        )


class ClipModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=TextEncoder)


class PortraitTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(
            tokenizer_path="",
            max_length=captions.MAX_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=config.WIDTH,
            tokenizer_class=WordTokenizer,
            tokenizer_data=tokenizer_data,
        )


class ClipTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data, tokenizer=PortraitTokenizer)


class Family(comfy.supported_models_base.BASE):
    """What both families share."""

    latent_format = PortraitLatents

    def process_clip_state_dict(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"cond_stage_model.": "clip_l."}, filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": "cond_stage_model."})

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(ClipTokenizer, ClipModel)


class Portrait(Family):
    """Recognised by its narrow UNet and its text encoder's width, which no other family has."""

    unet_config = {key: config.UNET_CONFIG[key] for key in ("in_channels", "model_channels", "context_dim")}
    unet_extra_config = {key: config.UNET_CONFIG[key] for key in ("num_heads", "num_head_channels")}
    sampling_settings = {"linear_end": config.LINEAR_END}

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


class PortraitDiT(Family):
    """Recognised by Flux's keys at its width, on 4 channels; it stands before the host's own Flux, which any width matches."""

    unet_config = {
        "image_model": "flux",
        "guidance_embed": False,
        "in_channels": config.LATENT_CHANNELS,
        "hidden_size": config.DIT_CONFIG["hidden_size"],
        "context_in_dim": config.WIDTH,
    }
    unet_extra_config = {key: config.DIT_CONFIG[key] for key in ("num_heads", "axes_dim", "out_channels", "mlp_ratio", "patch_size")}
    sampling_settings = {"shift": config.FLOW_SHIFT}
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def get_model(self, state_dict, prefix="", device=None):
        return comfy.model_base.Flux(self, device=device)


def register() -> None:
    """Make the host recognise the portrait checkpoints; calling it twice changes nothing."""
    models = comfy.supported_models.models
    for family in (Portrait, PortraitDiT):
        if not any(model.__name__ == family.__name__ and model.__module__ == family.__module__ for model in models):
            models.insert(0, family)
