"""What every node is tried with, and what is seen of it."""

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

STEPS = 3
TINY = dict(
    images=3,
    batch_size=3,
    steps=2,
    cfg=2.0,
    seeds=1,
    epochs=1,
    count=2,
    iterations=2,
    triplets="1",
    gains="0.5",
    refinements=2,
    percent=0.5,
    rank=2,
)
ROUNDING = 1e-4  # of a run in float32, as a share of the latent's size


@dataclass
class Given:
    """A NOISE that is known."""

    noise: torch.Tensor
    seed = 0

    def generate_noise(self, latent):
        return self.noise


class Here:
    """What lies on the wires of a graph of the demo model, one of each."""

    def __init__(self, demo, pack_nodes, run, sampler_of):
        import comfy.model_management

        self.run, self.nodes = run, {name.removeprefix("SemanticLatents_"): node for name, node in pack_nodes.items()}
        self.wires = dict(
            model=demo.model,
            vae=demo.vae,
            sampler=sampler_of("euler"),
            sigmas=demo.sigmas(STEPS),
            source=demo.encode("a portrait"),
            target=demo.encode("a portrait, blue hair"),
            negative=demo.encode(""),
            latent=demo.empty(),
        )
        self.wires["positive"] = self.wires["source"]
        self.known = {}
        self.clip, self.scorer = demo.clip, run("DemoScorer")[0]
        comfy.model_management.load_models_gpu([self.scorer.patcher])  # which leaves the host's marks on it
        self.attributes = [self.made("TrainAttribute", self.x(1), seed=seed)[0] for seed in (0, 1)]
        self.directions = [self.made("DirectionFromPrompts", self.x(1), seed=seed)[0] for seed in (0, 1)]
        self.slider = self.made("MakeSlider", self.x(1))[1]
        self.trajectory = self.made("SampleTrajectory", self.x(1))[1]

    @staticmethod
    def x(batch):
        """Latents, or the noise of a run."""
        return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def inputs(self, name, x, **changes):
        """A node's inputs: from the wires, from its row, small settings, and the rest as they stand in its schema."""
        from comfy_extras.nodes_custom_sampler import CFGGuider

        schema = self.nodes[name].define_schema()
        guider = CFGGuider.execute(self.wires["model"], self.wires["source"], self.wires["negative"], 2.0).args[0]
        wired = {**self.wires, "noise": Given(x), "guider": guider, "latent_image": {"samples": torch.zeros_like(x)}}
        widgets = {i.id: TINY.get(i.id, i.default) for i in schema.inputs if not i.optional and hasattr(i, "default")}
        sockets = {i.id: wired[i.id] for i in schema.inputs if not i.optional and not hasattr(i, "default") and i.id in wired}
        return {**sockets, **widgets, **ROWS[name].give(self, x), **changes}

    def made(self, name, x, **changes):
        """A node's outputs."""
        return self.of(name, self.inputs(name, x, **changes))

    @staticmethod
    def picture(seed):
        return torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(seed))

    def of(self, name, inputs):
        """The outputs for these inputs."""
        lists = self.nodes[name].define_schema().is_input_list and name != "Grid"
        return self.run(name, **{key: [value] for key, value in inputs.items()} if lists else inputs)

    def seen(self, name, x, **changes):
        """What comes of a node."""
        return ROWS[name].see(self, self.made(name, x, **changes), x)

    def first(self, name):
        """What was seen of a node when it first ran, for one latent."""
        if name not in self.known:
            self.known[name] = self.seen(name, self.x(1))
        return self.known[name]

    def draw(self, x, *, sampler=None, model=None):
        """A run from noise x."""
        from comfy_extras.nodes_custom_sampler import CFGGuider, SamplerCustomAdvanced

        guider = CFGGuider.execute(model or self.wires["model"], self.wires["source"], self.wires["negative"], 2.0).args[0]
        return SamplerCustomAdvanced.execute(
            Given(x), guider, sampler or self.wires["sampler"], self.wires["sigmas"], {"samples": torch.zeros_like(x)}
        ).args[0]["samples"]

    def stock(self, *, steps, seed=0):
        """The picture of KSampler and VAE Decode."""
        from pack.tests.wiring import node

        wires, how = self.wires, dict(sampler_name="euler", scheduler="normal", denoise=1.0, cfg=2.0)
        prompts = dict(positive=wires["positive"], negative=wires["negative"])
        latent = node("KSampler", model=wires["model"], seed=seed, steps=steps, latent_image=wires["latent"], **prompts, **how)
        return wires["vae"].decode(latent["samples"])

    def with_attribute(self, x, attribute):
        return self.draw(x, sampler=self.made("ApplyAttribute", x, attribute=attribute)[0])

    def with_direction(self, x, direction):
        return self.draw(x, model=self.made("ApplyDirection", x, direction=direction)[0])


