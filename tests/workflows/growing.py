"""Grows random graphs of the pack's nodes, and of the host's that feed them, from a server's schemas."""

import random

from pack.tests.workflows.graphs import PREFIX, Graph
from pack.tests.workflows.stock import COMPANIONS, CURVES, FILES, FIRST, LAST, MAKERS, MOST, NEEDS, RARE, STOCK, TEXTS, UPWARDS


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
        ends = sum(self.graph.info[node["class_type"]]["output_node"] for node in self.graph.values())
        if self.random.random() < 0.05 and ends == 1:  # of several the host runs those that are without a mistake
            self.spoil()
        return self.graph

    def taken(self, link, kind, hops):
        """A node that takes an output."""
        takers = [
            (name, slot)
            for name in self.info
            for slot, wanted, *_ in self.inputs(name)
            if (self.fits(link, wanted) if hops < 2 else name == LAST.get(kind) and wanted == kind)
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
        return own == kind

    # What goes into a node

    def value(self, name, slot, kind, options, depth):
        """A link, or a widget's value."""
        if slot == "target" and kind == "CONDITIONING" and self.random.random() < 0.8:  # another prompt than the source
            return self.graph.out("CLIPTextEncode", text="a portrait, long beard, blue shirt", clip=self.link("CLIP", depth))
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

    def needed(self):
        """The nodes that the graph's end needs; the host looks at no others."""
        found = {name for name, node in self.graph.items() if self.graph.info[node["class_type"]]["output_node"]}
        while True:
            links = {value[0] for name in found for value in self.graph[name]["inputs"].values() if isinstance(value, list)}
            if links <= found:
                return found
            found |= links & self.graph.keys()

    def spoil(self):
        """A mistake in one of the pack's nodes, which the host should see."""
        needed = self.needed()
        node = self.random.choice([node for name, node in self.graph.items() if name in needed and node["class_type"].startswith(PREFIX)])
        slot, kind, options, required = self.random.choice([given for given in self.inputs(node["class_type"]) if given[3]] or [4 * [None]])
        self.spoilt = slot is not None
        if kind in ("int", "float"):
            node["inputs"][slot] = options["max"] + 1
        elif kind == "combo":
            node["inputs"][slot] = "no such choice"
        elif slot:
            del node["inputs"][slot]
