"""Make Slider on every family of models that users run: what works in a cell of family, place and trait, and what is refused by name."""

import contextlib
import itertools
import re
from typing import NamedTuple

import torch

from pack.tests.models import VIDEO, known
from pack.tests.rounding import close
from pack.tests.wiring import node

FAMILIES = {  # by the host's class, a key of `tests.models.FAMILIES`
    "SD 1.5": "SD15",
    "SD 2.1": "SD20",
    "SDXL": "SDXL",
    "SD3": "SD3",
    "Flux": "Flux",
    "Flux 2": "Flux2",
    "Chroma": "Chroma",
    "HunyuanVideo": "HunyuanVideo",
    "Qwen-Image": "QwenImage",
    "Lumina 2": "Lumina2",
    "Z-Image": "ZImage",
    "Wan 2.1": "WAN21_T2V",
    "LTXV": "LTXV",
    "Cosmos-Predict 2": "CosmosT2IPredict2",
    "Krea 2": "Krea2",
    "HiDream": "HiDream",
    "PixArt": "PixArtSigma",
    "AuraFlow": "AuraFlow",
}
HELD = "prediction held"  # Make Slider as it starts
PLACES = {HELD: {}, "prediction": dict(place="prediction", hold_rest=False), "cross-attention": dict(place="cross-attention")}
TRAITS = ("plain", "batch of 3", "mask", "fp16", "tiles", "context windows", "offload")
UNETS = ("SD 1.5", "SD 2.1", "SDXL")
NO_PLACE = "refused: place: cross-attention is known in the UNets of SD 1.x, SD 2.x and SDXL"
WORKS = "works"
STEPS = 3  # the slider has the last two: the last alone is at so little noise that it edits next to nothing
CHANGED = 1e-3  # of a picture's largest value


class Cell(NamedTuple):
    """A place of the table."""

    family: str
    place: str
    trait: str


def expected(cell):
    """What a cell gives, as `outcome` says it."""
    return WORKS if cell.place != "cross-attention" or cell.family in UNETS else NO_PLACE


def traits_of(family):
    """Those that there are for a family: context windows cut frames."""
    return [trait for trait in TRAITS if trait != "context windows" or FAMILIES[family] in VIDEO]


def cells(family):
    """All of a family."""
    return [Cell(family, *values) for values in itertools.product(PLACES, traits_of(family))]


def chosen(family):
    """Each place of a family in its plainest form, and each further trait at one of the places that work.

    Over all families each pair of a place and a trait is among them that works anywhere.
    """
    works = [place for place in PLACES if expected(Cell(family, place, "plain")) == WORKS]
    plain, *others = traits_of(family)
    turn = [*FAMILIES].index(family)
    return [Cell(family, place, plain) for place in PLACES] + [
        Cell(family, works[(turn + i) % len(works)], trait) for i, trait in enumerate(others)
    ]


def is_known(family):
    """Whether this host has the family."""
    return known(FAMILIES[family])


def outcome(cell, shaped):
    """What Make Slider does in a cell: "works", or "refused: " and how the message begins. Raises what is neither.

    shaped: gives the model of a family of `tests.models` in a number format, as the fixture of this name does.
    """
    world = shaped(FAMILIES[cell.family], torch.float16 if cell.trait == "fp16" else torch.float32)
    before = state_of(world.model)
    try:
        check(cell, world)
        result = WORKS
    except ValueError as error:
        if not re.match(rf"({'|'.join(inputs())})(, \w+)*: ", str(error)):
            raise
        result = "refused: " + re.split(r", and |[.;(]\s", str(error))[0]
    assert state_of(world.model) == before, f"{cell}: something stayed on the model"
    return result


def check(cell, world):
    """Raise AssertionError if a slider does not do in a cell what it promises."""
    trait = Trait(cell.trait, world)
    mask = left_half(trait.latent) if cell.trait == "mask" else None
    slider = dict(mask=mask, **PLACES[cell.place])
    with trait.around() as drawn:
        base = drawn(world.model)
        model = trait.worn(slid(world, 1.0, **slider))
        first, second = (drawn(model, as_it_is=True) for _ in range(2))
        assert torch.isfinite(first).all(), f"{cell}: not finite"
        assert torch.equal(first, second), f"{cell}: the second run is not the first"
        for i, (one, own) in enumerate(zip(first, base, strict=True)):
            assert float((one - own).abs().max()) > CHANGED * float(own.abs().max()), f"{cell}: picture {i} is not edited"
        if mask is not None:
            inside, outside = ([x.chunk(2, -1)[half] for x in (first, base)] for half in range(2))
            assert not torch.equal(*inside), f"{cell}: nothing is edited inside of the mask"
            if cell.place == HELD:
                assert torch.equal(*outside), f"{cell}: the rest is not held outside of the mask"
        for off in {world.model, slid(world, 0.0, **slider)}:
            assert torch.equal(drawn(off), base), f"{cell}: strength 0, or the model afterwards, does not draw as before"
    trait.check(base, first, model)


def slid(world, strength, **changes):
    """The model under Make Slider as it starts, but for the changes."""
    from pack.nodes.sliders import MakeSlider

    words = dict(without="a portrait", wanted="a portrait, smiling")
    return MakeSlider.execute(world.model, world.clip, strength, **words, **changes).args[0]