def svd(here, x):
    """A decomposed latent, without Decompose's plot."""
    from pack.core.svd.decomposition import decompose
    from pack.nodes.base import DecomposedLatent

    return DecomposedLatent.of(decompose(x), {"samples": x})


def composed(here, outputs, x):
    return here.run("Compose", svd=outputs[0])[0]["samples"]


def drawn_by_sampler(here, outputs, x):
    return here.draw(x, sampler=outputs[0])


def drawn_by_model(here, outputs, x):
    return here.draw(x, model=outputs[0])


def all_of(here, outputs, x):
    return outputs


def plain_run(here, x):
    return here.draw(x)


def operation(here, **changes):
    return here.made("SpectrumOperation", here.x(1), **changes)[0]


def parts_of_attribute(here, outputs, x):
    return [(part.stored.U, part.stored.S, part.stored.Vh, weight) for part, weight in outputs[0].parts], outputs[1:]


def parts_of_direction(here, outputs, x):
    direction = outputs[0]
    return direction.shifts, direction.sigmas


def parts_of_trained(here, outputs, x):
    return [*outputs[0].network.state_dict().values()], outputs[0].means.shifts, outputs[1:]


HELD = {
    "Direction": lambda outputs: outputs[0].shifts,
    "Attribute": lambda outputs: outputs[0].parts[0][0].stored.S,
    "Slider": lambda outputs: outputs[1].plus[0][0],
}


def saved(kind):
    """Of a Save node: what its file holds."""

    def see(here, outputs, x):
        import folder_paths

        file = max(file for file in folder_paths.get_filename_list("semantic_latents") if file.startswith(kind.lower()))
        return HELD[kind](here.made(f"Load{kind}", x, file=file))

    return see


@dataclass(frozen=True)
class Row:
    """How a node is tried: its inputs for latents x beside the usual ones, what is seen of its outputs, what that is without
    the node or with a neutral setting, the settings of another branch, and how near a batch comes to its singles."""

    give: Callable[[Here, Any], dict]
    see: Callable[[Here, tuple, Any], Any] = all_of
    plain: Callable[[Here, Any], Any] | None = None
    neutral: Callable[[Here, Any], dict] | None = None
    other: dict | None = None
    singles: float | None = None


def nothing(here, x):
    return {}


@functools.cache
def pixel_file():
    """The name of a small checkpoint of DDPM's layout, of random weights, where the host lists it."""
    import folder_paths
    from safetensors.torch import save_file

    from pack.tests.pixel import Reference, filled

    folder = tempfile.mkdtemp()
    folder_paths.add_model_folder_path("diffusion_models", folder)
    network = filled(Reference(layout="DDPM", width=32, multipliers=(1, 2), blocks=1, attention=(1,)))
    save_file(network.state_dict(), f"{folder}/small_ddpm.safetensors")
    return "small_ddpm.safetensors"


def predicted_in_pixels(here, outputs, x):
    """What a loaded network predicts, and what its prompt and its info are."""
    noise = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return outputs[0].model.diffusion_model(noise, torch.tensor([500.0])), outputs[2][0][0], outputs[3]


def always(**settings):
    return lambda here, x: settings


