"""Which nodes take part in random graphs, and the values that their inputs may have."""

from pack.tests.workflows.graphs import CHECKPOINT

WORDS = ["a portrait", "a portrait, smiling", "a portrait, red hair, hat", "a portrait, sunglasses", ""]
SAMPLERS = [
    "euler",
    "ddim",
    "dpmpp_2m",
    "euler_ancestral",
    "heun",
    "lms",
    "dpmpp_2m_sde",
    "uni_pc",
    "dpm_2",
    "ddpm",
    "sa_solver",
    "dpm_fast",
    "dpm_adaptive",
]
HALF, SEEDS = [0.0, 0.5], [0, 1, 2**63]
SCHEDULERS = ["normal", "simple", "karras", "exponential", "ddim_uniform", "beta", "sgm_uniform"]
# The host's nodes that take part; values where the schema allows more than a small graph should ask for, or can bear.
STOCK = {
    "CheckpointLoaderSimple": {"ckpt_name": [CHECKPOINT]},
    "CLIPTextEncode": {"text": WORDS},
    "EmptyLatentImage": {"width": [*5 * [64], 32], "height": [*5 * [64], 48], "batch_size": [*4 * [1], 2]},
    "KSampler": {"seed": SEEDS, "scheduler": SCHEDULERS, "sampler_name": SAMPLERS, "denoise": [1.0, 0.6]},
    "SamplerCustom": {"noise_seed": SEEDS},
    "SamplerCustomAdvanced": {},
    "KSamplerSelect": {"sampler_name": [*SAMPLERS, *10 * ["euler", "ddim"]]},
    "SamplerDPMPP_2M_SDE": {"eta": HALF, "s_noise": [1.0]},
    "SamplerEulerAncestral": {"eta": HALF, "s_noise": [1.0]},
    "BasicScheduler": {"scheduler": SCHEDULERS, "denoise": [1.0, 1.0, 0.5]},
    "KarrasScheduler": {"sigma_max": [14.6, 5.0], "sigma_min": [0.03], "rho": [7.0]},
    "SplitSigmas": {"step": [0, 1, 2]},
    "CFGGuider": {},
    "DualCFGGuider": {"cfg_conds": [1.0, 3.0], "cfg_cond2_negative": [1.0, 3.0]},
    "BasicGuider": {},
    "RandomNoise": {"noise_seed": SEEDS},
    "DisableNoise": {},
    "LatentOperationSharpen": {"sharpen_radius": [1]},
    "LatentApplyOperation": {},
    "LatentApplyOperationCFG": {},
    "FreeU_V2": {"b1": [1.3], "b2": [1.4], "s1": [0.9], "s2": [0.2]},
    "PerturbedAttentionGuidance": {"scale": [1.0, 3.0]},
    "PatchModelAddDownscale": {"block_number": [1, 2, 3, 4], "downscale_factor": [1.0, 2.0]},
    "ModelMergeSimple": {},
    "ConditioningCombine": {},
    "ConditioningConcat": {},
    "ConditioningSetAreaPercentage": {"width": [0.5], "height": [0.5], "x": HALF, "y": HALF, "strength": [1.0]},
    "ConditioningSetMask": {"strength": [1.0], "set_cond_area": ["default"]},
    "ConditioningSetTimestepRange": {"start": HALF, "end": [0.5, 1.0]},
    "ConditioningZeroOut": {},
    "SolidMask": {"width": [8, 16, 32, 33], "height": [8, 16, 32, 33]},
    "InvertMask": {},
    "ImageToMask": {"channel": ["red", "green"]},
    "LoadImage": {"image": ["semantic_latents_portrait_drawn.png", "semantic_latents_portrait_photograph_like.png"]},
    "EmptyImage": {"width": [64], "height": [64, 32], "batch_size": [1, 2]},
    "ImageScale": {"width": [64], "height": [64]},
    "VAEDecode": {},
    "VAEEncode": {},
    "SetLatentNoiseMask": {},
    "RepeatLatentBatch": {"amount": [1, 2]},
    "LatentFromBatch": {"batch_index": [0, 1], "length": [1, 2]},
    "LatentMultiply": {},
    "LatentBatch": {},
    "CurveEditor": {},
    "SaveLatent": {"filename_prefix": ["graph"]},
    "PreviewImage": {},
    "PreviewAny": {},
    "LossGraphNode": {"filename_prefix": ["loss"]},
}
# Where a branch of a graph starts at the latest, and where it ends.
FIRST = {
    "MODEL": "CheckpointLoaderSimple",
    "CLIP": "CheckpointLoaderSimple",
    "VAE": "CheckpointLoaderSimple",
    "CONDITIONING": "CLIPTextEncode",
    "LATENT": "EmptyLatentImage",
    "IMAGE": "LoadImage",
    "small": "ImageScale",
    "MASK": "SolidMask",
    "SAMPLER": "KSamplerSelect",
    "SIGMAS": "BasicScheduler",
    "NOISE": "RandomNoise",
    "GUIDER": "CFGGuider",
    "LATENT_OPERATION": "SemanticLatents_SpectrumOperation",
    "CURVE": "CurveEditor",
    "CLIP_VISION": "SemanticLatents_DemoScorer",
    "FLOAT": "SemanticLatents_StrengthRange",
    "STRING": "SemanticLatents_StrengthRange",
    "INT": "SemanticLatents_ExploreSingularVectors",
    "SEMANTIC_LATENTS_SVD": "SemanticLatents_Decompose",
    "SEMANTIC_LATENTS_DIRECTION": "SemanticLatents_LoadDirection",
    "SEMANTIC_LATENTS_ATTRIBUTE": "SemanticLatents_TrainAttribute",  # of this size; those in files are of whole pictures
    "SEMANTIC_LATENTS_TRAJECTORY": "SemanticLatents_SampleTrajectory",
    "SEMANTIC_LATENTS_SLIDER": "SemanticLatents_MakeSlider",
}
LAST = {
    "LATENT": "SaveLatent",
    "IMAGE": "PreviewImage",
    "LOSS_MAP": "LossGraphNode",
    "MODEL": "KSampler",
    "CONDITIONING": "KSampler",
    "MASK": "SetLatentNoiseMask",
    "SAMPLER": "SamplerCustom",
    "SIGMAS": "SamplerCustom",
    "NOISE": "SamplerCustomAdvanced",
    "GUIDER": "SamplerCustomAdvanced",
    "LATENT_OPERATION": "LatentApplyOperation",
    "CLIP_VISION": "SemanticLatents_CompareEdit",
    "SEMANTIC_LATENTS_SVD": "SemanticLatents_Compose",
    "SEMANTIC_LATENTS_DIRECTION": "SemanticLatents_ApplyDirection",
    "SEMANTIC_LATENTS_ATTRIBUTE": "SemanticLatents_ApplyAttribute",
    "SEMANTIC_LATENTS_TRAJECTORY": "SemanticLatents_VectorMobility",
    "SEMANTIC_LATENTS_SLIDER": "SemanticLatents_ApplySlider",
}
# Sheets and example pictures are large: their latents would take long.
MAKERS = {"small": ["EmptyImage", "ImageScale", "VAEDecode"]}
NEEDS = {("VAEEncode", "pixels"): "small"}
COMPANIONS = {  # inputs that a choice asks for
    ("mode", "curve"): ["curve"],
    ("objective", "prompt matching"): ["target"],
    ("objective", "CLIP directional"): ["clip_vision", "clip"],
    ("distance", "CLIP vision"): ["clip_vision"],
    ("link", "clip_vision"): ["clip"],
}
RARE = {"resume", "pictures"}  # optional inputs that few of the things that fit by their kind will do for
UPWARDS = {
    "SemanticLatents_Invert",
    "SemanticLatents_TrainAttribute",
}  # are offered sigmas the wrong way round, too; samplers of the host would diverge
SMALL = {
    "steps": 5,
    "images": 3,
    "batch_size": 3,
    "epochs": 2,
    "seeds": 2,
    "count": 2,
    "iterations": 3,
    "refinements": 3,
    "tile": 64,
    "columns": 5,
    "cfg": 8.0,
}
FITTING = {"first": 4, "last": 5, "leading": 5, "rank": 5, "triplets": 9, "channel": 4, "source_rank": 9, "target_rank": 9}
MOST = {**SMALL, **FITTING}
DIRECTIONS = ["portrait_direction_sunglasses.safetensors"]
ATTRIBUTES = ["portrait_attribute_sunglasses.safetensors", "portrait_attribute_smile.safetensors"]
FILES = {
    "SemanticLatents_LoadDirection": [*18 * DIRECTIONS, ATTRIBUTES[0]],
    "SemanticLatents_LoadAttribute": [*9 * ATTRIBUTES, *DIRECTIONS],
    "SemanticLatents_LoadSlider": [*9 * DIRECTIONS, *ATTRIBUTES],
}
TEXTS = {
    "triplets": [*9 * ["1-3", "1, 2", "3"], "40", "x"],
    "gains": [*9 * ["0, 2", "1", "-1, 0.5"], "a", ""],
    "source_text": WORDS,
    "target_text": WORDS,
    "without": WORDS,
    "wanted": WORDS,
    "opposite": ["", *WORDS],
    "strengths": [*9 * ["0, 1", "-1 to 1 in 2", "1"], "a", ""],
    "strengths_2": ["0", "1, -1"],
    "prompts": ["", *WORDS],
    "scorer_text": WORDS,
    "title": ["", "a title"],
    "filename_prefix": ["graph", "folder/graph"],
}
CURVES = [{"points": points, "interpolation": "linear"} for points in ([[0, 0], [1, 1]], [[0, 1], [0.3, 0.2], [1, 0.5]], [[0.5, 1]])]
