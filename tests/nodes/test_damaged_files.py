"""Files from elsewhere: whatever stands in one, its loader refuses it by name or gives a sound object, and touches nothing else.

Run as a program, this file tries damaged files under a memory limit, watched, and prints what became of each as JSON:
`python test_damaged_files.py 137 138` repeats case 137 alone.
"""

import ctypes
import functools
import gc
import io
import itertools
import json
import math
import os
import pickle
import random
import resource
import runpy
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest
import torch

MB = 2**20
SLACK, MULTIPLE = 16 * MB, 8  # what loading may take, beside so many times the file's size
LONGEST = 2000  # characters of a message that can still be read
MATRIX = "controlnet.fc1.weight"
DTYPES = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
          "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
FORMATS = {"F32": "<f", "F64": "<d"}
IN_JSON = {"@digits@": "9" * 5000, "@deep@": "[" * 10**5 + "]" * 10**5, "@wide@": "[" + "[]," * 10**6 + "[]]", "@keys@": '{"a": "1", "a": 2}', "@null@": "null"}
ODD = [None, True, False, -1, 0, 1, 3, 0.5, 1.5, 2**31, 2**63, 2**64, 10**18, 10**400, "@digits@", math.nan, math.inf, -math.inf, 1e308, 5e-324, -0.0, "", "1",
       "nan", "\ud800", "a\0b", "x" * 10**5, [], {}, [[]], [1, 2], {"a": 1}, "@deep@", "@keys@"]
TEXTS = ["", " ", "nan", "-1", "0", "1.0", "1e9", "٣", "²", "9" * 5000, "999999999", "\0", "../../x", "x" * 10**6, "[" * 10**5, "@deep@", "@wide@", "null", "[]", "{}", "{\"a\": 1}"]


def written(value):
    """As JSON, with what Python's writer does not write in the place of the marks."""
    text = json.dumps(value)
    return functools.reduce(lambda text, mark: text.replace(f'"{mark}"', IN_JSON[mark]), IN_JSON, text)


class Parts:
    """A safetensors file taken apart: metadata, and (dtype, shape, bytes) of each tensor."""

    def __init__(self, blob):
        length = int.from_bytes(blob[:8], "little")
        header, data = json.loads(blob[8:8 + length]), blob[8 + length:]
        self.metadata = header.pop("__metadata__")
        self.tensors = {key: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])]) for key, entry in header.items()}

    def header(self):
        ends = list(itertools.accumulate((len(data) for *_, data in self.tensors.values()), initial=0))
        entries = {key: {"dtype": dtype, "shape": shape, "data_offsets": list(ends[i:i + 2])} for i, (key, (dtype, shape, _)) in enumerate(self.tensors.items())}
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


# --- damage to the bytes of any file

def cut(rng, blob):
    return blob[:rng.randrange(len(blob))]


def grown(rng, blob):
    return blob + rng.randbytes(rng.randint(1, 2000))


