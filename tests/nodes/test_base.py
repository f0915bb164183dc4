"""The node looks at what comes over links.

Counts and shares keep to their range, sliders to far more. One value comes where one is meant.
"""

import inspect

import pytest
import torch
from comfy_api.latest import io

from pack.nodes.base import bounds, check_numbers, checked, one_value_each

RANGE = dict(minimum=0.0, maximum=1.0, count=2)


@pytest.mark.parametrize(
    "name, inputs, message",
    [
        ("DDIMSampler", dict(eta=-0.5, boost_percent=1.0), "eta: got -0.5; choose 0 to 1."),
        ("DDIMSampler", dict(eta=0.0, boost_percent=1.5), "boost_percent: got 1.5; choose 0 to 1."),
        ("StrengthRange", {**RANGE, "count": 0}, "count: got 0; choose 1 to "),
        ("StrengthRange", {**RANGE, "maximum": float("nan")}, "maximum: got nan; choose -100 to 100."),
        ("StrengthRange", {**RANGE, "minimum": -1e5}, "minimum: got -100000; choose -100 to 100."),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(run, name, inputs, message):
    with pytest.raises(ValueError) as problem:
        run(name, **inputs)
    assert str(problem.value).startswith(message)


@pytest.mark.parametrize(
    "name, inputs, message",
    [
        ("DDIMSampler", dict(eta=2.0, boost_percent=1.0), "eta: got 2; choose 0 to 1."),
        ("StrengthRange", {**RANGE, "count": 101}, "count: got 101; choose 1 to 100."),
        ("StrengthRange", {**RANGE, "minimum": -1e5}, "minimum: got -100000; choose -100 to 100. Over a link, -10000 to 10000 is taken."),
        ("SpectrumOperation", dict(gain=-1.0), "gain: got -1; choose 0 to 10. Over a link, 0 to 1000 is taken."),
    ],
)
def test_the_message_tells_the_bounds_that_were_applied(run, name, inputs, message):
    with pytest.raises(ValueError) as problem:
        run(name, **inputs)
    assert str(problem.value) == message


def test_a_slider_may_go_past_its_end(run):
    strengths, _ = run("StrengthRange", minimum=-500.0, maximum=0.0, count=2)
    assert strengths == [-500.0, 0.0]


def test_each_number_of_a_list_is_looked_at(run):
    with pytest.raises(ValueError, match="epochs: got 0; choose 1 to"):
        run("TrainDirection", epochs=[0])


def test_the_host_s_clone_of_a_node_checks_once(pack_nodes):
    node = pack_nodes["SemanticLatents_DDIMSampler"]
    clone = node.PREPARE_CLASS_CLONE(None)
    assert clone.execute.__func__ is node.execute.__func__
    with pytest.raises(ValueError, match="eta: got 2"):
        clone.execute(eta=2.0, boost_percent=1.0)


def numbers_of(node):
    return [port for port in node.define_schema().inputs if isinstance(port, (io.Int.Input, io.Float.Input))]


def test_every_number_of_every_node_is_taken_at_its_bounds_and_refused_beyond(pack_nodes):
    """A call with one input and no other ends in a TypeError for the others, unless that one is refused before."""
    looked_at = 0
    for node in pack_nodes.values():
        for port in numbers_of(node):
            low, high = bounds(port)
            for beyond in (low - 1, high * 2 + 1, float("nan")):
                with pytest.raises(ValueError, match=f"^{port.id}: got "):
                    node.execute(**{port.id: beyond})
            for end in (low, high):
                check_numbers(node.GET_SCHEMA(), {port.id: end})
            looked_at += 1
    assert looked_at > 60


def test_counts_and_shares_keep_to_their_range_and_sliders_to_a_hundred_times_it():
    for port, expected in (
        (io.Int.Input("count", min=1, max=100), (1, 100)),
        (io.Float.Input("share", min=0.05, max=1.0), (0.05, 1.0)),
        (io.Float.Input("gain", min=0.0, max=10.0), (0.0, 1000.0)),
        (io.Float.Input("cfg", min=1.0, max=30.0), (1.0, 3000.0)),
        (io.Float.Input("strength", min=-10.0, max=10.0), (-1000.0, 1000.0)),
    ):
        assert bounds(port) == expected, port.id


def test_a_seed_may_be_as_large_as_the_host_s_and_no_larger(pack_nodes):
    schema = pack_nodes["SemanticLatents_TrainAttribute"].GET_SCHEMA()
    check_numbers(schema, {"seed": 2**64 - 1})
    with pytest.raises(ValueError, match=f"^seed: got {2**64}; choose 0 to {2**64 - 1}"):
        check_numbers(schema, {"seed": 2**64})


def test_a_node_is_called_by_position_as_by_name(pack_nodes, run):
    by_position = pack_nodes["SemanticLatents_StrengthRange"].execute(-1.0, 1.0, 3).args
    mixed = pack_nodes["SemanticLatents_StrengthRange"].execute(-1.0, count=3, maximum=1.0).args
    assert by_position == mixed == run("StrengthRange", minimum=-1.0, maximum=1.0, count=3)
    with pytest.raises(ValueError, match="^count: got 0"):
        pack_nodes["SemanticLatents_StrengthRange"].execute(-1.0, 1.0, 0)


def test_a_node_that_takes_lists_is_called_by_position_as_by_name(pack_nodes, run):
    image = torch.rand(1, 32, 32, 3)
    by_position = pack_nodes["SemanticLatents_Grid"].execute([image], [0], [32], ["title"]).args
    assert torch.equal(by_position[0], run("Grid", images=[image], columns=[0], tile=[32], title=["title"])[0])
    with pytest.raises(ValueError, match="^tile: got 0"):
        pack_nodes["SemanticLatents_Grid"].execute([image], [0], [0], [""])


def test_a_node_s_signature_is_its_author_s():
    def execute(cls, first, second: float = 2.0, *, third=3) -> io.NodeOutput:
        raise NotImplementedError

    for decorated in (checked(execute), one_value_each(but=())(execute), checked(one_value_each(but=())(execute))):
        assert inspect.signature(decorated) == inspect.signature(execute)


def test_the_schema_is_made_once(run, pack_nodes, monkeypatch):
    """The host keeps a node's schema when it loads the node; making it again may list files."""
    node, made = pack_nodes["SemanticLatents_StrengthRange"], []
    define = node.define_schema
    monkeypatch.setattr(node, "SCHEMA", None)
    monkeypatch.setattr(node, "define_schema", classmethod(lambda cls: made.append(1) or define()))
    for _ in range(3):
        run("StrengthRange", **RANGE)
    assert len(made) == 1


LISTS = {"TrainDirection": {"pictures"}, "Grid": {"images", "labels"}}  # inputs that are meant to be lists


def test_only_some_inputs_of_nodes_that_take_lists_are_meant_to_be_lists(pack_nodes):
    """Each other one is refused by its name for values that differ; nothing takes the first in silence."""
    takers = {name.split("_", 1)[1]: node for name, node in pack_nodes.items() if node.define_schema().is_input_list}
    assert set(takers) == set(LISTS)
    for name, node in takers.items():
        ids = [port.id for port in node.define_schema().inputs]
        for differing in set(ids) - LISTS[name]:
            given = {port: ["a"] for port in ids} | {port.id: [port.min] for port in numbers_of(node)}
            given[differing] = (
                given[differing] + ["b"] if isinstance(given[differing][0], str) else [given[differing][0], given[differing][0] + 0.01]
            )
            with pytest.raises(ValueError, match=f"^{differing}: got a list of 2 values; connect one value"):
                node.execute(**given)


def test_strengths_into_train_direction_are_refused_by_name(run):
    """Strength Range connected to keep_weight: once, one direction of its first value came out."""
    settings = dict(
        model=None,
        source=[],
        negative=[],
        vae=None,
        latent={},
        objective="prompt matching",
        images=2,
        batch_size=2,
        epochs=1,
        steps=3,
        end_percent=0.8,
        cfg=2.0,
        learning_rate=1e-3,
        seed=0,
        source_text="a",
        target_text="b",
    )
    strengths, _ = run("StrengthRange", minimum=0.1, maximum=2.0, count=3)
    with pytest.raises(ValueError) as problem:
        run("TrainDirection", **{key: [value] for key, value in settings.items()}, keep_weight=strengths)
    assert (
        str(problem.value) == "keep_weight: got a list of 3 values; connect one value. Of this node's inputs only pictures may be a list."
    )


def test_an_empty_list_is_refused_by_name(run):
    with pytest.raises(ValueError, match="^columns: got a list of 0 values"):
        run("Grid", images=[torch.rand(1, 32, 32, 3)], columns=[], tile=[16], title=[""])


@pytest.mark.parametrize(
    "values",
    [
        [3, 3],
        ["a", "a"],
        [None, None],
        [{"samples": torch.zeros(1, 4, 8, 8)}, {"samples": torch.zeros(1, 4, 8, 8)}],
        [[[torch.ones(1, 2), {"pooled": torch.ones(1)}]], [[torch.ones(1, 2), {"pooled": torch.ones(1)}]]],
    ],
)
def test_equal_values_of_a_node_that_ran_several_times_count_as_one(values):
    """Explore Singular Vectors, run for several seeds, gives Labelled Grid its number of columns as often."""
    got = one_value_each(but=())(lambda cls, given: given)(None, values)
    assert got is values[0]


@pytest.mark.parametrize(
    "values",
    [
        [3, 4],
        ["a", "b"],
        [None, 1],
        [{"samples": torch.zeros(1, 4, 8, 8)}, {"samples": torch.zeros(1, 4, 8, 16)}],
        [torch.zeros(2), torch.ones(2)],
        [{"samples": torch.zeros(1)}, {"samples": torch.zeros(1), "noise_mask": torch.zeros(1)}],
        [object(), object()],
        [[1], [1, 2]],
    ],
)
def test_values_that_differ_do_not(values):
    with pytest.raises(ValueError, match="^given: got a list of 2 values"):
        one_value_each(but=())(lambda cls, given: given)(None, values)
