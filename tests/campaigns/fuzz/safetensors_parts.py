"""A safetensors file taken apart and written again, and values that stand where others should."""

import functools
import itertools
import json
import math

DTYPES = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
FORMATS = {"F32": "<f", "F64": "<d"}
IN_JSON = {
    "@digits@": "9" * 5000,
    "@deep@": "[" * 10**5 + "]" * 10**5,
    "@wide@": "[" + "[]," * 10**6 + "[]]",
    "@keys@": '{"a": "1", "a": 2}',
    "@null@": "null",
}
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    0.5,
    1.5,
    2**31,
    2**63,
    2**64,
    10**18,
    10**400,
    "@digits@",
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    5e-324,
    -0.0,
    "",
    "1",
    "nan",
    "\ud800",
    "a\0b",
    "x" * 10**5,
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    "@deep@",
    "@keys@",
]
TEXTS = [
    "",
    " ",
    "nan",
    "-1",
    "0",
    "1.0",
    "1e9",
    "٣",
    "²",
    "9" * 5000,
    "999999999",
    "\0",
    "../../x",
    "x" * 10**6,
    "[" * 10**5,
    "@deep@",
    "@wide@",
    "null",
    "[]",
    "{}",
    '{"a": 1}',
]


def written(value):
    """As JSON, with what Python's writer does not write in the place of the marks."""
    text = json.dumps(value)
    return functools.reduce(lambda text, mark: text.replace(f'"{mark}"', IN_JSON[mark]), IN_JSON, text)


class Parts:
    """A safetensors file taken apart: metadata, and (dtype, shape, bytes) of each tensor."""

    def __init__(self, blob):
        length = int.from_bytes(blob[:8], "little")
        header, data = json.loads(blob[8 : 8 + length]), blob[8 + length :]
        self.metadata = header.pop("__metadata__")
        self.tensors = {key: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for key, entry in header.items()}

    def header(self):
        ends = list(itertools.accumulate((len(data) for *_, data in self.tensors.values()), initial=0))
        entries = {
            key: {"dtype": dtype, "shape": shape, "data_offsets": list(ends[i : i + 2])}
            for i, (key, (dtype, shape, _)) in enumerate(self.tensors.items())
        }
        return {"__metadata__": self.metadata, **entries}

    def blob(self, header=None):
        text = written(self.header() if header is None else header).encode("utf-8", "surrogatepass")
        return len(text).to_bytes(8, "little") + text + b"".join(data for *_, data in self.tensors.values())


def spots(tree):
    """Every place in a JSON value, as its container and key."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from spots(tree[key])


def garbled(rng, tree):
    """A JSON value with something replaced, left out, doubled or moved, in one to three places."""
    box = [json.loads(json.dumps(tree))]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        container, key = rng.choice(list(spots(box)) or [(box, slice(None))])
        match rng.randrange(6):
            case 0 if container is not box:
                del container[key]
            case 1:
                other, place = rng.choice(list(spots(box)) or [(box, slice(None))])
                container[key] = json.loads(json.dumps(other[place]))
            case 2 if isinstance(container, list):
                container.insert(0, json.loads(json.dumps(container[key])))
            case 3 if isinstance(container, dict):
                container["more"] = container[key]
            case _:
                container[key] = rng.choice(ODD)
    return box[0] if box else None
