"""Damage to what a safetensors file says of itself."""

import functools
import json
import math
import struct

import torch

from pack.core.hspace.file import direction_tensors
from pack.tests.campaigns.fuzz.byte_damage import blanked, cut, flipped, grown
from pack.tests.campaigns.fuzz.files import saved, trained
from pack.tests.campaigns.fuzz.safetensors_parts import DTYPES, FORMATS, IN_JSON, TEXTS, Parts, garbled, written


def flipped_in_header(rng, blob):
    return flipped(rng, blob, 8 + int.from_bytes(blob[:8], "little"))


def header_length(rng, blob):
    right = int.from_bytes(blob[:8], "little")
    wrong = {
        0,
        1,
        right - 1,
        right + 1,
        len(blob) - 8,
        len(blob),
        2**31,
        2**32,
        2**53,
        2**62,
        2**63,
        2**64 - 8,
        2**64 - 1,
        rng.randrange(2**64),
    } - {right}
    return rng.choice(sorted(wrong)).to_bytes(8, "little") + blob[8:]


def header_garbled(rng, blob):
    parts = Parts(blob)
    return parts.blob(garbled(rng, parts.header()))


def header_foreign(rng, blob):
    parts = Parts(blob)
    return parts.blob(
        rng.choice(["@deep@", "@wide@", "@digits@", "@null@", [], 5, "text", {}, {"__metadata__": {}}, {"__metadata__": {"format": "pt"}}])
    )


def shapes(rng, blob):
    parts = Parts(blob)
    header = parts.header()
    entry = header[rng.choice(list(parts.tensors))]
    shape = entry["shape"]
    entry["shape"] = rng.choice(
        [
            shape[1:],
            [1, *shape],
            shape[::-1],
            [math.prod(shape)],
            [*shape[:-1], shape[-1] + 1] if shape else [2],
            [0, *shape],
            [-1, *shape],
            [-(2**63)],
            [2**62, 4],
            [2**32, 2**32],
            [0, 2**63],
            [0, 2**64 - 1],
            [2**64 - 1, 0],
            [0, 2**40, 2**31],
            [2**64],
            [10**30],
            [1.0, *shape],
            [str(size) for size in shape],
            None,
            "@deep@",
            [[*shape]],
            [1] * 10**5,
        ]
    )
    return parts.blob(header)


def empty_shapes(rng, blob):
    """Every tensor without values, some with sizes that no tensor has."""
    parts = Parts(blob)
    parts.tensors = {
        key: (dtype, rng.choice([[0, *shape[1:]], [0, 2**63], [2**64 - 1, 0], [0, 2**40, 2**31]]), b"")
        for key, (dtype, shape, _) in parts.tensors.items()
    }
    return parts.blob()


def dtypes(rng, blob):
    """Another dtype, with as many bytes as it needs, or with those that were there."""
    parts = Parts(blob)
    for key in rng.sample(sorted(parts.tensors), rng.randint(1, min(3, len(parts.tensors)))):
        dtype = rng.choice([*DTYPES, "F128", "f32", "", None, 3])
        _, shape, data = parts.tensors[key]
        size = math.prod(shape) * DTYPES.get(dtype, 0) // 8
        fitting = rng.choice((bytes(size), bytes([1]) * size, (data * 2)[:size], rng.randbytes(size)))
        parts.tensors[key] = dtype, shape, fitting if rng.random() < 0.8 else data
    return parts.blob()


def offsets(rng, blob):
    parts = Parts(blob)
    header = parts.header()
    one, two = (header[key] for key in rng.sample(sorted(parts.tensors), 2))
    start, end = one["data_offsets"]
    one["data_offsets"] = rng.choice(
        [
            [end, start] if end > start else [1, 0],
            [start + 1, end + 1],
            [start, end + 8],
            [start - 4, end - 4],
            [-1, end],
            [start, -1],
            [2**64 - 4, 2**64 - 1],
            [0, 2**63],
            [start, 2**64],
            [float(start), end],
            [str(start), str(end)],
            [start],
            [start, end, end],
            None,
            [None, end],
            [10**30, 10**30 + end - start],
        ]
    )
    if rng.random() < 0.3:
        one["data_offsets"] = two["data_offsets"]
        one["dtype"], one["shape"] = two["dtype"], two["shape"]
    return parts.blob(header)


