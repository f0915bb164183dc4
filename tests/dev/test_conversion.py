"""Workflows as the frontend saves them become the prompts that it would have sent."""

import pytest

from pack.dev.workflow import WorkflowError, to_prompt

INFO = {
    "Source": {"input": {"required": {"model": [["a.safetensors", "b.safetensors"], {}]}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "name": ["COMBO", {"options": ["euler", "ddim"]}],
            },
            "optional": {"mask": ["MASK", {}], "scale": ["FLOAT", {"default": 2.5}], "keep": ["BOOLEAN", {"default": True}]},
        }
    },
    "Image": {
        "input": {
            "required": {
                "image": [["one.png"], {"image_upload": True}],
                "channel": ["COMBO", {"options": ["red", "blue"]}],
            },
            "optional": {"note": ["STRING", {}]},
        }
    },
    "Resize": {
        "input": {
            "required": {
                "image": ["IMAGE", {}],
                "by": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "factor", "inputs": {"required": {"factor": ["FLOAT", {"default": 1.0}]}}},
                            {"key": "size", "inputs": {"required": {"width": ["INT", {}]}, "optional": {"height": ["INT", {}]}}},
                        ]
                    },
                ],
                "method": ["COMBO", {"options": ["area", "nearest"]}],
            }
        }
    },
    "Curve": {
        "input": {
            "required": {
                "points": ["CURVE", {"socketless": True}],
                "gain": ["FLOAT,INT", {"widgetType": "FLOAT"}],
                "forced": ["FLOAT", {"forceInput": True}],
                "last": ["STRING", {}],
            }
        }
    },
    "Invert": {"input": {"required": {"strength": ["FLOAT", {}], "image": ["IMAGE", {}]}}},
    "Save": {"input": {"required": {"images": ["IMAGE", {}]}}},
    "Old": {"input": {"required": {"noise_seed": ["INT", {}], "after": ["INT", {}]}}},
    "Pick": {"input": {"required": {"file": ["COMBO", {"options": ["a", "b"], "control_after_generate": True}], "after": ["INT", {}]}}},
}


def node(number, kind, values=None, inputs=(), outputs=(), **more):
    sockets = [{"name": name, "type": type_, "link": link} for name, type_, link in inputs]
    return {
        "id": number,
        "type": kind,
        "widgets_values": values,
        "inputs": sockets,
        "outputs": [{"type": type_} for type_ in outputs],
        **more,
    }


def convert(*nodes, links=()):
    return to_prompt({"nodes": list(nodes), "links": [list(link) for link in links]}, INFO)


def inputs_of(*nodes, links=(), of=None):
    prompt = convert(*nodes, links=links)
    return prompt[str(of or nodes[-1]["id"])]["inputs"]


def test_sockets_and_widgets_take_their_places():
    source = node(1, "Source", ["b.safetensors"], outputs=["MODEL"])
    sampler = node(2, "Sampler", [7, "randomize", 12, "ddim", 1.5, False], [("model", "MODEL", 5)], title="Draw")
    assert convert(source, sampler, links=[(5, 1, 0, 2, 0, "MODEL")]) == {
        "1": {"class_type": "Source", "inputs": {"model": "b.safetensors"}, "_meta": {"title": "Source"}},
        "2": {
            "class_type": "Sampler",
            "_meta": {"title": "Draw"},
            "inputs": {"model": ["1", 0], "seed": 7, "steps": 12, "name": "ddim", "scale": 1.5, "keep": False},
        },
    }


def test_links_may_be_objects():
    link = {"id": 5, "origin_id": 1, "origin_slot": 2, "target_id": 2, "target_slot": 0, "type": "MODEL"}
    workflow = {"nodes": [node(1, "Source"), node(2, "Sampler", [], [("model", "MODEL", 5)])], "links": [link]}
    assert to_prompt(workflow, INFO)["2"]["inputs"]["model"] == ["1", 2]


def test_an_input_newer_than_the_workflow_gets_its_default():
    assert inputs_of(node(1, "Sampler", [7, "fixed", 12])) == {"seed": 7, "steps": 12, "name": "euler", "scale": 2.5, "keep": True}


def test_an_unlinked_widget_that_is_also_a_socket_keeps_its_value():
    assert inputs_of(node(1, "Sampler", [7, "fixed", 12], [("steps", "INT", None)]))["steps"] == 12


