"""Edits beside what else users put into the same graph: FEATURES of the host, each with EDITS of the pack, through the host's own nodes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from pack.core.hspace.direction import Direction
from pack.tests.nodes.wiring import node, outputs, random

pytestmark = pytest.mark.campaign

STEPS, HALF = 2, torch.cat([torch.ones(1, 16, 8), torch.zeros(1, 16, 8)], 2)
DONE = set()  # pairs of a feature and an edit that were tried


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


def random_lora(model):
    """A LoRA of rank 2 on every attention layer of the UNet, in the usual file's names."""
    lora = {}
    for i, (name, weight) in enumerate(model.model.diffusion_model.state_dict().items()):
        if "attn" in name and weight.ndim == 2:
            key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            lora |= {
                f"{key}.lora_up.weight": 0.3 * random(i, len(weight), 2),
                f"{key}.lora_down.weight": random(-i - 1, 2, weight.shape[1]) / weight.shape[1] ** 0.5,
            }
    return lora


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


class Kit:
    """A world's graph, and one of each of the pack's edits for it."""

    def __init__(self, run, world, control_net):
        import comfy.samplers

        from pack.host.families import family_of

        self.run, euler = run, comfy.samplers.sampler_object("euler")
        self.graph = Graph(world, world.model, world.encode("a face"), world.encode(""), world.empty(), euler, control_net=control_net)
        self.direction = Direction(random(0, 2, family_of(world.model).channels, 2, 2), (30.0, 1.0), family_of(world.model), "random")
        sigmas = node("custom_sampler.BasicScheduler", model=world.model, scheduler="simple", steps=STEPS, denoise=1.0)
        settings = dict(
            cfg=2.0,
            seed=0,
            seeds=1,
            percent=0.3,
            ahead=0.0,
            branch=0.0,
            source_rank=0,
            target_rank=0,
            solver="exact",
            target_weight=1.0,
            source_weight=0.2,
            target_values_weight=0.0,
            source_values_weight=0.0,
            residual=True,
            steps=1,
            vae=world.vae,
            sampler=euler,
            sigmas=sigmas,
            latent=world.empty(),
        )
        self.attribute = run(
            "TrainAttribute",
            model=world.model,
            source=world.encode("a face"),
            target=world.encode("blue hair"),
            negative=world.encode(""),
            **settings,
        )[0]
        self.pictures = {}

    def moved(self, graph, strength, *, direction=None, **changes):
        settings = dict(start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", asymmetric=False, keep_norm=False)
        return graph.but(
            model=self.run(
                "ApplyDirection", model=graph.model, direction=direction or self.direction, strength=strength, **{**settings, **changes}
            )[0]
        )

    def edited(self, graph, strength, target):
        operation = self.run(
            "SpectrumOperation",
            mode="gain",
            first=1,
            last=2,
            gain=1.5,
            exponent=1.0,
            threshold=1.0,
            keep_energy=True,
            strength=strength,
            layout="channel",
        )[0]
        settings = dict(operation=operation, target=target, steps="all in range", start_percent=0.0, end_percent=1.0)
        return graph.but(sampler=self.run("EditDuringSampling", sampler=graph.sampler, **settings)[0])

    def attributed(self, graph, strength, target=None):
        target = target and graph.world.encode(target)
        return graph.but(
            sampler=self.run(
                "ApplyAttribute", sampler=graph.sampler, attribute=self.attribute, strength=strength, budget=0.0, target=target
            )[0]
        )

    def alone(self, edit, steps):
        """The picture of an edit without a feature; of no edit for None."""
        if (edit, steps) not in self.pictures:
            graph = self.graph.but(steps=steps)
            self.pictures[edit, steps] = (EDITS[edit](self, lambda _: graph, 1.0) if edit else graph).draw()
        return self.pictures[edit, steps]


# Each takes the kit, a feature and a strength.
EDITS = {
    "direction": lambda kit, feature, strength: kit.moved(feature(kit.graph), strength),
    "direction before it": lambda kit, feature, strength: feature(kit.moved(kit.graph, strength)),
    "asymmetric direction on one branch": lambda kit, feature, strength: kit.moved(
        feature(kit.graph), strength, asymmetric=True, branch="conditional"
    ),
    "asymmetric direction before it": lambda kit, feature, strength: feature(kit.moved(kit.graph, strength, asymmetric=True)),
    "edit of x0": lambda kit, feature, strength: kit.edited(feature(kit.graph), strength, "x0"),
    "edit of x_t": lambda kit, feature, strength: kit.edited(feature(kit.graph), strength, "x_t"),
    "stored attribute": lambda kit, feature, strength: kit.attributed(feature(kit.graph), strength),
    "attribute of a target": lambda kit, feature, strength: kit.attributed(feature(kit.graph), strength, "blue hair"),
}


@pytest.fixture(scope="module")
def kit(run, demo, shaped, control_net, tmp_path_factory):
    """`kit("SDXL")`: made once."""
    import folder_paths

    made = {}

    def make(name):
        if name not in made:
            folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
            with torch.inference_mode():
                made[name] = Kit(run, demo if name == "demo" else shaped(name), control_net)
        return made[name]

    return make


def differ(a, b, share=1e-3):
    """By more than rounding, as a share of the latent's size."""
    return a.shape != b.shape or float((a - b).abs().max()) > share * float(b.abs().max())


def close(a, b, share=1e-4):
    torch.testing.assert_close(a, b, rtol=0, atol=share * float(b.abs().max()))


def some_edits(feature, count):
    """So many of them, from all over the table, others for the next feature."""
    names, first = list(EDITS), list(FEATURES).index(feature)
    return [names[(first + i * len(names) // count) % len(names)] for i in range(count)]


@pytest.mark.campaign
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_and_an_edit_act_together(kit, feature, rounds, figures):
    """Both have their effect; strength 0 and disconnecting give the feature's own picture, and a second run the first's, bit for bit."""
    for world in (world for world in rounds(["SD15"], ["SD15", "SDXL"]) if feature not in NOT_HERE[world]):
        tools = kit(world)
        wired = FEATURES[feature](tools.graph)
        alone = wired.draw()
        assert torch.isfinite(alone).all(), f"{feature} does nothing by itself"
        assert differ(alone, tools.alone(None, wired.steps)), f"{feature} does nothing by itself"
        for edit in some_edits(feature, rounds(2, len(EDITS))):
            case, both = f"{feature}, {edit}, {world}", EDITS[edit](tools, FEATURES[feature], 1.0)
            picture = both.draw()
            assert torch.isfinite(picture).all(), case
            assert differ(picture, alone), f"{case}: the edit is lost"
            assert differ(picture, tools.alone(edit, wired.steps)), f"{case}: the feature is lost"
            assert torch.equal(both.draw(), picture), f"{case}: the second run differs"
            if "direction" not in edit or rounds(False, True):  # a direction of strength 0 is the very model
                assert torch.equal(EDITS[edit](tools, FEATURES[feature], 0.0).draw(), alone), f"{case}: strength 0 differs"
            DONE.add(case)
        nothing = replace(tools.direction, shifts=torch.zeros_like(tools.direction.shifts))
        unmoved = tools.moved(
            wired, 3.0, direction=nothing, asymmetric=True, branch="both"
        )  # of one half, in another batch, bits differ on some machines
        for again in rounds([unmoved], [wired, unmoved]):
            assert torch.equal(again.draw(), alone), f"{feature}, {world}: an edit outlasts its removal, or one of zeros is seen"
    figures(
        "edits beside other features", f"{len(DONE)} combinations of {len(FEATURES)} features with {len(EDITS)} edits, none refused or lost"
    )


def easy_cached(graph):
    return patched("easycache.EasyCacheNode", reuse_threshold=1.0, start_percent=0.0, end_percent=1.0, verbose=False)(graph.but(steps=4))


@pytest.mark.parametrize("edit", [name for name in EDITS if "stored" not in name and "x0" not in name])
def test_easy_cache_and_an_edit_act_together_or_are_refused_by_name(kit, edit):
    tools = kit("SD15")
    alone, both = easy_cached(tools.graph).draw(), EDITS[edit](tools, easy_cached, 1.0)
    if "asymmetric" in edit and "before" in edit:
        with pytest.raises(ValueError, match="model: EasyCache.* Connect it ahead of Apply Direction"):
            both.draw()
        return
    picture = both.draw()
    assert torch.isfinite(picture).all()
    assert differ(picture, alone)
    assert differ(picture, tools.alone(edit, 4))
    assert torch.equal(both.draw(), picture)


@pytest.mark.campaign
def test_it_does_not_matter_which_patch_comes_first(kit, rounds):
    tools = kit("SD15")
    patches = [name for name in FEATURES if FEATURES[name](tools.graph).model is not tools.graph.model and name not in ORDERED]
    assert len(patches) > 25
    for feature in rounds(["FreeU", "attn2 patch", "perturbed attention guidance", "normalized attention guidance"], patches):
        for asymmetric in (False, True):
            close(
                FEATURES[feature](tools.moved(tools.graph, 1.0, asymmetric=asymmetric)).draw(),
                tools.moved(FEATURES[feature](tools.graph), 1.0, asymmetric=asymmetric).draw(),
            )


def spied(graph, seen):
    """The graph with a patch that notes what reaches it in the middle block: h, and the prompt."""
    return by_hand(
        lambda model: model.set_model_middle_block_after_patch(
            lambda args: seen.append((args["h"].clone(), args["context"])) or {"h": args["h"]}
        )
    )(graph)


def test_patches_of_the_middle_block_keep_their_order(kit):
    """Theirs multiplies h by 1.3, ours adds a shift."""
    tools, theirs, added = kit("SD15"), FEATURES["middle block patch"], []
    for both in (lambda graph: tools.moved(theirs(graph), 1.0), lambda graph: theirs(tools.moved(graph, 1.0))):
        before, after = [], []
        spied(both(spied(tools.graph, before)), after).draw()
        added.append(after[0][0] - 1.3 * before[0][0])
    assert added[0].abs().max() > 0.1
    close(added[1], 1.3 * added[0])


@pytest.mark.parametrize("branch", ["conditional", "unconditional"])
@pytest.mark.parametrize(
    "feature",
    ["LoRA", "perturbed attention guidance", "perpendicular negative", "self-attention guidance", "dual guidance", "dual guidance, nested"],
)
def test_a_branch_is_that_of_the_positive_or_of_the_negative_prompt(kit, feature, branch):
    """By the prompt that the UNet reads where h moves."""
    tools, before, after = kit("SD15"), [], []
    spied(tools.moved(spied(FEATURES[feature](tools.graph), before), 1.0, branch=branch), after).draw()
    for (h, context), (edited, _) in zip(before, after, strict=True):
        for row in range(len(h)):
            (prompt,) = (
                text for text in ("a face", "", "a hat", "b") if torch.equal(context[row], tools.graph.world.encode(text)[0][0][0])
            )
            expected = {"a face": branch == "conditional", "": branch == "unconditional"}
            assert differ(edited[row], h[row]) == expected.get(prompt, differ(edited[row], h[row]))


@pytest.mark.parametrize("feature", ["area", "mask bounds"])
def test_a_mask_stays_where_it_is_under_a_prompt_for_an_area(kit, feature):
    """The prompts are for the right (area) or the left (bounds); the mask is white on the other side."""
    tools, before, after = kit("SD15"), [], []
    mask = HALF if feature == "area" else 1 - HALF
    spied(tools.moved(spied(FEATURES[feature](tools.graph), before), 1.0, mask=mask), after).draw()
    parts = [(h, edited) for (h, _), (edited, _) in zip(before, after, strict=True) if h.shape[-1] < h.shape[-2]]
    assert parts
    assert all(torch.equal(h, edited) for h, edited in parts)


@pytest.fixture
def finer(kit, monkeypatch):
    """A kit's graph for a UNet with attention at the latent's own resolution, where token merging acts."""
    make = type(kit("SD15").graph.world)
    conftest = make.__init__.__globals__
    depths = {"transformer_depth": [1, 1, 1], "transformer_depth_output": [1] * 6}
    monkeypatch.setitem(conftest["FAMILIES"], "SD15", {**conftest["SMALL"], **conftest["FAMILIES"]["SD15"], **depths})
    world = make("SD15")
    return kit("SD15").graph.but(world=world, model=world.model, latent=world.empty(size=32), steps=3)


@pytest.mark.parametrize(
    "feature",
    [
        patched("tomesd.TomePatchModel", ratio=0.5),
        patched("hypertile.HyperTile", tile_size=32, swap_size=3, max_depth=1, scale_depth=False),
    ],
    ids=["token merging", "HyperTile"],
)
def test_an_asymmetric_direction_of_zeros_changes_no_bit_beside_patches_that_draw_at_random(kit, finer, feature):
    wired, nothing = feature(finer), replace(kit("SD15").direction, shifts=torch.zeros(2, 64, 2, 2))
    assert differ(wired.draw(), finer.draw())
    assert torch.equal(kit("SD15").moved(wired, 3.0, direction=nothing, asymmetric=True).draw(), wired.draw())


def test_everything_at_once(kit):
    """A graph as users build them, with three of the pack's edits in it."""
    tools = kit("SD15")
    names = (
        "LoRA",
        "FreeU V2",
        "attn2 patch",
        "perturbed attention guidance",
        "RescaleCFG",
        "unet function wrapper",
        "mask",
        "ControlNet",
        "noise mask",
    )

    def full(graph):
        for name in names:
            graph = FEATURES[name](graph)
        return graph

    def edited(strength):
        return tools.attributed(
            tools.edited(tools.moved(full(tools.moved(tools.graph, strength)), strength, asymmetric=True), strength, "x0"),
            strength,
            "blue hair",
        )

    alone, both = full(tools.graph).draw(), edited(1.0)
    picture = both.draw()
    assert torch.isfinite(picture).all()
    assert differ(picture, alone)
    assert torch.equal(both.draw(), picture)
    assert torch.equal(edited(0.0).draw(), alone)
    assert torch.equal(full(tools.graph).draw(), alone)
    close(picture[..., 8:], alone[..., 8:], 1e-6)  # outside the noise mask
