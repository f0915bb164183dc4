"""What a user wires to a sampler, and what else of the host is put into the same graph."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from pack.tests.campaigns.lora import random_lora
from pack.tests.wiring import node, outputs, random

STEPS, HALF = 2, torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)


def guided(graph):
    return node("custom_sampler.CFGGuider", model=graph.model, positive=graph.positive, negative=graph.negative, cfg=2.0)


@dataclass(frozen=True)
class Graph:
    """What a user has wired to SamplerCustomAdvanced."""

    world: Any
    model: Any
    positive: Any
    negative: Any
    latent: dict
    sampler: Any
    guider: Callable = guided
    steps: int = STEPS
    control_net: Any = None

    def but(self, **changes):
        return replace(self, **changes)

    def draw(self):
        sigmas = node("custom_sampler.BasicScheduler", model=self.model, scheduler="simple", steps=self.steps, denoise=1.0)
        inputs = dict(
            noise=node("custom_sampler.RandomNoise", noise_seed=1),
            guider=self.guider(self),
            sampler=self.sampler,
            sigmas=sigmas,
            latent_image=self.latent,
        )
        return node("custom_sampler.SamplerCustomAdvanced", **inputs)["samples"]


def patched(name, **inputs):
    """A feature: a node of the host that takes a model and gives one."""
    return lambda graph: graph.but(model=node(name, model=graph.model, **inputs))


def by_hand(patch):
    """A feature: what another pack's node does to a clone of the model."""

    def feature(graph):
        model = graph.model.clone()
        patch(model)
        return graph.but(model=model)

    return feature


def prompted(change, second="a hat"):
    """A feature: what is done to the positive prompt, with another one at hand."""
    return lambda graph: graph.but(positive=change(graph.positive, graph.world.encode(second)))


def dual(style):
    """A feature: two prompts guided apart."""

    def guider(graph):
        prompts = dict(cond1=graph.positive, cond2=graph.world.encode("a hat"), negative=graph.negative)
        return node("custom_sampler.DualCFGGuider", model=graph.model, **prompts, cfg_conds=2.0, cfg_cond2_negative=1.5, style=style)

    return lambda graph: graph.but(guider=guider)


def perpendicular(graph):
    prompts = dict(positive=graph.positive, negative=graph.negative, empty_conditioning=graph.world.encode("b"))
    return node("perpneg.PerpNegGuider", model=graph.model, **prompts, cfg=2.0, neg_scale=1.0)


def unguided(graph):
    return node("custom_sampler.BasicGuider", model=graph.model, conditioning=graph.positive)


def controlled(graph, end=1.0):
    """A feature: a ControlNet on both prompts."""
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(0))
    settings = dict(control_net=graph.control_net, image=hint, strength=1.0, start_percent=0.0, end_percent=end)
    positive, negative = outputs("ControlNetApplyAdvanced", positive=graph.positive, negative=graph.negative, **settings)
    return graph.but(positive=positive, negative=negative)


def with_lora(graph):
    import comfy.sd

    return graph.but(model=comfy.sd.load_lora_for_models(graph.model, None, random_lora(graph.model), 1.0, 0.0)[0])


def with_lora_on_the_prompt(graph):
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(random_lora(graph.model), 1.0, 0.0)
    return graph.but(
        positive=node("hooks.ConditioningSetProperties", cond_NEW=graph.positive, strength=1.0, set_cond_area="default", hooks=hooks)
    )


def prompt_tokens(n, context, value, options):
    """As IP-Adapters do: further tokens, of its own for each half of the guidance."""
    size = len(n) // len(options["cond_or_uncond"])
    tokens = torch.cat([random(50 + index, 1, 4, context.shape[2]).expand(size, -1, -1) for index in options["cond_or_uncond"]])
    return n, torch.cat([context, tokens], 1), torch.cat([value, tokens], 1)


def beside_the_prompt(q, k, v, options):
    """As IP-Adapters do: a second attention beside the prompt's, on the positive half alone."""
    from comfy.ldm.modules.attention import optimized_attention

    out, size = optimized_attention(q, k, v, options["n_heads"]), len(q) // len(options["cond_or_uncond"])
    for i, index in enumerate(options["cond_or_uncond"]):
        if index == 0:
            rows, tokens = slice(i * size, (i + 1) * size), random(60, 1, 4, q.shape[-1]).expand(size, -1, -1)
            out[rows] += optimized_attention(q[rows], tokens, tokens, options["n_heads"])
    return out


def wrapped_everywhere(model):
    from comfy.patcher_extension import WrappersMP

    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL, WrappersMP.CALC_COND_BATCH):
        model.add_wrapper_with_key(
            kind,
            "another pack",
            lambda executor, *args, **more: (
                [1.05 * part for part in out] if isinstance(out := executor(*args, **more), list) else 1.05 * out
            ),
        )


def inpainted(mask):
    return lambda graph: graph.but(
        latent=node("SetLatentNoiseMask", samples={"samples": 0.5 * random(3, *graph.latent["samples"].shape)}, mask=mask)
    )