ROWS = {
    "Decompose": Row(lambda here, x: dict(samples={"samples": x}), composed, other=dict(layout="joint"), singles=1e-6),
    "Compose": Row(lambda here, x: dict(svd=svd(here, x)), lambda here, outputs, x: outputs[0]["samples"], singles=1e-6),
    "RescaleSingularValues": Row(
        lambda here, x: dict(svd=svd(here, x)),
        composed,
        lambda here, x: composed(here, [svd(here, x)], x),
        always(strength=0.0),
        dict(gain=0.5),
        1e-6,
    ),
    "ExchangeSingularVectors": Row(
        lambda here, x: dict(svd=svd(here, x), other=svd(here, 2 * x.flip(-1))),
        composed,
        lambda here, x: composed(here, [svd(here, x)], x),
        lambda here, x: dict(other=svd(here, x)),
        dict(take="values"),
        1e-6,
    ),
    "SpectrumOperation": Row(
        nothing, lambda here, outputs, x: outputs[0](latent=x), lambda here, x: x, always(strength=0.0), dict(mode="power"), 1e-6
    ),
    "EditDuringSampling": Row(
        lambda here, x: dict(operation=operation(here)),
        drawn_by_sampler,
        plain_run,
        lambda here, x: dict(operation=operation(here, strength=0.0)),
        dict(target="x_t", steps="first in range"),
        ROUNDING,
    ),
    "DirectionFromPrompts": Row(nothing, parts_of_direction, other=dict(seed=5)),
    "DiscoverDirections": Row(
        nothing, lambda here, outputs, x: ([d.shifts for d in outputs[0]], outputs[1:]), other=dict(method="Jacobian")
    ),
    "ApplyDirection": Row(
        lambda here, x: dict(direction=here.directions[0]),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, asymmetric=True),
        ROUNDING,
    ),
    "MakeSlider": Row(
        lambda here, x: dict(clip=here.clip),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, place="prediction"),
        ROUNDING,
    ),
    "ApplySlider": Row(
        lambda here, x: dict(slider=here.slider), drawn_by_model, plain_run, always(strength=0.0), dict(strength=-1.0), ROUNDING
    ),
    "CalibrateSlider": Row(
        lambda here, x: dict(slider=here.slider, seeds=2, steps=3),
        lambda here, outputs, x: (here.draw(x, model=outputs[0].on(here.wires["model"], 0.7)), *outputs[1:]),
        other=dict(seed=5),
    ),
    "SliderStrip": Row(
        lambda here, x: dict(slider=here.made("MakeSlider", x, clip=here.clip)[1], strengths="0.5, 1", steps=STEPS),
        lambda here, outputs, x: (outputs[1], outputs[0], outputs[2]),
        lambda here, x: here.stock(steps=STEPS),
        always(strengths="0"),
        dict(seed=5),
    ),
    "ImageGuidance": Row(
        lambda here, x: dict(reference={"samples": 0.5 * here.x(1).flip(-1)}),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, downsample=1),
        ROUNDING,
    ),
    "ClassifierGuidance": Row(
        lambda here, x: dict(clip=here.clip, clip_vision=here.scorer),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, target_text="a portrait, hat"),
        5e-3,  # where a pixel is white or black its gradient is 0, and rounding decides which are
    ),
    "CombineDirections": Row(
        lambda here, x: dict(first=here.directions[0], second=here.directions[1]),
        lambda here, outputs, x: here.with_direction(x, outputs[0]),
        lambda here, x: here.with_direction(x, here.directions[0]),
        always(second_weight=0.0),
        dict(second_weight=-1.0, orthogonalise=True),
        ROUNDING,
    ),
    "SaveDirection": Row(
        lambda here, x: dict(direction=here.directions[0]), saved("Direction"), lambda here, x: here.directions[0].shifts, nothing
    ),
    "LoadDirection": Row(always(file="portrait_direction_sunglasses.safetensors"), parts_of_direction),
    "DDIMSampler": Row(nothing, drawn_by_sampler, other=dict(eta=1.0), singles=ROUNDING),
    "Invert": Row(
        lambda here, x: dict(latent={"samples": 0.3 * x}),
        lambda here, outputs, x: (outputs[1]["samples"], here.draw(x, sampler=outputs[2]), outputs[3]),
        other=dict(refinements=0),
        singles=1e-3,
    ),
    "TrainDirection": Row(lambda here, x: dict(target=here.wires["target"]), parts_of_trained, other=dict(seed=5)),
    "TrainSliderLora": Row(
        lambda here, x: dict(clip=here.clip),
        lambda here, outputs, x: ([outputs[0][key] for key in sorted(outputs[0])], *outputs[1:3]),
        other=dict(seed=5),
    ),
    "DemoScorer": Row(
        nothing,
        lambda here, outputs, x: outputs[0].encode_image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))[
            "image_embeds"
        ],
    ),
    "EditingSchedule": Row(always(steps=4, images=1), other=dict(distance="RMS", seed=5)),
    "SampleTrajectory": Row(
        nothing,
        lambda here, outputs, x: (outputs[0]["samples"], torch.stack(outputs[1].x, 1)),
        lambda here, x: here.draw(x),
        nothing,
        singles=ROUNDING,
    ),
    "SubspaceDistance": Row(lambda here, x: dict(trajectory=here.trajectory), other=dict(side="right")),
    "VectorMobility": Row(lambda here, x: dict(trajectory=here.trajectory, triplets=3), other=dict(of="x0")),
    "ExploreSingularVectors": Row(
        nothing, lambda here, outputs, x: (outputs[0]["samples"], *outputs[1:]), plain_run, always(gains="1", batch_size=1), dict(gains="2")
    ),
    "CompareEdit": Row(
        lambda here, x: dict(before=here.picture(0), after=here.picture(1), clip=here.clip, clip_vision=here.scorer),
        other=dict(target_text="a portrait, hat"),
    ),
    "TrainAttribute": Row(nothing, parts_of_attribute, other=dict(seed=5, solver="MLP")),
    "ApplyAttribute": Row(
        lambda here, x: dict(attribute=here.attributes[0], target=here.wires["target"]),
        drawn_by_sampler,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, budget=0.5, target=None),
        ROUNDING,
    ),
    "ApplyAttributeToModel": Row(
        lambda here, x: dict(attribute=here.attributes[0], target=here.wires["target"]),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0, budget=0.5, target=None),
        ROUNDING,
    ),
    "SaveSlider": Row(lambda here, x: dict(slider=here.slider), saved("Slider"), lambda here, x: here.slider.plus[0][0], nothing),
    "LoadSlider": Row(
        always(file="portrait_direction_sunglasses.safetensors"),
        drawn_by_model,
        plain_run,
        always(strength=0.0),
        dict(strength=-1.0),
        ROUNDING,
    ),
    "MixAttributes": Row(
        lambda here, x: dict(first=here.attributes[0], second=here.attributes[1]),
        lambda here, outputs, x: here.with_attribute(x, outputs[0]),
        lambda here, x: here.with_attribute(x, here.attributes[0]),
        always(second_weight=0.0),
        dict(second_weight=-1.0),
        ROUNDING,
    ),
    "SaveAttribute": Row(
        lambda here, x: dict(attribute=here.attributes[0]),
        saved("Attribute"),
        lambda here, x: here.attributes[0].parts[0][0].stored.S,
        nothing,
    ),
    "LoadPixelModel": Row(lambda here, x: dict(file=pixel_file()), predicted_in_pixels, other=dict(conventions="guided diffusion")),
    "LoadAttribute": Row(
        always(file="portrait_attribute_sunglasses.safetensors"),
        parts_of_attribute,
        other=dict(file="portrait_attribute_smile.safetensors"),
    ),
    "StrengthRange": Row(nothing, other=dict(maximum=2.0)),
    "Grid": Row(
        lambda here, x: dict(images=[here.picture(0), here.picture(1)], columns=[1], tile=[64], title=["a"], labels=["b", "c"]),
        other=dict(title=["d"]),
    ),
}
