"""One table tests what every node owes its users.

It covers neutral settings, masks, batches, repetition, inputs left alone and branches that do not meet.
"""

from types import FunctionType, MethodType, ModuleType

import pytest
import torch

from pack.tests.campaigns.rows import ROWS, Here
from pack.tests.rounding import close

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("short_slider_training")]

CHAINED = {
    "model": ["ApplyDirection", "MakeSlider", "ApplySlider", "ApplyAttributeToModel", "LoadSlider", "ImageGuidance", "ClassifierGuidance"],
    "sampler": ["EditDuringSampling", "ApplyAttribute"],
}
BOOKKEEPING = {"current_patcher"}  # the host's own, of who used the model last
MASKED = [
    "EditDuringSampling",
    "ApplyDirection",
    "ApplyAttribute",
    "ApplyAttributeToModel",
    "MakeSlider",
    "ApplySlider",
    "LoadSlider",
    "ImageGuidance",
    "ClassifierGuidance",
    "DiscoverDirections",
    "TrainSliderLora",
]
LEARNS = ("DiscoverDirections", "TrainSliderLora")  # under a mask


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


@pytest.mark.parametrize("name", [name for name in MASKED if name not in LEARNS])
def test_a_mask_of_zeros_is_off_of_ones_is_none_and_each_picture_may_have_its_own(here, name):
    x = here.x(3)
    for settings in ({}, ROWS[name].other):
        assert not differing(here.seen(name, x, mask=torch.zeros(1, 32, 32), **settings), here.draw(x))
        whole = here.seen(name, x, **settings)
        assert not differing(here.seen(name, x, mask=torch.ones(1, 32, 32), **settings), whole)
        masks = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
        each = here.seen(name, x, mask=masks, **settings)
        close(each, torch.cat([here.seen(name, x[i : i + 1], mask=masks[i : i + 1], **settings) for i in range(3)]), ROWS[name].singles)
        assert not torch.equal(each, whole)


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_a_mask_of_ones_is_none_for_discovery(here, method):
    found = [here.seen("DiscoverDirections", here.x(1), method=method, mask=mask) for mask in (None, torch.ones(1, 32, 32))]
    assert not differing(found[0][0], found[1][0])


@pytest.mark.parametrize("method", ["Jacobian", "pullback"])
def test_a_mask_of_zeros_is_refused_by_discovery(here, method):
    with pytest.raises(ValueError, match="mask: "):
        here.made("DiscoverDirections", here.x(1), method=method, mask=torch.zeros(1, 32, 32))


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
        here.made("Invert", x, model=world.model, positive=world.encode("a portrait"), latent={"samples": latents}, refinements=5)[1][
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


def test_a_mask_of_ones_is_none_for_a_slider_lora_and_one_of_zeros_is_refused(here):
    found = [here.seen("TrainSliderLora", here.x(1), mask=mask) for mask in (None, torch.ones(1, 32, 32))]
    assert not differing(*found)
    with pytest.raises(ValueError, match="mask: it is empty"):
        here.made("TrainSliderLora", here.x(1), mask=torch.zeros(1, 32, 32))
