"""Numbers that come over a link, where the host checks no range: each input of each node takes them, or refuses them by its name."""

import pytest

from pack.tests.workflows.graphs import PREFIX, outcome
from pack.tests.workflows.growing import Grower, inputs_of
from pack.tests.workflows.test_random_graphs import check_end

pytestmark = [pytest.mark.timeout(1800), pytest.mark.campaign, pytest.mark.slow]
SOURCES = {"int": "PrimitiveInt", "float": "PrimitiveFloat"}
LARGEST = 2**63 - 1  # that PrimitiveInt gives; seeds go further
COSTLY = {
    "images",
    "batch_size",
    "epochs",
    "seeds",
    "steps",
    "iterations",
    "refinements",
    "count",
    "tile",
    "columns",
}  # a large one is long work, not a mistake


def numbers(kind, slot, options):
    """Numbers outside an input's range: just below and far below it, and far above it where that is not long work."""
    step = 1 if kind == "int" else 0.5
    below = [options["min"] - step, options["min"] - 100 * step]
    above = [] if slot in COSTLY else [options["max"] + step if options["max"] < 2**31 else LARGEST, 10**6 * step]
    return [*below, *above, *([float("nan"), 1e18] if kind == "float" else [])]


def cases(info):
    """Each number input of each of the pack's nodes with each number."""
    for name in sorted(info):
        for slot, kind, options, _ in inputs_of(info[name], name):
            if name.startswith(PREFIX) and kind in SOURCES:
                yield from ((name, slot, kind, number) for number in numbers(kind, slot, options))


def grown(client, info, name, slot):
    """A graph around a node that runs to its end, in which that input is a widget."""
    for seed in range(200):
        grower = Grower(info, seed)
        graph = grower.grown(name)
        node = next(node for node in graph.values() if node["class_type"] == name)
        if not grower.spoilt and not isinstance(node["inputs"].get(slot), list) and outcome(client, graph).kind == "finished":
            return graph, node
    raise AssertionError(f"no graph around {name} finishes")


def test_takes_or_refuses_numbers_out_of_range(server, object_info, rounds, figures):
    there, wrong, ends = {}, [], {"finished": 0, "failed": 0}
    every = list(cases(object_info))
    for name, slot, kind, number in every[:: rounds(7, 1)]:
        if (name, slot) not in there:
            there[name, slot] = grown(server.client, object_info, name, slot)
        graph, node = there[name, slot]
        given = node["inputs"].get(slot)
        graph["number"] = {"class_type": SOURCES[kind], "inputs": {"value": number}}
        node["inputs"][slot] = ["number", 0]
        try:
            ends[check_end(server.client, graph).kind] += 1
        except AssertionError as problem:
            wrong.append(f"{name}, {slot} {number}: {problem}")
        del graph["number"]
        node["inputs"][slot] = given
    assert not wrong, "\n\n".join(wrong)
    figures("numbers out of range over a link", f"{sum(ends.values())}: {ends['finished']} taken, {ends['failed']} refused by name")
