"""The demo model as a model family of the host: stock Load Checkpoint, CLIP Text Encode and VAE nodes work on it.

The UNet is the host's own class in Stable Diffusion's key layout, v-prediction, in pixel space (the host's
pixel-space VAE). The prompt enters through the middle block's cross-attention alone, so that h, its output, carries all
that the prompt decides: on a model this small, a decoder that reads the prompt too pays no attention to h.
"""

from __future__ import annotations

import comfy.clip_model
import comfy.latent_formats
import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils

from .prompts import END, START, VOCABULARY, WordTokenizer

WIDTH = 128
MAX_TOKENS = 32
TEXT_CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 4 * WIDTH,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": MAX_TOKENS,
    "eos_token_id": END,
}
UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "channel_mult": [1, 2, 3, 4],
    "num_res_blocks": [1, 1, 1, 1],
    "transformer_depth": [0, 0, 0, 0],
    "transformer_depth_output": [0] * 8,
    "transformer_depth_middle": 2,
    "context_dim": WIDTH,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": True,
    "num_head_channels": 32,
    "num_heads": -1,
}


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Pixels in [-1, 1], scaled to a standard deviation of about one."""

    scale_factor = 1.7
    latent_channels = 3
    spacial_downscale_ratio = 1  # the host's spelling
    latent_rgb_factors = [[0.59, 0.0, 0.0], [0.0, 0.59, 0.0], [0.0, 0.0, 0.59]]


class TextModel(comfy.clip_model.CLIPTextModel):
    """CLIP's text transformer over the demo's own vocabulary."""

    def __init__(self, config_dict, dtype, device, operations):
        super().__init__(config_dict, dtype, device, operations)
        self.set_input_embeddings(operations.Embedding(len(VOCABULARY), WIDTH, dtype=dtype, device=device))


class TextEncoder(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options,
            max_length=MAX_TOKENS,
            textmodel_json_config=dict(TEXT_CONFIG),
            model_class=TextModel,
            special_tokens={"start": START, "end": END, "pad": END},
            return_projected_pooled=False,
        )


class ClipModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=TextEncoder)


class DemoTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(
            tokenizer_path="",
            max_length=MAX_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=WIDTH,
            tokenizer_class=WordTokenizer,
            tokenizer_data=tokenizer_data,
        )


class ClipTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data, tokenizer=DemoTokenizer)


class DemoFaces(comfy.supported_models_base.BASE):
    """Recognised by its narrow UNet on 3 channels with transformers in the middle block alone, where the host reads no widths."""

    unet_config = {"in_channels": 3, "model_channels": 32, "context_dim": None, "transformer_depth_middle": 2}
    unet_extra_config = {key: UNET_CONFIG[key] for key in ("num_heads", "num_head_channels", "context_dim", "use_linear_in_transformer")}
    sampling_settings = {"linear_end": 0.02}  # sigma_max 66: in pixel space SD's 14.6 leaves the mean colour visible
    latent_format = PixelLatents

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def get_model(self, state_dict, prefix="", device=None):
        return comfy.model_base.BaseModel(self, model_type=self.model_type(state_dict, prefix), device=device)

    def process_clip_state_dict(self, state_dict):
        prefixes = {"cond_stage_model.": "clip_l."}
        return comfy.utils.state_dict_prefix_replace(state_dict, prefixes, filter_keys=True)

    def process_clip_state_dict_for_saving(self, state_dict):
        return comfy.utils.state_dict_prefix_replace(state_dict, {"clip_l.": "cond_stage_model."})

    def clip_target(self, state_dict={}):
        return comfy.supported_models_base.ClipTarget(ClipTokenizer, ClipModel)


def register() -> None:
    """Make the host recognise the demo checkpoint; calling it twice changes nothing."""
    models = comfy.supported_models.models
    if not any(model.__name__ == DemoFaces.__name__ and model.__module__ == DemoFaces.__module__ for model in models):
        models.append(DemoFaces)
