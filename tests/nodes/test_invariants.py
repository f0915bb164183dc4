"""One table tests what every node owes its users.

It covers neutral settings, masks, batches, repetition, inputs left alone and branches that do not meet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.campaign

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
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        self.run, self.nodes = run, {name.removeprefix("SemanticLatents_"): node for name, node in pack_nodes.items()}
        self.wires = dict(
            model=demo.model,
            vae=demo.vae,
            sampler=sampler_of("euler"),
            sigmas=BasicScheduler.execute(demo.model, "normal", STEPS, 1.0).args[0],
            source=demo.encode("a face"),
            target=demo.encode("a face, blue hair"),
            negative=demo.encode(""),
            latent=demo.empty(),
        )
        self.wires["positive"] = self.wires["source"]
        self.known = {}
        self.clip, self.scorer = demo.clip, run("DemoScorer")[0]
        comfy.model_management.load_models_gpu([self.scorer.patcher])  # which leaves the host's marks on it
        self.attributes = [self.made("TrainAttribute", self.x(1), seed=seed)[0] for seed in (0, 1)]
        self.directions = [self.made("DirectionFromPrompts", self.x(1), seed=seed)[0] for seed in (0, 1)]
        self.trajectory = self.made("SampleTrajectory", self.x(1))[1]

    @staticmethod
    def x(batch):
        """Latents, or the noise of a run."""
        return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))

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


def saved(kind):
    """Of a Save node: what its file holds."""

    def see(here, outputs, x):
        import folder_paths

        file = max(file for file in folder_paths.get_filename_list("semantic_latents") if file.startswith(kind.lower()))
        loaded = here.made(f"Load{kind}", x, file=file)[0]
        return loaded.shifts if kind == "Direction" else loaded.parts[0][0].stored.S

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
    "LoadDirection": Row(always(file="demo_sunglasses.safetensors"), parts_of_direction, other=dict(file="demo_beard.safetensors")),
    "DDIMSampler": Row(nothing, drawn_by_sampler, other=dict(eta=1.0), singles=ROUNDING),
    "Invert": Row(
        lambda here, x: dict(latent={"samples": 0.3 * x}),
        lambda here, outputs, x: (outputs[1]["samples"], here.draw(x, sampler=outputs[2]), outputs[3]),
        other=dict(refinements=0),
        singles=1e-3,
    ),
    "TrainDirection": Row(lambda here, x: dict(target=here.wires["target"]), parts_of_trained, other=dict(seed=5)),
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
        other=dict(target_text="a face, hat"),
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
    "LoadAttribute": Row(always(file="demo_attribute_sunglasses.safetensors"), parts_of_attribute),
    "StrengthRange": Row(nothing, other=dict(maximum=2.0)),
    "Grid": Row(
        lambda here, x: dict(images=[here.picture(0), here.picture(1)], columns=[1], tile=[64], title=["a"], labels=["b", "c"]),
        other=dict(title=["d"]),
    ),
}
CHAINED = {"model": ["ApplyDirection"], "sampler": ["EditDuringSampling", "ApplyAttribute"]}
BOOKKEEPING = {"current_patcher"}  # the host's own, of who used the model last
MASKED = ["EditDuringSampling", "ApplyDirection", "ApplyAttribute", "DiscoverDirections"]


@pytest.fixture(scope="module")
def here(demo, pack_nodes, tmp_path_factory):
    import comfy.samplers
    import folder_paths

    folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
    with torch.inference_mode():
        return Here(
            demo,
            pack_nodes,
            lambda name, **inputs: pack_nodes[f"SemanticLatents_{name}"].execute(**inputs).args,
            comfy.samplers.sampler_object,
        )


def leaves(value, path="all"):
    """Tensors and plain values in what is seen of a node, by their place."""
    if isinstance(value, (dict, list, tuple)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {place: leaf for key, part in parts for place, leaf in leaves(part, f"{path}.{key}").items()}
    return {path: value}


def differing(one, two):
    """The places at which two results are not equal bit for bit."""
    one, two = leaves(one), leaves(two)
    equal = [
        path
        for path in one.keys() & two.keys()
        if (torch.equal(one[path], two[path]) if isinstance(one[path], torch.Tensor) else one[path] == two[path])
    ]
    return sorted((one.keys() | two.keys()) - set(equal))


def first_of(value):
    return value[0] if isinstance(value, tuple) else value


def pictures_in(value, count):
    """The tensors in what is seen of a node that have a row for each latent."""
    return [part for part in leaves(value).values() if isinstance(part, torch.Tensor) and part.ndim and len(part) == count]


def named(*fields):
    """The nodes whose row has these."""
    return [name for name, row in ROWS.items() if all(getattr(row, field) is not None for field in fields)]


def test_every_node_has_a_row_and_what_its_inputs_call_for(here):
    assert set(ROWS) == set(here.nodes)
    inputs = {name: {i.id: i.get_io_type() for i in node.define_schema().inputs} for name, node in here.nodes.items()}
    assert {name for name, own in inputs.items() if "MASK" in own.values()} == set(MASKED)
    assert {name for name, own in inputs.items() if "strength" in own} <= set(named("neutral"))
    assert {name for name, own in inputs.items() if {"MODEL", "SAMPLER"} & set(own.values())} - set(named("other")) == {"SampleTrajectory"}


def reached(inputs):
    """Everything that can be reached from a node's inputs, by the way there: objects themselves, and copies of what tensors hold."""
    found, known, ways = {}, set(), [("", inputs)]
    while ways:
        way, value = ways.pop()
        found[way] = value, value.clone() if isinstance(value, torch.Tensor) else None
        if id(value) not in known and not isinstance(value, (torch.Tensor, type, ModuleType)):
            known.add(id(value))
            ways += [(f"{way}.{name}", part) for name, part in parts_of(value) if name not in BOOKKEEPING]
    return found


