"""Numbers that come over a link are looked at by the node: counts and shares by their range, sliders by far more."""

import pytest

RANGE = dict(minimum=0.0, maximum=1.0, count=2)


@pytest.mark.parametrize("name, inputs, message", [
    ("DDIMSampler", dict(eta=-0.5, boost_percent=1.0), "eta: got -0.5; choose 0 to 1."),
    ("DDIMSampler", dict(eta=0.0, boost_percent=1.5), "boost_percent: got 1.5; choose 0 to 1."),
    ("StrengthRange", {**RANGE, "count": 0}, "count: got 0; choose 1 to "),
    ("StrengthRange", {**RANGE, "maximum": float("nan")}, "maximum: got nan; choose -100 to 100."),
    ("StrengthRange", {**RANGE, "minimum": -1e5}, "minimum: got -100000; choose -100 to 100."),
])
def test_a_number_out_of_range_is_refused_by_its_name(run, name, inputs, message):
    with pytest.raises(ValueError) as problem:
        run(name, **inputs)
    assert str(problem.value).startswith(message)


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
