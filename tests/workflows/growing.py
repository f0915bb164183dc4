"""Grows random graphs of the pack's nodes, and of the host's that feed them, from a server's schemas."""

import random

from pack.tests.workflows.graphs import CHECKPOINT, PREFIX, Graph

WORDS = ["a face", "a face, smiling", "a face, red hair, hat", "a face, sunglasses", ""]
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
    "EmptyLatentImage": {"width": [*5 * [32], 16], "height": [*5 * [32], 24], "batch_size": [*4 * [1], 2]},
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
    "LoadImage": {"image": ["semantic_latents_face_drawn.png", "semantic_latents_face_photograph_like.png"]},
    "EmptyImage": {"width": [32], "height": [32, 16], "batch_size": [1, 2]},
    "ImageScale": {"width": [32], "height": [32]},
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
    "drawn": "KSampler",
    "IMAGE": "LoadImage",
    "small": "LoadImage",
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
    "SEMANTIC_LATENTS_ATTRIBUTE": "SemanticLatents_LoadAttribute",
    "SEMANTIC_LATENTS_TRAJECTORY": "SemanticLatents_SampleTrajectory",
}
LAST = {
    "LATENT": "SaveLatent",
    "IMAGE": "VAEEncode",
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
}
# The host's Empty Latent Image has four channels, which a sampler adapts to its model and a VAE does not.
# Sheets of pictures are too large to draw.
MAKERS = {
    "drawn": [
        "KSampler",
        "SamplerCustom",
        "SamplerCustomAdvanced",
        "VAEEncode",
        "SemanticLatents_SampleTrajectory",
        "SemanticLatents_Invert",
    ],
    "small": ["LoadImage", "EmptyImage", "ImageScale", "VAEDecode"],
}
NEEDS = {
    ("VAEDecode", "samples"): "drawn",
    ("LatentBatch", "samples1"): "drawn",
    ("LatentBatch", "samples2"): "drawn",
    ("VAEEncode", "pixels"): "small",
    ("SemanticLatents_Invert", "latent"): "drawn",
    ("SemanticLatents_TrainDirection", "pictures"): "drawn",
}
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
FITTING = {"first": 4, "last": 5, "leading": 5, "rank": 5, "triplets": 9, "channel": 3, "source_rank": 17, "target_rank": 17}
MOST = {**SMALL, **FITTING}
DIRECTIONS, ATTRIBUTES = ["demo_sunglasses.safetensors", "demo_beard.safetensors"], ["demo_attribute_sunglasses.safetensors"]
FILES = {
    "SemanticLatents_LoadDirection": [*9 * DIRECTIONS, *ATTRIBUTES],
    "SemanticLatents_LoadAttribute": [*18 * ATTRIBUTES, DIRECTIONS[0]],
}
TEXTS = {
    "triplets": [*9 * ["1-3", "1, 2", "3"], "40", "x"],
    "gains": [*9 * ["0, 2", "1", "-1, 0.5"], "a", ""],
    "source_text": WORDS,
    "target_text": WORDS,
    "title": ["", "a title"],
    "filename_prefix": ["graph", "folder/graph"],
}
CURVES = [{"points": points, "interpolation": "linear"} for points in ([[0, 0], [1, 1]], [[0, 1], [0.3, 0.2], [1, 0.5]], [[0.5, 1]])]


def inputs_of(node, name):
    """The inputs of a class: name, kind, options, whether it is required. A kind in capitals is a link's."""
    for section in ("required", "optional"):
        for slot, (kind, *options) in node["input"].get(section, {}).items():
            options = options[0] if options else {}
            if isinstance(kind, list) or kind == "COMBO":
                kind, options = "combo", {"options": kind, **options}
            elif kind in ("INT", "FLOAT", "BOOLEAN", "STRING") and not options.get("forceInput") or options.get("socketless"):
                kind = kind.lower()
            yield slot, NEEDS.get((name, slot), kind), options, section == "required"


