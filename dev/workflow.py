"""Turns a workflow as the frontend saves it into the prompt that the server runs."""

from dataclasses import dataclass

MUTED, BYPASSED = 2, 4
VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
# Input types that the frontend shows as a widget instead of a socket.
WIDGETS = {
    "INT",
    "FLOAT",
    "BOOLEAN",
    "STRING",
    "COMBO",
    "MARKDOWN",
    "TEXTAREA",
    "COLOR",
    "COLORS",
    "CURVE",
    "RANGE",
    "BOUNDING_BOX",
    "BOUNDING_BOXES",
    "CHART",
    "GALLERIA",
    "IMAGECOMPARE",
    "PAINTER",
}
STARTS = {
    "INT": 0,
    "FLOAT": 0.0,
    "BOOLEAN": False,
    "STRING": "",
    "COLOR": "#000000",
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
}
CHOICE = "COMFY_DYNAMICCOMBO_V3"  # a combo box whose value decides which further inputs follow it


class WorkflowError(ValueError):
    """The workflow cannot be run on this host."""


@dataclass
class Link:
    """A connection from a node's output slot."""

    origin: int
    slot: int

    @classmethod
    def read(cls, link):
        """Its id and itself, from either of the two forms that the frontend saves."""
        if isinstance(link, dict):
            return link["id"], cls(link["origin_id"], link["origin_slot"])
        return link[0], cls(link[1], link[2])


def to_prompt(workflow, object_info):
    """The workflow in API format; object_info is the server's list of node types."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = dict(map(Link.read, workflow["links"]))
    running = [node for node in nodes.values() if node.get("mode", 0) not in (MUTED, BYPASSED)]
    running = [node for node in running if node["type"] not in VIRTUAL]
    require_known(running, object_info)
    return {str(node["id"]): api_node(node, nodes, links, object_info[node["type"]]) for node in running}


def require_known(nodes, object_info):
    """Raise on node types that the host does not have."""
    unknown = sorted({node["type"] for node in nodes} - object_info.keys())
    if unknown:
        raise WorkflowError(f"the host has no node of type {', '.join(unknown)} (subgraphs are not converted)")


def api_node(node, nodes, links, info):
    """A node in API format: its widgets' values, then what its links bring."""
    inputs = widget_inputs(node, info)
    for slot in node.get("inputs") or []:
        source = resolve(slot, nodes, links)
        if source is not None:
            inputs[slot["name"]] = source
    title = node.get("title") or info.get("display_name") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}


# Links


def resolve(slot, nodes, links):
    """What reaches an input slot: [node id, output slot], a primitive's value, or None."""
    if slot.get("link") is None:
        return None
    link = links[slot["link"]]
    origin = nodes[link.origin]
    if origin.get("mode", 0) == MUTED:
        return None
    if origin.get("mode", 0) == BYPASSED:
        passed = bypass(origin, link.slot, slot["type"])
        return passed and resolve(passed, nodes, links)
    if origin["type"] == "Reroute":
        return resolve(origin["inputs"][0], nodes, links)
    if origin["type"] == "PrimitiveNode":
        return wrap(origin["widgets_values"][0])
    return [str(link.origin), link.slot]


def bypass(node, slot, kind):
    """The input that a bypassed node passes on for one of its outputs, or None."""
    inputs = node.get("inputs") or []
    if kind == "*":
        return inputs[slot if slot < len(inputs) else 0] if inputs else None
    out = node["outputs"][slot]["type"]
    same_place = inputs[slot : slot + 1]
    same_type = [one for one in inputs if one["type"] == kind]
    fits = [one for one in inputs if compatible(one["type"], out) and compatible(one["type"], kind)]
    candidates = [one for one in same_place if one in fits] + same_type + fits
    return candidates[0] if candidates else None


def compatible(one, other):
    """Whether slots of these types may be connected."""
    names = [set(str(kind).lower().split(",")) for kind in (one, other)]
    return "*" in names[0] | names[1] or bool(names[0] & names[1])


# Widgets


def widget_inputs(node, info):
    """The values of a node's widgets by input name."""
    values = node.get("widgets_values") or []
    specs = [*info["input"].get("required", {}).items(), *info["input"].get("optional", {}).items()]
    if isinstance(values, dict):
        return {name: wrap(values.get(name, default(spec))) for name, spec in specs if is_widget(spec)}
    upload = any(options(spec).get("image_upload") for _, spec in specs)
    last_required = len(info["input"].get("required", {})) - 1
    left, inputs = list(values), {}
    for index, (name, spec) in enumerate(specs):
        read_widget(name, spec, left, inputs)
        if upload and index == last_required:
            del left[:1]  # the upload button comes after the required inputs, and has a value of its own
    return inputs


def read_widget(name, spec, left, inputs):
    """Take an input's value, and those of the widgets that belong to it, from the values left."""
    if not is_widget(spec):
        return
    value = left.pop(0) if left else default(spec)
    inputs[name] = wrap(value)
    if controlled(name, spec):
        del left[:1]
    if controlled(name, spec) and kind_of(spec) == "COMBO":
        del left[:1]  # a combo box's control comes with a filter
    for inner, inner_spec in chosen(spec, value):
        read_widget(f"{name}.{inner}", inner_spec, left, inputs)


def options(spec):
    """The second half of an input's specification."""
    return spec[1] if len(spec) > 1 else {}


def kind_of(spec):
    """The type that decides an input's widget; a list of choices is a combo box."""
    return "COMBO" if isinstance(spec[0], list) else options(spec).get("widgetType") or spec[0]


def is_widget(spec):
    """Whether the frontend shows an input as a widget."""
    return kind_of(spec) in WIDGETS | {CHOICE} and not options(spec).get("forceInput")


def controlled(name, spec):
    """Whether a value for "control after generate" follows the input's own."""
    if kind_of(spec) not in ("INT", "COMBO"):
        return False
    by_name = kind_of(spec) == "INT" and name in ("seed", "noise_seed")
    return bool(options(spec).get("control_after_generate", by_name))


def chosen(spec, value):
    """The inputs that the value of a dynamic combo box brings."""
    if kind_of(spec) != CHOICE:
        return []
    taken = [choice["inputs"] for choice in options(spec)["options"] if choice["key"] == value]
    return [item for inputs in taken for group in inputs.values() for item in group.items()]


def default(spec):
    """The value that a widget starts with."""
    if "default" in options(spec):
        return options(spec)["default"]
    choices = spec[0] if isinstance(spec[0], list) else options(spec).get("options", [])
    first = choices[0] if choices else None
    if kind_of(spec) == CHOICE:
        return first["key"]
    return STARTS.get(kind_of(spec), first)


def wrap(value):
    """A list as a value, so that the server does not take it for a link."""
    return {"__value__": value} if isinstance(value, list) else value