def test_a_linked_widget_takes_what_the_link_brings():
    number = node(1, "Old", [3, "fixed", 9], outputs=["INT"])
    sampler = node(2, "Sampler", [7, "fixed", 12, "ddim"], [("steps", "INT", 1)])
    values = inputs_of(number, sampler, links=[(1, 1, 0, 2, 0, "INT")])
    assert (values["seed"], values["steps"], values["name"]) == (7, ["1", 0], "ddim")


def test_values_may_be_saved_by_name():
    assert inputs_of(node(1, "Sampler", {"steps": 3, "seed": 1})) == {"seed": 1, "steps": 3, "name": "euler", "scale": 2.5, "keep": True}


def test_a_seed_has_a_control_by_its_name_alone():
    assert inputs_of(node(1, "Old", [3, "fixed", 9])) == {"noise_seed": 3, "after": 9}


def test_a_controlled_combo_box_also_has_a_filter():
    assert inputs_of(node(1, "Pick", ["b", "fixed", "", 9])) == {"file": "b", "after": 9}


def test_the_upload_button_stands_after_the_required_inputs():
    assert inputs_of(node(1, "Image", ["one.png", "blue", "image", "text"])) == {"image": "one.png", "channel": "blue", "note": "text"}


@pytest.mark.parametrize(
    "values, expected",
    [
        (["factor", 2.0, "area"], {"by": "factor", "by.factor": 2.0, "method": "area"}),
        (["size", 8, 9, "nearest"], {"by": "size", "by.width": 8, "by.height": 9, "method": "nearest"}),
    ],
)
def test_a_dynamic_combo_box_brings_its_inputs(values, expected):
    assert inputs_of(node(1, "Resize", values)) == expected


def test_custom_widgets_and_forced_sockets():
    points = [[0, 0], [1, 1]]
    assert inputs_of(node(1, "Curve", [points, 2, "text"])) == {"points": {"__value__": points}, "gain": 2, "last": "text"}


def chain(*middle, kind="IMAGE"):
    """An image, nodes passing it on in turn, and a node that saves it; links in that order."""
    nodes = [node(1, "Image", ["one.png", "red"], outputs=["IMAGE"]), *middle]
    nodes.append(node(9, "Save", [], [("images", kind, len(nodes))], ["IMAGE"]))
    links = [(i + 1, one["id"], 0, other["id"], 0, "IMAGE") for i, (one, other) in enumerate(zip(nodes, nodes[1:]))]
    return inputs_of(*nodes, links=links)


def test_reroutes_are_followed():
    assert chain(node(2, "Reroute", None, [("", "*", 1)], ["*"]), node(3, "Reroute", None, [("", "*", 2)], ["*"])) == {"images": ["1", 0]}


def test_a_muted_node_leaves_the_socket_empty():
    assert chain(node(2, "Invert", [1.0], [("image", "IMAGE", 1)], ["IMAGE"], mode=2)) == {}


def test_a_bypassed_node_passes_on_the_input_of_its_outputs_type():
    sockets = [("strength", "FLOAT", None), ("image", "IMAGE", 1)]
    assert chain(node(2, "Invert", [1.0], sockets, ["IMAGE"], mode=4)) == {"images": ["1", 0]}


def test_a_bypassed_node_prefers_the_input_at_the_same_place():
    sockets = [("image", "IMAGE", 1), ("other", "IMAGE", None)]
    assert chain(node(2, "Invert", [1.0], sockets, ["IMAGE"], mode=4)) == {"images": ["1", 0]}


def test_a_bypassed_node_without_a_fitting_input_leaves_the_socket_empty():
    assert chain(node(2, "Invert", [1.0], [("strength", "FLOAT", None)], ["IMAGE"], mode=4)) == {}


def test_muted_and_bypassed_nodes_are_not_sent():
    assert convert(node(1, "Old", [1, "fixed", 2], mode=2), node(2, "Old", [1, "fixed", 2], mode=4)) == {}


def test_a_primitive_gives_its_value():
    primitive = node(1, "PrimitiveNode", [33, "fixed"], outputs=["INT"])
    assert inputs_of(primitive, node(2, "Sampler", [7, "fixed", 12], [("steps", "INT", 1)]), links=[(1, 1, 0, 2, 0, "INT")])["steps"] == 33


def test_notes_are_not_sent():
    assert convert(node(1, "Note", ["text"]), node(2, "MarkdownNote", ["text"])) == {}


def test_unknown_nodes_are_named():
    with pytest.raises(WorkflowError, match="type Gone, Lost"):
        convert(node(1, "Lost"), node(2, "Old", [1]), node(3, "Gone"))


def test_an_unknown_node_that_is_muted_does_no_harm():
    assert convert(node(1, "Lost", mode=2)) == {}