class Grower:
    """Grows a graph around one node, at random from a seed: what the node takes, and what takes its outputs, to an end."""

    def __init__(self, object_info, seed):
        self.info = {name: node for name, node in object_info.items() if name in STOCK or name.startswith(PREFIX)}
        self.random, self.graph, self.spoilt = random.Random(seed), Graph(object_info), False

    def grown(self, name):
        """The graph around a node of this class; one in twenty with a mistake in it."""
        node, hops = self.add(name, 0), 0
        while not self.graph.info[self.graph[node]["class_type"]]["output_node"]:
            slot, kind = self.random.choice(list(enumerate(self.kinds(node))))
            node, hops = self.taken([node, slot], kind, hops), hops + 1
        if self.random.random() < 0.05:
            self.spoil()
        return self.graph

    def taken(self, link, kind, hops):
        """A node that takes an output."""
        takers = [
            (name, slot)
            for name in self.info
            for slot, wanted, *_ in self.inputs(name)
            if (self.fits(link, wanted) if hops < 2 else name == LAST.get(kind) and wanted in (kind, "small"))
        ]
        name, slot = self.random.choice(takers or [("PreviewAny", "source")])
        return self.add(name, 0, {slot: link})

    def add(self, name, depth, given={}):
        """A node of this class with what it needs, and some of what it can take."""
        inputs, eager = dict(given), self.random.choice([0, 0, 0.5, 1])
        for slot, kind, options, required in self.inputs(name):
            if slot not in given and (required or kind in FIRST and self.random.random() < (min(0.1, eager) if slot in RARE else eager)):
                inputs[slot] = self.value(name, slot, kind, options, depth)
        asked = {
            slot
            for (given, choice), slots in COMPANIONS.items()
            if (choice in inputs if given == "link" else inputs.get(given) == choice)
            for slot in slots
        }
        for slot, kind, options, _ in self.inputs(name):
            if slot in asked - inputs.keys() and self.random.random() < 0.9:
                inputs[slot] = self.value(name, slot, kind, options, depth)
        if name == "SemanticLatents_ExploreSingularVectors" and self.random.random() < 0.9:
            inputs["latent_image"] = self.graph.out("LatentFromBatch", samples=inputs["latent_image"], batch_index=0, length=1)
        if name == "SemanticLatents_CompareEdit" and self.random.random() < 0.7:
            inputs["after"] = self.graph.out("ImageInvert", image=inputs["before"])
        return self.graph.add(name, **inputs)

    # What there is

    def kinds(self, node):
        """The kinds of a node's outputs."""
        return self.graph.info[self.graph[node]["class_type"]]["output"]

    def inputs(self, name):
        return inputs_of(self.graph.info[name], name)

    def fits(self, link, kind):
        """Whether an output can go into an input of this kind."""
        node, slot = link
        name, own = self.graph[node]["class_type"], self.kinds(node)[slot]
        if kind == "small":
            return own == "IMAGE" and name in MAKERS["small"]
        if name == "FlipSigmas":
            return False
        return own == "LATENT" and not self.is_empty(node) if kind == "drawn" else own == kind

    def is_empty(self, node):
        """Whether a node's latents come from an Empty Latent Image and went through no sampler."""
        links = [
            link for slot, link in self.graph[node]["inputs"].items() if isinstance(link, list) and slot not in ("latent", "latent_image")
        ]
        return self.graph[node]["class_type"] == "EmptyLatentImage" or any(
            self.is_empty(origin) for origin, slot in links if self.kinds(origin)[slot] in ("LATENT", "SEMANTIC_LATENTS_SVD")
        )

    # What goes into a node

    def value(self, name, slot, kind, options, depth):
        """A link, or a widget's value."""
        if slot == "target" and kind == "CONDITIONING" and self.random.random() < 0.8:  # another prompt than the source
            return self.graph.out("CLIPTextEncode", text="a face, beard, blue shirt", clip=self.link("CLIP", depth))
        if kind in FIRST:
            link = self.link(kind, depth)
            upwards = name in UPWARDS and kind == "SIGMAS" and self.random.random() < 0.1
            return self.graph.out("FlipSigmas", sigmas=link) if upwards else link
        if name.startswith(PREFIX) and kind in ("int", "float") and self.random.random() < 0.01:
            return self.link(kind.upper(), depth)
        if slot in STOCK.get(name, {}):
            return self.random.choice(STOCK[name][slot])
        if slot == "asymmetric":
            return self.random.random() < 0.3
        if slot == "file":
            return self.random.choice(FILES[name])
        if kind in ("combo", "boolean"):
            return self.random.choice(options["options"] if kind == "combo" else [False, True])
        if kind in ("string", "curve"):
            return self.random.choice(CURVES if kind == "curve" else TEXTS[slot])
        return self.number(kind, options, MOST.get(slot, options["max"]))

    def link(self, kind, depth):
        """An output of this kind, there already or of a new node."""
        there = [[node, slot] for node in self.graph for slot in range(len(self.kinds(node))) if self.fits([node, slot], kind)]
        if there and self.random.random() < (0.3 if kind == "CONDITIONING" else 0.7):
            return self.random.choice(there)
        makers = MAKERS.get(kind) or [
            name for name, node in self.info.items() if kind in node["output"] and not (name in STOCK and node["output_node"])
        ]
        node = self.add(
            FIRST[kind]
            if depth > 1
            else self.random.choice([FIRST[kind], *(makers if self.random.random() < (0.4 if kind == "CONDITIONING" else 1) else ())]),
            depth + 1,
        )
        return self.random.choice(
            [[node, slot] for slot in range(len(self.kinds(node))) if self.fits([node, slot], kind)] or [self.link(kind, 3)]
        )

    def number(self, kind, options, most):
        """A widget's number: the default, an end of its range, or between them, the nearer to the default the likelier."""
        least, start = options["min"], min(options["default"], most)
        end = self.random.choice([least, max(least, min(options["max"], most))])
        found = start + (end - start) * self.random.choice([1, *12 * [0], *7 * [self.random.random() ** 3]])
        return round(found) if kind == "int" else round(found, 6)

    def spoil(self):
        """A mistake in one of the pack's nodes, which the host should see."""
        node = self.random.choice([node for node in self.graph.values() if node["class_type"].startswith(PREFIX)])
        slot, kind, options, required = self.random.choice([given for given in self.inputs(node["class_type"]) if given[3]] or [4 * [None]])
        self.spoilt = slot is not None
        if kind in ("int", "float"):
            node["inputs"][slot] = options["max"] + 1
        elif kind == "combo":
            node["inputs"][slot] = "no such choice"
        elif slot:
            del node["inputs"][slot]