def timed(prompt, start, end):
    return node("ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end)


def masked(prompt, area="default"):
    return node("ConditioningSetMask", conditioning=prompt, mask=HALF, strength=1.0, set_cond_area=area)


def combined(one, two):
    return node("ConditioningCombine", conditioning_1=one, conditioning_2=two)


def on_the_right(prompt):
    return node("ConditioningSetArea", conditioning=prompt, width=64, height=128, x=64, y=0, strength=1.0)


# Each takes a graph and gives one.
FEATURES = {
    "LoRA": with_lora,
    "LoRA on the prompt (hook)": with_lora_on_the_prompt,
    "FreeU": patched("freelunch.FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2),
    "FreeU V2": patched("freelunch.FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "deep shrink": patched(
        "model_downscale.PatchModelAddDownscale",
        block_number=2,
        downscale_factor=2.0,
        start_percent=0.0,
        end_percent=0.4,
        downscale_after_skip=True,
        downscale_method="bicubic",
        upscale_method="bicubic",
    ),
    "perturbed attention guidance": patched("pag.PerturbedAttentionGuidance", scale=3.0),
    "self-attention guidance": patched("sag.SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "normalized attention guidance": patched("nag.NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
    "HyperTile": patched("hypertile.HyperTile", tile_size=32, swap_size=2, max_depth=1, scale_depth=False),
    "RescaleCFG": patched("model_advanced.RescaleCFG", multiplier=0.7),
    "CFGZeroStar": patched("cfg.CFGZeroStar"),
    "CFGNorm": patched("cfg.CFGNorm", strength=1.0),
    "APG": patched("apg.APG", eta=1.0, norm_threshold=5.0, momentum=0.5),
    "TCFG": patched("tcfg.TCFG"),
    "Mahiro": patched("mahiro.Mahiro"),
    "FreSca": patched("fresca.FreSca", scale_low=1.0, scale_high=1.5, freq_cutoff=4),
    "epsilon scaling": patched("eps.EpsilonScaling", scaling_factor=1.05),
    "attention multiply": patched("attention_multiply.UNetSelfAttentionMultiply", q=1.2, k=1.0, v=1.1, out=1.0),
    "v-prediction": patched("model_advanced.ModelSamplingDiscrete", sampling="v_prediction", zsnr=False),
    "zero terminal SNR": patched("model_advanced.ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
    "x0-prediction": patched("model_advanced.ModelSamplingDiscrete", sampling="x0", zsnr=False),
    "LCM": lambda graph: patched("model_advanced.ModelSamplingDiscrete", sampling="lcm", zsnr=False)(
        graph.but(steps=3)
    ),  # of 2 steps the levels are the same
    "EDM": patched("model_advanced.ModelSamplingContinuousEDM", sampling="eps", sigma_max=80.0, sigma_min=0.002),
    "continuous V": patched("model_advanced.ModelSamplingContinuousV", sampling="v_prediction", sigma_max=100.0, sigma_min=0.03),
    "LazyCache": lambda graph: patched("easycache.LazyCacheNode", reuse_threshold=3.0, start_percent=0.0, end_percent=1.0, verbose=False)(
        graph.but(steps=4)
    ),
    "attn1 patch": by_hand(lambda model: model.set_model_attn1_patch(lambda n, context, value, options: (1.5 * n, context, value))),
    "attn2 patch": by_hand(lambda model: model.set_model_attn2_patch(prompt_tokens)),
    "attn2 replaced": by_hand(
        lambda model: [model.set_model_attn2_replace(beside_the_prompt, *block) for block in (("input", 4), ("middle", 0), ("output", 4))]
    ),
    "unet function wrapper": by_hand(
        lambda model: model.set_model_unet_function_wrapper(lambda apply, args: 1.05 * apply(args["input"], args["timestep"], **args["c"]))
    ),
    "wrappers of all kinds": by_hand(wrapped_everywhere),
    "input block patch": by_hand(lambda model: model.set_model_input_block_patch(lambda h, options: 1.1 * h)),
    "middle block patch": by_hand(lambda model: model.set_model_middle_block_after_patch(lambda args: {"h": 1.3 * args["h"]})),
    "area": prompted(lambda one, two: combined(one, on_the_right(two))),
    "mask": prompted(lambda one, two: combined(one, masked(two))),
    "mask bounds": prompted(lambda one, two: combined(one, masked(two, "mask bounds"))),
    "default prompt": prompted(lambda one, two: node("hooks.ConditioningSetDefaultAndCombine", cond=masked(one), cond_DEFAULT=two)),
    "timestep ranges": prompted(lambda one, two: combined(timed(two, 0.0, 0.4), timed(one, 0.4, 1.0))),
    "no prompt at the end": prompted(lambda one, two: timed(one, 0.0, 0.4)),
    "combine": prompted(combined),
    "concat": prompted(lambda one, two: node("ConditioningConcat", conditioning_to=one, conditioning_from=two)),
    "average": prompted(
        lambda one, two: node("ConditioningAverage", conditioning_to=one, conditioning_from=two, conditioning_to_strength=0.5)
    ),
    "zeroed negative": lambda graph: graph.but(negative=node("ConditioningZeroOut", conditioning=graph.negative)),
    "noise mask": inpainted(HALF),
    "differential diffusion": lambda graph: patched("differential_diffusion.DifferentialDiffusion", strength=1.0)(
        inpainted(torch.linspace(0, 1, 16).expand(1, 16, 16))(graph)
    ),
    "batch of 2": lambda graph: graph.but(latent=graph.world.empty(2)),
    "other size": lambda graph: graph.but(latent=graph.world.empty(1, 16, 24)),
    "no guidance": lambda graph: graph.but(guider=unguided),
    "dual guidance": dual("regular"),
    "dual guidance, nested": dual("nested"),
    "perpendicular negative": lambda graph: graph.but(guider=perpendicular),
    "ControlNet": controlled,
    "ControlNet at the start": lambda graph: controlled(graph, 0.4),
}
ORDERED = {"middle block patch"}  # where it matters which comes first
NOT_HERE = {"SD15": set(), "SDXL": {"ControlNet", "ControlNet at the start"}}