def parts_of(value):
    if isinstance(value, dict):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(i), part) for i, part in enumerate(value)]
    if isinstance(value, FunctionType):
        return [(str(i), cell.cell_contents) for i, cell in enumerate(value.__closure__ or ())]
    if isinstance(value, MethodType):
        return [("self", value.__self__), ("function", value.__func__)]
    return [*getattr(value, "__dict__", {}).items()]


def changes(before, after):
    """The ways that lead elsewhere now, or to tensors that hold something else."""
    for way in before.keys() | after.keys():
        (old, held), (new, holds) = before.get(way, (None, None)), after.get(way, (None, None))
        if isinstance(old, torch.Tensor):
            same = new is old and torch.equal(held, holds)
        elif isinstance(old, (dict, list, tuple, str, int, float, set)):
            same = type(new) is type(old) and (len(new) == len(old) if isinstance(old, (dict, list, tuple)) else new == old)
        else:
            same = new is old or isinstance(old, MethodType)
        if not same or (way in before) != (way in after):
            yield way


@pytest.mark.parametrize("name", ROWS)
def test_what_came_in_is_left_alone(here, folders, name):
    """Objects, settings, patches, weights and tensors; and a plain run after the node is the one before it."""
    import comfy.model_management

    x = here.x(1)
    inputs, plain = here.inputs(name, x), here.draw(x)
    wires = {**here.wires, **inputs}
    before = reached(wires)
    ROWS[name].see(here, here.of(name, inputs), x)
    assert sorted(changes(before, reached(wires))) == []
    assert not differing(here.draw(x), plain)
    assert not comfy.model_management.in_training
    assert not torch.is_grad_enabled()


@pytest.mark.parametrize("name", named("neutral"))
def test_a_neutral_setting_changes_no_bit(here, folders, name):
    row, x = ROWS[name], here.x(1)
    plain, neutral = row.plain(here, x), here.seen(name, x, **row.neutral(here, x))
    assert not differing(first_of(neutral), plain)