def flipped(rng, blob, end=None):
    spoilt = bytearray(blob)
    for _ in range(rng.randint(1, 8)):
        spoilt[rng.randrange(end or len(blob))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def blanked(rng, blob):
    """As a disk does: one sector of zeros, or of another place."""
    start, size = rng.randrange(len(blob)), rng.choice((16, 512, 4096))
    other = bytes(size) if rng.random() < 0.5 else blob[:size]
    return blob[:start] + other[:len(blob) - start] + blob[start + size:]


# --- damage to a safetensors file

def flipped_in_header(rng, blob):
    return flipped(rng, blob, 8 + int.from_bytes(blob[:8], "little"))


def header_length(rng, blob):
    right = int.from_bytes(blob[:8], "little")
    wrong = {0, 1, right - 1, right + 1, len(blob) - 8, len(blob), 2**31, 2**32, 2**53, 2**62, 2**63, 2**64 - 8, 2**64 - 1, rng.randrange(2**64)} - {right}
    return rng.choice(sorted(wrong)).to_bytes(8, "little") + blob[8:]


def header_garbled(rng, blob):
    parts = Parts(blob)
    return parts.blob(garbled(rng, parts.header()))


def header_foreign(rng, blob):
    parts = Parts(blob)
    return parts.blob(rng.choice(["@deep@", "@wide@", "@digits@", "@null@", [], 5, "text", {}, {"__metadata__": {}}, {"__metadata__": {"format": "pt"}}]))


def shapes(rng, blob):
    parts = Parts(blob)
    header = parts.header()
    entry = header[rng.choice(list(parts.tensors))]
    shape = entry["shape"]
    entry["shape"] = rng.choice([
        shape[1:], [1, *shape], shape[::-1], [math.prod(shape)], [*shape[:-1], shape[-1] + 1] if shape else [2], [0, *shape], [-1, *shape], [-2**63], [2**62, 4], [2**32, 2**32],
        [0, 2**63], [0, 2**64 - 1], [2**64 - 1, 0], [0, 2**40, 2**31], [2**64], [10**30], [1.0, *shape], [str(size) for size in shape], None, "@deep@", [[*shape]], [1] * 10**5])
    return parts.blob(header)


def empty_shapes(rng, blob):
    """Every tensor without values, some with sizes that no tensor has."""
    parts = Parts(blob)
    parts.tensors = {key: (dtype, rng.choice([[0, *shape[1:]], [0, 2**63], [2**64 - 1, 0], [0, 2**40, 2**31]]), b"") for key, (dtype, shape, _) in parts.tensors.items()}
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
    one["data_offsets"] = rng.choice([
        [end, start] if end > start else [1, 0], [start + 1, end + 1], [start, end + 8], [start - 4, end - 4], [-1, end], [start, -1], [2**64 - 4, 2**64 - 1], [0, 2**63], [start, 2**64],
        [float(start), end], [str(start), str(end)], [start], [start, end, end], None, [None, end], [10**30, 10**30 + end - start]])
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
            tensors[rng.choice(["more", "", "\0", "../../x", "9.shifts", "0.network.more", "__metadata", "\ud800", "x" * 10**5])] = ("F32", [1], bytes(4))
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
    parts.metadata[rng.choice(sorted(parts.metadata))] = functools.reduce(lambda text, mark: text.replace(mark, IN_JSON[mark]), IN_JSON, rng.choice(TEXTS))
    return parts.blob()


def metadata_garbled(rng, blob):
    """The JSON that stands in the metadata."""
    parts = Parts(blob)
    key = rng.choice([key for key in ("tree", "parts", "parts", "tree", "notes") if key in parts.metadata])
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
    struct.pack_into(form, spoilt, rng.randrange(len(data) // struct.calcsize(form)) * struct.calcsize(form), rng.choice((math.nan, math.inf, -math.inf)))
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
    from pack.core.direction_files import direction_tensors

    with torch.random.fork_rng():
        torch.manual_seed(rng.randrange(2**31))
        parts = Parts(saved(*direction_tensors(trained(128, 1))))
    width = width or rng.choice((8, 64))
    mix = {"parts": [json.loads(parts.metadata["tree"])] * width, "weights": [1.0] * width, "orthogonalise": False, "keep_size": False, "notes": {}}
    parts.metadata["tree"] = json.dumps({**mix, "parts": [mix] * 8, "weights": [1.0] * 8})
    return parts.blob()


# --- damage to a .pth file

class Call:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def packed(records, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return stream.getvalue()


def unpacked(blob):
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pth(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def with_pickle(blob, data):
    return packed({name: data if name.endswith("data.pkl") else record for name, record in unpacked(blob).items()})


def with_two_directories(seen, hidden):
    """An archive whose directory stands before its end for one reader (zipfile), and where its end says it is for another (torch)."""
    parts = []
    for blob in (packed(seen), packed(hidden)):
        size, start = struct.unpack_from("<II", blob, len(blob) - 10)
        parts.append((blob[:start], bytearray(blob[start:start + size]), blob[start + size:]))
    (first, directory, _), (second, other, end) = parts
    place = 0
    while place < len(directory):
        length, = struct.unpack_from("<H", directory, place + 28)
        offset, = struct.unpack_from("<I", directory, place + 42)
        struct.pack_into("<I", directory, place + 42, offset + len(second) - len(first))
        place += 46 + length
    assert len(directory) == len(other) and len(second) >= len(first)
    return second + other + first + directory + end


def pickle_flipped(rng, blob):
    """With the archive's own sums right again."""
    records = unpacked(blob)
    return with_pickle(blob, flipped(rng, next(data for name, data in records.items() if name.endswith("data.pkl"))))


def payload(rng, blob):
    """Pickles that would run something."""
    value = {MATRIX: Call(*rng.choice([(os.system, "touch payload"), (open, "payload", "w"), (exec, "open('payload', 'w')"), (os.mkdir, "payload"), (os.open, "payload", os.O_CREAT)]))}
    data = pickle.dumps(value, rng.choice((2, 4)))
    return rng.choice((data, with_pickle(blob, data), pth(value, _use_new_zipfile_serialization=False)))


def bomb(rng, blob):
    """Small files of large things."""
    large = rng.choice((2**28, 2**30))
    match rng.randrange(6):
        case 0:
            return with_pickle(blob, pickle.dumps({MATRIX: Call(bytearray, large)}, 2))
        case 1:
            return packed(unpacked(pth({MATRIX: torch.zeros(81920, 8), "more": torch.zeros(2**24)})), zipfile.ZIP_DEFLATED)
        case 2:
            return with_pickle(blob, b"\x80\x02" + b")" + b"\x85" * 10**5 + b".")
        case 3:
            return with_pickle(blob, pickle.dumps({MATRIX: [Call(bytearray, MB)] * 3 + [Call(bytearray, MB + i) for i in range(200)]}, 2))
        case 4:
            return pth({MATRIX: torch.zeros(1).expand(2**20, 2**20)})
        case 5:
            return with_pickle(blob, b"\x80\x02}X\x15\x00\x00\x00" + MATRIX.encode() + b"\x8b\xff\xff\xff\x7fs.")


def other_matrices(rng, blob):
    matrix = torch.ones(81920, 8)
    return pth(rng.choice([
        lambda: {MATRIX: matrix.to_sparse()}, lambda: {MATRIX: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (81920, 8))}, lambda: {MATRIX: torch.empty(81920, 8, device="meta")},
        lambda: {MATRIX: matrix.T}, lambda: {MATRIX: matrix[:-1].clone()}, lambda: {MATRIX: matrix.int()}, lambda: {MATRIX: matrix.bool()}, lambda: {MATRIX: torch.ones(81920, 8, dtype=torch.complex64)},
        lambda: {MATRIX: torch.quantize_per_tensor(matrix, 1.0, 0, torch.qint8)}, lambda: {"other": matrix}, lambda: {0: matrix}, lambda: [matrix], lambda: matrix, lambda: {}, lambda: None,
        lambda: {MATRIX: 3}, lambda: {MATRIX: "x" * 10**5}, lambda: {MATRIX: [[0.0] * 8] * 100}])())


def matrix_not_finite(rng, blob):
    matrix = torch.ones(81920, 8)
    matrix[rng.randrange(81920)] = rng.choice((math.nan, math.inf))
    return pth({MATRIX: matrix})


# --- files of other kinds

def png(width, height):
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))  # noqa: E731
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def foreign(rng, blob):
    """Files that are whole, but of another kind; for either loader also the other's."""
    some = torch.zeros(8, 4)
    return rng.choice([
        lambda: png(16, 16), lambda: b"", lambda: b"\0", lambda: b"\0" * 8, lambda: b"a text\n" * rng.randint(1, 1000), lambda: b"{}", lambda: packed({"a": b"b"}), lambda: rng.randbytes(rng.randint(1, 5000)),
        lambda: pickle.dumps({MATRIX: Call(os.system, "touch payload")}), lambda: pickle.dumps([0] * 1000), lambda: b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 12345\n",
        lambda: saved({"lora_unet_mid.lora_up.weight": some, "lora_unet_mid.lora_down.weight": some.T.contiguous(), "lora_unet_mid.alpha": torch.tensor(4.0)}, {"ss_network_module": "networks.lora"}),
        lambda: saved({"model.diffusion_model.out.2.weight": torch.zeros(4, 32, 3, 3), "first_stage_model.decoder.conv_in.bias": some[0].clone()}, {"format": "pt"}),
        lambda: saved({"shifts": some, "sigmas": some.clone()}, {}), lambda: pth({"state_dict": {"a": some}})])()


TENSOR_FILES = {
    "cut short": cut, "grown": grown, "bits flipped": flipped, "bits flipped in the header": flipped_in_header, "sector lost": blanked, "header length": header_length, "header garbled": header_garbled,
    "header of another kind": header_foreign, "shapes": shapes, "empty shapes": empty_shapes, "dtypes": dtypes, "offsets": offsets, "tensors added, missing, renamed": tensors_changed,
    "metadata missing": metadata_missing, "metadata texts": metadata_texts, "metadata's JSON garbled": metadata_garbled, "newer version": future, "NaN or Inf": not_finite, "extreme values": extreme,
    "another kind of file": foreign}
DIRECTIONS = {**TENSOR_FILES, "one part many times": repeated}
PICKLES = {"cut short": cut, "grown": grown, "bits flipped": flipped, "sector lost": blanked, "pickle garbled": pickle_flipped, "pickle with a payload": payload, "pickle of large things": bomb,
           "other matrices": other_matrices, "NaN or Inf": matrix_not_finite, "another kind of file": foreign}
ATTRIBUTES = {"attribute", "attribute with network", "mix of attributes", "large attribute"}
NEVER_VALID = {"header length", "header of another kind", "empty shapes", "metadata missing", "newer version", "NaN or Inf", "another kind of file", "pickle with a payload", "other matrices"}
KINDS = sorted({*DIRECTIONS, *PICKLES})


# --- damage that once broke a loader

def on_parts(change):
    def damage(blob):
        parts = Parts(blob)
        change(parts)
        return parts.blob()
    return damage


def in_parts(part, **changes):
    """An attribute's entry, or its recipe, with other values."""
    def change(parts):
        entries = json.loads(parts.metadata["parts"])
        (entries[0]["recipe"] if part == "recipe" else entries[0]).update(changes)
        parts.metadata["parts"] = written(entries)
    return on_parts(change)


def as_dtype(key, dtype):
    def change(parts):
        _, shape, _ = parts.tensors[key]
        parts.tensors[key] = dtype, shape, bytes(math.prod(shape) * DTYPES[dtype] // 8)
    return on_parts(change)


def with_values(key, *values):
    """The first values of a tensor replaced."""
    def change(parts):
        dtype, shape, data = parts.tensors[key]
        start = struct.pack("<" + FORMATS[dtype][1] * len(values), *values)
        parts.tensors[key] = dtype, shape, start + data[len(start):]
    return on_parts(change)


KNOWN = {
    "a size of 64 bits": ("table", on_parts(lambda parts: parts.tensors.update(shifts=("F32", [0, 2**63], b"")))),
    "shifts of 8 bits": ("table", as_dtype("shifts", "F8_E4M3")),
    "shifts of 4 bits": ("table", as_dtype("shifts", "F4")),
    "complex shifts": ("table", as_dtype("shifts", "C64")),
    "levels that rise": ("table", with_values("sigmas", 1.0, 2.0, 3.0)),
    "a format of a million letters": ("table", on_parts(lambda parts: parts.metadata.update(format="x" * 10**6))),
    "ten thousand tensors": ("table", on_parts(lambda parts: parts.tensors.update({f"{i}": ("F32", [0], b"") for i in range(10**4)}))),
    "a million lists": ("table", on_parts(lambda parts: parts.metadata.update(notes=IN_JSON["@wide@"]))),
    "notes of 5000 digits": ("table", on_parts(lambda parts: parts.metadata.update(notes=IN_JSON["@digits@"]))),
    "a dtype of 100 000 letters": ("table", on_parts(lambda parts: parts.tensors.update(more=("x" * 10**5, [0], b"")))),
    "one part 512 times": ("table", lambda blob: repeated(random.Random(0), blob, 64)),
    "a text for a rank": ("attribute", in_parts("recipe", source_rank="1")),
    "a negative rank": ("attribute", in_parts("recipe", target_rank=-3)),
    "a rank with a fraction": ("attribute", in_parts("recipe", source_rank=1.5)),
    "a rank beyond the latent's": ("attribute", in_parts("recipe", source_rank=99)),
    "a text for residual": ("attribute", in_parts("recipe", residual="no")),
    "a loss weight of 400 digits": ("attribute", in_parts("recipe", weights={"target": 10**400, "source": 1.0, "target_values": 0.0, "source_values": 0.0})),
    "a weight of 400 digits": ("attribute", in_parts("entry", weight=10**400)),
    "a weight that is no number": ("attribute", in_parts("entry", weight=math.nan)),
    "sides of 400 digits": ("attribute with network", in_parts("entry", shape=[1, 4, 10**400, 10**400])),
    "NaN in the triplets": ("attribute", with_values("0.S", math.nan)),
    "NaN in a network": ("attribute with network", with_values("0.second", math.nan)),
    "a network of whole numbers": ("attribute with network", as_dtype("0.first", "I64")),
    "a gigabyte in 1000 bytes": ("published", lambda blob: with_pickle(pth({MATRIX: torch.zeros(1)}), pickle.dumps({MATRIX: Call(bytearray, 2**30)}, 2))),
    "64 MB deflated": ("published", lambda blob: packed(unpacked(pth({MATRIX: torch.zeros(81920, 8), "more": torch.zeros(2**24)})), zipfile.ZIP_DEFLATED)),
    "ten million lists in a pickle": ("published", lambda blob: with_pickle(blob, b"\x80\x02" + b"]" * 10**7 + b".")),
    "an archive with two directories": ("published", lambda blob: with_two_directories(
        {"x/data.pkl": b"N.", "x/version": b"3", "x/more": b""}, {"x/data.pkl": pickle.dumps({MATRIX: Call(bytearray, 2**30)}, 2), "x/version": b"3", "x/more": bytes(100)})),
    "a sparse matrix": ("published", lambda blob: pth({MATRIX: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (81920, 8))})),
    "a matrix without values": ("published", lambda blob: pth({MATRIX: torch.empty(81920, 8, device="meta")})),
    "NaN in the vectors": ("published", lambda blob: pth({MATRIX: torch.full((81920, 8), math.nan)})),
}


# --- the files that are damaged

def saved(tensors, metadata):
    from safetensors.torch import save

    return save(tensors, metadata)


def table(channels, levels, size=4):
    from pack.core.direction import Direction, Family

    sigmas = tuple(20.0 / 2**i for i in range(levels))
    return Direction(torch.randn(levels, channels, size, size), sigmas, Family("SD15", "EPS", channels), "contrast", {"target": "a smile", "seed": "1"})


def trained(channels, levels):
    from pack.core.implicit import ImplicitNetwork, TrainedDirection

    network = ImplicitNetwork(channels, 1 / 3).requires_grad_(False)
    torch.nn.init.normal_(network.leave.weight)
    return TrainedDirection(network, table(channels, levels))


def attribute(size, with_network):
    from pack.core.attribute import Attribute, LatentKind, Recipe
    from pack.core.spectrum import decompose
    from pack.core.value_network import ValueNetwork

    stored = decompose(torch.randn(1, 4, size, size), rank=3)
    width = sum(Recipe().ranks(stored.matrix))
    return Attribute(Recipe(), stored, LatentKind("SD15", 4), ValueNetwork(4, width).requires_grad_(False) if with_network else None, {"exact": 0.25}, {"source": "a face", "target": "a beard"})


def suffix_of(base):
    return ".pth" if base == "published" else ".safetensors"


@functools.cache
def whole():
    """Whole files, as bytes, by what they hold."""
    from pack.core.attribute import Mixture
    from pack.core.attribute_files import attribute_tensors
    from pack.core.direction_files import direction_tensors
    from pack.core.implicit import mixed

    torch.manual_seed(0)
    mix = mixed([trained(6, 2), mixed([table(6, 3), trained(6, 1)], [0.1, 2.0], orthogonalise=True)], [1.0, -0.5], keep_size=True)
    directions = {"table": table(6, 3), "one level": table(4, 1), "large table": table(512, 8, 16), "trained": trained(32, 3), "mixed": mix}
    plain, learned = attribute(8, False), attribute(16, True)
    attributes = {"attribute": [(plain, 1.0)], "attribute with network": [(learned, 1.0)], "mix of attributes": [(learned, 0.5), (plain, -1.0)], "large attribute": [(attribute(512, False), 1.0)]}
    return {**{name: saved(*direction_tensors(value)) for name, value in directions.items()},
            **{name: saved(*attribute_tensors(Mixture(tuple(value)))) for name, value in attributes.items()}, "published": pth({MATRIX: torch.randn(81920, 8)})}


class Case:
    """A damaged file: what it was, what was done to it, its bytes."""

    def __init__(self, name, base, kind, blob):
        self.name, self.base, self.kind, self.blob = name, base, kind, blob
        self.harmless = blob == whole()[base]

    @classmethod
    def numbered(cls, number):
        """One drawn at random, the same for the same number."""
        rng = random.Random(number)
        torch.manual_seed(number)
        base = rng.choices(list(whole()), [3, 2, 1, 3, 4, 3, 3, 4, 1, 5])[0]
        damage = PICKLES if base == "published" else TENSOR_FILES if base in ATTRIBUTES else DIRECTIONS
        kind = list(damage)[number % len(damage)]
        return cls(f"case{number}", base, kind, damage[kind](rng, whole()[base]))

    @classmethod
    def known(cls, name):
        base, damage = KNOWN[name]
        torch.manual_seed(0)
        return cls(f"known{list(KNOWN).index(name)}", base, name, damage(whole()[base]))

    def __str__(self):
        return f"{self.name} ({self.base}: {self.kind})"


def load(path, base):
    """As the nodes' execute does."""
    from pack.core.attribute_files import load_attribute
    from pack.core.direction_files import load_direction, load_published

    return load_attribute(path) if base in ATTRIBUTES else load_published(path, "young") if path.suffix == ".pth" else load_direction(path)


# --- what is watched while a file is loaded

class Opened:
    """What Python opens or changes while `watching`, less the file itself and Python's own; a hook cannot be removed."""

    CHANGES = ("os.", "shutil.", "subprocess.", "socket.", "tempfile.")
    HARMLESS = ("os.listdir", "os.scandir", "os.listdrives")

    def __init__(self):
        self.watching, self.found = None, []
        self.own = tuple({str(Path(place).resolve()) for place in (sys.pycache_prefix or sys.prefix, sys.prefix, sys.base_prefix, Path(torch.__file__).parents[1], Path(os.__file__).parent)} | {"/proc/self"})
        sys.addaudithook(self)

    def __call__(self, event, args):
        if self.watching is None:
            return
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            path, writes = os.path.realpath(os.fsdecode(args[0])), bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes or path != self.watching and not path.startswith(self.own):
                self.found.append(f"opened {path}")
        elif event.startswith(self.CHANGES) and event not in self.HARMLESS:
            self.found.append(f"{event} {args}")


class Watched:
    """A folder, through the kernel (inotify): whoever opens or changes something in it, Rust and C too."""

    OPEN_MODIFY_CREATE_DELETE_MOVE = 0x20 | 0x2 | 0x100 | 0x200 | 0x40 | 0x80

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, os.fsencode(folder), self.OPEN_MODIFY_CREATE_DELETE_MOVE) >= 0, os.strerror(ctypes.get_errno())

    def events(self):
        try:
            return os.read(self.fd, 2**16)
        except BlockingIOError:
            return b""


def memory(name):
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def ran_out_of_memory(error):
    """Whether this error, or one that it came from, is a refused allocation."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


# --- whether what was loaded is sound

def tensors_of(thing):
    from pack.core.attribute_files import attribute_tensors
    from pack.core.direction_files import direction_tensors

    return attribute_tensors(thing) if hasattr(thing, "kind") else direction_tensors(thing)


def used(thing):
    """What an edit of a small latent makes of it."""
    from pack.core.attribute import Pair, described
    from pack.core.spectrum import compose

    generator = torch.Generator().manual_seed(1)
    if not hasattr(thing, "kind"):
        h = torch.randn(2, thing.family.channels, 3, 5, generator=generator)
        return [*(thing.on(torch.device("cpu")).shift(h, sigma).expand(h.shape) for sigma in (30.0, 7.0, 0.01)), thing.mean().shifts]
    assert described(thing)
    results = []
    for part, _ in thing.parts:
        x, z = torch.randn(2, *part.stored.shape, generator=generator)
        results += [compose(part.stored), part.change(x, Pair(z, z))] if x.numel() < 10**5 else []
    return results


def check_sound(thing, folder):
    """Raises unless its tensors are finite floats, an edit with it works, and it saves and loads back as the same."""
    tensors, metadata = tensors_of(thing)
    for key, value in tensors.items():
        assert value.is_floating_point() and torch.isfinite(value).all(), f"{key} is not finite"
    try:
        results = used(thing)
    except ValueError as error:
        assert "NaN or Inf" in str(error), f"it cannot be used: {error}"  # finite parts whose sum is not
        return
    path = folder / "again.safetensors"
    path.write_bytes(saved(tensors, metadata))
    again = used(load(path, "attribute" if hasattr(thing, "kind") else "table"))
    assert all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(results, again, strict=True)), "saved again, it is another"


class Trial:
    """Loads damaged files in a folder of their own and notes what became of them."""

    def __init__(self, root):
        self.root, self.folder = root, root / "models"
        self.folder.mkdir()
        (root / "secret.safetensors").write_bytes(whole()["table"])
        os.chdir(root)
        self.opened, self.around = Opened(), Watched(root)
        self.files = len(os.listdir("/proc/self/fd"))

    def attempt(self, path, base, size):
        """The thing or the ValueError, and the peak of memory beyond what there was."""
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + 2 * path.stat().st_size + MULTIPLE * size + SLACK, -1))
        self.opened.watching = str(path.resolve())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = load(path, base)
        except ValueError as error:
            outcome = error
        finally:
            self.opened.watching = None
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        return outcome, memory("VmHWM") - before

    def faults(self, case, outcome, peak, size):
        """What is wrong with an outcome, in words."""
        if isinstance(outcome, ValueError):
            if f"file: {case.name}." not in str(outcome):
                yield f"the message does not name the file: {outcome!s:.200}"
            if len(str(outcome)) > LONGEST:
                yield f"the message has {len(str(outcome))} characters: {outcome!s:.100}..."
            if ran_out_of_memory(outcome):
                yield f"it asked for more memory than {MULTIPLE} times its {size} bytes and {SLACK // MB} MB: {outcome!s:.200}"
        else:
            if case.kind in {*NEVER_VALID, *KNOWN} and not case.harmless:
                yield "it was loaded"
            try:
                check_sound(outcome, self.root)
            except Exception as error:
                yield f"it was loaded, but {type(error).__name__}: {error!s:.200}"
            self.around.events()
        if peak > MULTIPLE * size + SLACK:
            yield f"loading took {peak / MB:.0f} MB for {size} bytes"

    def judge(self, case):
        path = self.folder / f"{case.name}{suffix_of(case.base)}"
        path.write_bytes(case.blob)
        size, peak = len(case.blob), 0
        try:
            outcome, peak = self.attempt(path, case.base, size)
            touched = [*self.opened.found, *(["the folder around it was touched"] if self.around.events() else [])]
            found, verdict = [*touched, *self.faults(case, outcome, peak, size)], "refused" if isinstance(outcome, ValueError) else "loaded"
        except BaseException as error:
            found, verdict = [f"{type(error).__name__}: {error!s:.200}"], "failed"
        self.opened.found.clear()
        path.unlink()
        del case.blob
        return {"kind": case.kind, "base": case.base, "verdict": verdict, "size": size, "peak": peak, "faults": [f"{case}: {fault}" for fault in found]}


def main(first, last):
    """Try the cases from first to last - 1 and the known ones, print JSON. The standard error names the case at work."""
    runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for base, blob in whole().items():  # which also imports what torch imports on first use
            path = Path(folder, f"whole{suffix_of(base)}")
            path.write_bytes(blob)
            check_sound(load(path, base), Path(folder))
        trial, results = Trial(Path(folder)), {"cases": [], "known": []}
        gc.freeze()
        for cases, names, of in (("cases", range(first, last), Case.numbered), ("known", KNOWN, Case.known)):
            for name in names:
                case = of(name)
                print(case, file=sys.stderr, flush=True)
                results[cases].append(trial.judge(case))
        results["left"] = sorted(path.name for path in Path(folder).rglob("*") if path.stem not in ("whole", "again", "secret", "models"))
        results["open files"] = len(os.listdir("/proc/self/fd")) - trial.files
        json.dump(results, sys.stdout)


@functools.cache
def campaign(count):
    """What became of the first damaged files, and of the known ones."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}  # what is freed is given back, and counted when it is taken again
    done = subprocess.run([sys.executable, "-P", __file__, "0", str(count)], capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 0, f"ended by {done.returncode} at {done.stderr[-2000:]}"
    return json.loads(done.stdout)


@pytest.fixture
def tried(rounds):
    return campaign(rounds(300, 10_000))


@pytest.mark.campaign
@pytest.mark.quick
def test_a_damaged_file_is_refused_by_name_or_still_sound(tried, figures):
    cases = tried["cases"]
    verdicts = Counter((case["kind"], case["verdict"]) for case in cases)
    total = Counter(case["verdict"] for case in cases)
    largest, peak = max(case["size"] for case in cases), max(case["peak"] for case in cases)
    by_kind = "; ".join(f"{kind} {verdicts[kind, 'refused']}/{verdicts[kind, 'loaded']}" for kind in KINDS)
    figures("damaged files", f"{len(cases)} tried, {total['refused']} refused by name, {total['loaded']} still sound, {total['failed']} other errors; peak {peak / MB:.1f} MB "
            f"beyond what was there, {peak / largest:.1f} times the largest file; refused/sound by kind: {by_kind}")
    faults = [fault for case in cases for fault in case["faults"]]
    assert not faults, f"{len(faults)}, such as\n" + "\n".join(faults[:30])


def test_every_kind_of_damage_was_tried_and_no_file_stays_open(tried):
    assert {case["kind"] for case in tried["cases"]} == set(KINDS)
    assert {"refused", "loaded"} <= {case["verdict"] for case in tried["cases"]}
    assert tried["left"] == [] and tried["open files"] == 0


@pytest.mark.parametrize("name", KNOWN)
def test_what_once_broke_a_loader_is_refused_by_name(tried, name):
    (case,) = (case for case in tried["known"] if case["kind"] == name)
    assert not case["faults"] and case["verdict"] == "refused"


def in_child(act):
    """How act() ended in a process of its own: 0, 1 for an error, or less the signal's number."""
    pid = os.fork()
    if not pid:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("fault", ["overwritten", "cut short"])
@pytest.mark.parametrize("base", ["large table", "large attribute", "published"])
def test_what_happens_to_a_file_after_loading_changes_nothing(tmp_path, base, fault):
    path = tmp_path / f"x{suffix_of(base)}"
    path.write_bytes(whole()[base])
    thing = load(path, base)
    before = {key: value.clone() for key, value in tensors_of(thing)[0].items()}

    def spoil_and_use():
        with path.open("r+b") as file:
            file.write(bytes(len(whole()[base]))) if fault == "overwritten" else file.truncate(100)
        assert all(torch.equal(before[key], value) for key, value in tensors_of(thing)[0].items())

    assert in_child(spoil_and_use) == 0


def test_a_file_of_more_values_than_any_direction_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    parts = Parts(whole()["table"])
    size = 2**30 + 8
    header = json.dumps({"__metadata__": parts.metadata, "shifts": {"dtype": "BOOL", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    with pytest.raises(ValueError, match="file: x.safetensors is larger than any direction"):
        load(path, "table")


# --- names from the other end of a connection

LOADERS = {"LoadDirection": {"concept": "young"}, "LoadAttribute": {}}
AWAY = ["../../secret.safetensors", "../../output/secret.safetensors", "a/../../../secret.safetensors", "/secret.safetensors", "//secret.safetensors", "..\\..\\secret.safetensors", "file:../../secret.safetensors",
        "~/secret.safetensors", "%2e%2e/%2e%2e/secret.safetensors", "secret.safetensors\0", "here.safetensors\0", "\0", "", ".", "..", "/", "folder.safetensors", "gone.safetensors", "\ud800.safetensors", "x" * 5000, "x/" * 5000]


@pytest.mark.parametrize("node", LOADERS)
def test_a_loader_reads_nothing_outside_its_folders(folders, run, pack_nodes, monkeypatch, node):
    monkeypatch.setenv("HOME", str(folders))
    blob = whole()["attribute" if node == "LoadAttribute" else "table"]
    own = folders / "models/semantic_latents"
    for place in (folders / "secret.safetensors", folders / "output/secret.safetensors", own / "here.safetensors"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(blob)
    (own / "folder.safetensors").mkdir()
    (own / "gone.safetensors").symlink_to(folders / "nothing")
    for name in [*AWAY, str(folders / "secret.safetensors"), f"../..{folders}/secret.safetensors"]:
        with pytest.raises(FileNotFoundError, match="not found"):
            run(node, file=name, **LOADERS[node])
        assert pack_nodes[f"SemanticLatents_{node}"].fingerprint_inputs(file=name, **LOADERS[node])[-1] is None
    for name in ("here.safetensors", "../here.safetensors", "a/../here.safetensors"):  # the host keeps a way up inside the folder
        assert run(node, file=name, **LOADERS[node])


def test_a_link_that_the_owner_laid_is_followed(folders, run):
    (folders / "elsewhere.safetensors").write_bytes(whole()["table"])
    (folders / "models/semantic_latents/link.safetensors").symlink_to(folders / "elsewhere.safetensors")
    assert run("LoadDirection", file="link.safetensors", concept="young")


OUTSIDE = ["../x", "../../x", "a/../../x", "/x", "//x", "/tmp/x", "../semantic_latents_2/x", "../../models/semantic_latents/x"]
INSIDE = ["a/../x", "./x", "a//b", "a/b/c", "..", ".", "%date%", "%date:yyyy-MM-dd%", "%year%/%month%", "%width%", "CON", "nul.txt", "~/x", "..\\x", "a:b", "-rf", " x ", "a.b", ".hidden", "é", "x.safetensors",
          "x_00001_", "*?<>|", "$(touch x)", "x" * 200, "a/" * 50 + "x", "a/x/" + "y" * 200]
UNCLEAR = ["a\0b", "\ud800", "a/" * 2000 + "x"]
NAMELESS = ["", "a/", "a/.."]  # of which the host counts files wrongly


def made(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def save(run, prefix, what="table"):
    if what == "table":
        run("SaveDirection", direction=table(6, 3), filename_prefix=prefix)
    else:
        from pack.core.attribute import Mixture

        run("SaveAttribute", attribute=Mixture(((attribute(8, False), 1.0),)), filename_prefix=prefix)


@pytest.mark.parametrize("what", ["table", "attribute"])
@pytest.mark.parametrize("prefix", INSIDE, ids=range(len(INSIDE)))
def test_a_prefix_saves_inside_the_output_folder_and_never_twice_to_one_name(folders, run, prefix, what):
    import folder_paths

    save(run, prefix, what)
    save(run, prefix, what)
    files = made(folders)
    assert len(files) == 2 and all(path.resolve().is_relative_to(folders / "output/semantic_latents") for path in files)
    names = folder_paths.get_filename_list("semantic_latents")
    for path in files:
        name = str(path.relative_to(folders / "output/semantic_latents"))
        assert name in names and load(path, what) and run("LoadAttribute" if what == "attribute" else "LoadDirection", file=name, **({} if what == "attribute" else {"concept": "young"}))


@pytest.mark.parametrize("what", ["table", "attribute"])
@pytest.mark.parametrize("prefix", OUTSIDE)
def test_a_prefix_that_leads_outside_is_refused(folders, run, prefix, what):
    with pytest.raises(Exception, match="outside the output folder"):
        save(run, prefix, what)
    assert not made(folders)


@pytest.mark.parametrize("prefix", [*UNCLEAR, "x" * 300, "a/" + "x" * 5000], ids=range(len(UNCLEAR) + 2))
def test_a_prefix_that_no_file_can_have_is_refused_by_name(folders, run, prefix):
    with pytest.raises((ValueError, OSError), match="filename_prefix|name too long"):
        save(run, prefix)
    assert not made(folders)


@pytest.mark.parametrize("prefix", NAMELESS)
def test_a_prefix_without_a_name_is_refused_or_saves_twice(folders, run, prefix):
    try:
        save(run, prefix)
        save(run, prefix)
    except ValueError as error:
        assert "filename_prefix" in str(error) and not made(folders)
    else:
        assert len(made(folders)) == 2


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