def inputs():
    """The names of Make Slider's inputs, which its refusals begin with."""
    from pack.nodes.sliders import MakeSlider

    return [port.id for port in MakeSlider.define_schema().inputs]


def left_half(latent):
    """A mask (1, h, w) that is white in the left half."""
    height, width = latent["samples"].shape[-2:]
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask


class Trait:
    """What a trait makes of a run: its latents, what is put on the model, and what is around it."""

    def __init__(self, name, world):
        self.name, self.world, self.calls = name, world, set()
        self.side = world.least
        self.latent = world.empty(3 if name == "batch of 3" else 1, self.side, 2 * self.side if name == "tiles" else None)
        if name == "context windows":
            self.latent["samples"] = self.latent["samples"].repeat_interleave(2, 2)

    def worn(self, model):
        """The model as the trait patches it, after whatever is on it."""
        wear = {"tiles": self.in_tiles, "context windows": self.in_windows, "offload": patched}
        return wear.get(self.name, lambda model: model)(model)

    def in_tiles(self, model):
        """The model under a patch such as the packs for large pictures have: it asks for one half of the picture after the other."""

        def wrapper(apply, args):
            x, side = args["input"], self.side
            result = torch.zeros_like(x)
            for left in range(0, x.shape[-1], side):
                tile = x[..., left : left + side]
                self.calls.add((left, tile.shape[-1]))
                result[..., left : left + side] = apply(tile, args["timestep"], **args["c"])
            return result

        tiled = model.clone()
        tiled.set_model_unet_function_wrapper(wrapper)
        return tiled

    def in_windows(self, model):
        """The model under windows of 4 of the 6 frames."""

        def wrapper(apply, args):
            self.calls.add(args["input"].shape[2])
            return apply(args["input"], args["timestep"], **args["c"])

        settings = dict(context_length=4, context_overlap=2, context_schedule="standard_static", context_stride=1, closed_loop=False)
        windowed = node("context_windows.ContextWindowsManualNode", model=model, fuse_method="pyramid", dim=2, freenoise=False, **settings)
        windowed.set_model_unet_function_wrapper(wrapper)
        return windowed

    def draw(self, model):
        """SamplerCustom's latents, under what a family's own nodes put beside the prompts."""
        from comfy.samplers import sampler_object
        from node_helpers import conditioning_set_values

        world, words = self.world, dict(positive="a portrait, red hair", negative="")
        prompts = {side: conditioning_set_values(world.encode(prompt), world.settings) for side, prompt in words.items()}
        run = dict(sampler=sampler_object("euler"), sigmas=world.sigmas(STEPS, model=model), latent_image=self.latent)
        return node("custom_sampler.SamplerCustom", model=model, add_noise=True, noise_seed=1, cfg=2.0, **prompts, **run)["samples"]

    @contextlib.contextmanager
    def around(self):
        """Gives the function that draws a model's latents, under the trait's patch; as_it_is: without that."""

        def drawn(model, as_it_is=False):
            if self.name == "offload":
                unload()
            return self.draw(model if as_it_is else self.worn(model))

        with weights_stay_away() if self.name == "offload" else contextlib.nullcontext():
            yield drawn
            self.is_away = self.world.model.model.model_lowvram
        if self.name == "offload":
            unload()

    def check(self, base, edited, model):
        """Raise AssertionError if the run was without the trait."""
        reached = {
            "fp16": lambda: self.world.model.model.get_dtype() == torch.float16,
            "tiles": lambda: self.calls == {(0, self.side), (self.side, self.side)},
            "context windows": lambda: (
                base.shape[2] == 6 and 4 in self.calls and 6 not in self.calls
            ),  # a later one may have a frame before
            "offload": lambda: self.is_away,
        }
        assert reached.get(self.name, lambda: True)(), f"{self.name} was not on"
        if self.name == "offload":
            whole = self.draw(model)
            assert not self.world.model.model.model_lowvram
            unload()
            close(edited, whole, 1e-5)


def patched(model):
    """The model with a patch on each linear layer, as a LoRA has: the host adds it when it loads the weight, or when it uses one that
    stays away."""
    own = model.clone()
    layers = [(name, part) for name, part in model.model.named_modules() if isinstance(part, torch.nn.Linear)]
    own.add_patches({f"{name}.weight": (0.2 * layer.weight,) for name, layer in layers})
    return own


@contextlib.contextmanager
def weights_stay_away():
    """The host loads models as under --novram: a weight is brought, cast and patched when its layer uses it."""
    from comfy.model_management import LoadedModel

    load = LoadedModel.model_load
    LoadedModel.model_load = lambda self, lowvram_model_memory=0, force_patch_weights=False: load(self, 0.1, force_patch_weights)
    try:
        yield
    finally:
        LoadedModel.model_load = load
        unload()


def unload():
    """Take all models from where they compute."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    assert not comfy.model_management.loaded_models()


def state_of(model):
    """What is on a model beside its weights: options, patches and wrappers, and the hooks and exchanged methods of its layers."""
    layers = [
        (name, len(layer._forward_hooks), len(layer._forward_pre_hooks), "forward" in vars(layer))
        for name, layer in model.model.named_modules()
        if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    ]
    held = (model.model_options, model.patches, model.object_patches, model.wrappers, model.callbacks, model.attachments)
    return repr((*held, layers))