def tensors_changed(rng, blob):
    parts = Parts(blob)
    tensors, key = parts.tensors, rng.choice(sorted(parts.tensors))
    dtype, shape, data = tensors[key]
    match rng.randrange(7):
        case 0:
            del tensors[key]
        case 1:
            tensors[rng.choice(["more", "", "\0", "../../x", "9.shifts", "0.network.more", "__metadata", "\ud800", "x" * 10**5])] = (
                "F32",
                [1],
                bytes(4),
            )
        case 2:
            tensors[rng.choice(["shifts", "sigmas", "1.U", "weight"]) + "_"] = tensors.pop(key)
        case 3:
            tensors[key] = dtype, shape[::-1], data
        case 4:
            tensors[key] = dtype, [*shape, 1], data
        case 5:
            tensors[key] = dtype, [2, *shape], data * 2
        case 6:
            tensors |= {f"{i}.{key}": ("F32", [0], b"") for i in range(20, 20 + 10 ** rng.randint(1, 4))}
    return parts.blob()


def metadata_missing(rng, blob):
    parts = Parts(blob)
    for key in rng.sample(sorted(set(parts.metadata) - {"norm"}), rng.randint(1, 2)):
        del parts.metadata[key]
    return parts.blob()


def metadata_texts(rng, blob):
    parts = Parts(blob)
    parts.metadata[rng.choice(sorted(parts.metadata))] = functools.reduce(
        lambda text, mark: text.replace(mark, IN_JSON[mark]), IN_JSON, rng.choice(TEXTS)
    )
    return parts.blob()


def metadata_garbled(rng, blob):
    """The JSON that stands in the metadata."""
    parts = Parts(blob)
    key = rng.choice(
        [key for key in ("tree", "parts", "parts", "tree", "notes", "prompts", "prompts", "window", "words") if key in parts.metadata]
    )
    parts.metadata[key] = written(garbled(rng, json.loads(parts.metadata[key])))
    return parts.blob()


def future(rng, blob):
    parts = Parts(blob)
    parts.metadata["version"] = str(rng.choice([3, 10, 99, 10**8, 10**30]))
    return parts.blob()


def not_finite(rng, blob):
    parts = Parts(blob)
    key = rng.choice(sorted(parts.tensors))
    dtype, shape, data = parts.tensors[key]
    form = FORMATS[dtype]
    spoilt = bytearray(data)
    struct.pack_into(
        form, spoilt, rng.randrange(len(data) // struct.calcsize(form)) * struct.calcsize(form), rng.choice((math.nan, math.inf, -math.inf))
    )
    parts.tensors[key] = dtype, shape, bytes(spoilt)
    return parts.blob()


def extreme(rng, blob):
    """Finite values of all sizes."""
    parts = Parts(blob)
    key = rng.choice(sorted(parts.tensors))
    dtype, shape, data = parts.tensors[key]
    number = struct.pack(FORMATS[dtype], rng.choice((0.0, 1e-45, 3e38, -3e38, 1.0)))
    parts.tensors[key] = dtype, shape, number * (len(data) // len(number))
    return parts.blob()


def repeated(rng, blob, width=None):
    """A mix that names one part again and again."""
    with torch.random.fork_rng():
        torch.manual_seed(rng.randrange(2**31))
        parts = Parts(saved(*direction_tensors(trained(128, 1))))
    width = width or rng.choice((8, 64))
    mix = {
        "parts": [json.loads(parts.metadata["tree"])] * width,
        "weights": [1.0] * width,
        "orthogonalise": False,
        "keep_size": False,
        "notes": {},
    }
    parts.metadata["tree"] = json.dumps({**mix, "parts": [mix] * 8, "weights": [1.0] * 8})
    return parts.blob()


DAMAGE = {
    "cut short": cut,
    "grown": grown,
    "bits flipped": flipped,
    "bits flipped in the header": flipped_in_header,
    "sector lost": blanked,
    "header length": header_length,
    "header garbled": header_garbled,
    "header of another kind": header_foreign,
    "shapes": shapes,
    "empty shapes": empty_shapes,
    "dtypes": dtypes,
    "offsets": offsets,
    "tensors added, missing, renamed": tensors_changed,
    "metadata missing": metadata_missing,
    "metadata texts": metadata_texts,
    "metadata's JSON garbled": metadata_garbled,
    "newer version": future,
    "NaN or Inf": not_finite,
    "extreme values": extreme,
}