@pytest.mark.parametrize("name", [name for name in MASKED if name != "DiscoverDirections"])
def test_a_mask_of_zeros_is_off_of_ones_is_none_and_each_picture_may_have_its_own(here, name):
    x = here.x(3)
    for settings in ({}, ROWS[name].other):
        assert not differing(here.seen(name, x, mask=torch.zeros(1, 32, 32), **settings), here.draw(x))
        whole = here.seen(name, x, **settings)
        assert not differing(here.seen(name, x, mask=torch.ones(1, 32, 32), **settings), whole)
        masks = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
        each = here.seen(name, x, mask=masks, **settings)
        close(each, torch.cat([here.seen(name, x[i : i + 1], mask=masks[i : i + 1], **settings) for i in range(3)]), ROUNDING)
        assert not torch.equal(each, whole)


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_a_mask_of_ones_is_none_for_discovery(here, method):
    found = [here.seen("DiscoverDirections", here.x(1), method=method, mask=mask) for mask in (None, torch.ones(1, 32, 32))]
    assert not differing(found[0][0], found[1][0])


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_a_mask_of_zeros_is_refused_by_discovery(here, method):
    with pytest.raises(ValueError, match="mask: "):
        here.made("DiscoverDirections", here.x(1), method=method, mask=torch.zeros(1, 32, 32))


def close(a, b, share):
    """Equal up to rounding, as a share of the latent's size."""
    torch.testing.assert_close(a, b, rtol=0, atol=share * float(b.abs().max()))


@pytest.mark.parametrize("name", named("singles"))
def test_a_batch_equals_its_singles_in_any_order(here, name):
    x, share, order = here.x(3), ROWS[name].singles, [2, 0, 1]
    together, permuted = (pictures_in(here.seen(name, latents), 3) for latents in (x, x[order]))
    alone = [pictures_in(here.seen(name, x[i : i + 1]), 1) for i in range(3)]
    assert together
    for part, moved, *singles in zip(together, permuted, *alone, strict=True):
        close(part, torch.cat(singles), share)
        close(moved, part[order], share)


def test_a_picture_s_inversion_does_not_depend_on_its_neighbours(here, shaped):
    """In a model in which not every picture comes nearer."""
    world = shaped("SD15")
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)) * torch.tensor([0.3, 10.0])[:, None, None, None]
    together, alone = (
        here.made("Invert", x, model=world.model, positive=world.encode("a face"), latent={"samples": latents}, refinements=5)[1][
            "samples"
        ][:1]
        for latents in (x, x[:1])
    )
    close(together, alone, 1e-2)


@pytest.mark.parametrize("name", ROWS)
def test_a_second_run_equals_the_first(here, folders, name):
    """The node run again, and its outputs used again, as the host does it that keeps them."""
    x, first = here.x(1), here.first(name)
    outputs = here.made(name, x)
    for what in ("the second run", "its second use"):
        assert not differing(ROWS[name].see(here, outputs, x), first), what


@pytest.mark.parametrize("name", named("other"))
def test_two_branches_of_one_graph_do_not_meet(here, name):
    """Both from the same wires, one after the other and in turns; and a third that goes on from the first."""
    x, row = here.x(1), ROWS[name]
    given = here.inputs(name, x), here.inputs(name, x, **row.other)
    alone = [here.first(name), row.see(here, here.of(name, given[1]), x)]
    assert differing(*alone)
    assert row.plain is None or all(differing(first_of(one), row.plain(here, x)) for one in alone)
    branches = [here.of(name, inputs) for inputs in given]
    wire = next((wire for wire in ("model", "sampler") if name in CHAINED[wire]), None)
    further = here.of(name, {**given[0], wire: branches[0][0]}) if wire else None
    for i in (1, 0, 1):
        if further:
            row.see(here, further, x)
        assert not differing(row.see(here, branches[i], x), alone[i]), f"branch {i}"
