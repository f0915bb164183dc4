"""Every damaged file that is tried: drawn at random by its number, or known to have broken a loader once."""

import json
import math
import os
import pickle
import random
import struct
import zipfile
import zlib

import torch

from pack.tests.campaigns.fuzz import pickle_damage, tensor_damage
from pack.tests.campaigns.fuzz.files import ATTRIBUTES, MATRIX, PICKLED, pth, saved, whole
from pack.tests.campaigns.fuzz.pickle_damage import Call, packed, unpacked, with_pickle, with_two_directories
from pack.tests.campaigns.fuzz.safetensors_parts import DTYPES, FORMATS, IN_JSON, Parts, written
from pack.tests.campaigns.fuzz.tensor_damage import repeated
from pack.tests.released import file_of, weights


def png(width, height):
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def foreign(rng, blob):
    """Files that are whole, but of another kind; for either loader also the other's."""
    some = torch.zeros(8, 4)
    return rng.choice(
        [
            lambda: png(16, 16),
            lambda: b"",
            lambda: b"\0",
            lambda: b"\0" * 8,
            lambda: b"a text\n" * rng.randint(1, 1000),
            lambda: b"{}",
            lambda: packed({"a": b"b"}),
            lambda: rng.randbytes(rng.randint(1, 5000)),
            lambda: pickle.dumps({MATRIX: Call(os.system, "touch payload")}),
            lambda: pickle.dumps([0] * 1000),
            lambda: b"version https://git-lfs.example/spec/v1\noid sha256:0\nsize 12345\n",
            lambda: saved(
                {
                    "lora_unet_mid.lora_up.weight": some,
                    "lora_unet_mid.lora_down.weight": some.T.contiguous(),
                    "lora_unet_mid.alpha": torch.tensor(4.0),
                },
                {"ss_network_module": "networks.lora"},
            ),
            lambda: saved(
                {"model.diffusion_model.out.2.weight": torch.zeros(4, 32, 3, 3), "first_stage_model.decoder.conv_in.bias": some[0].clone()},
                {"format": "pt"},
            ),
            lambda: saved({"shifts": some, "sigmas": some.clone()}, {}),
            lambda: pth({"state_dict": {"a": some}}),
        ]
    )()


TENSOR_FILES = {**tensor_damage.DAMAGE, "another kind of file": foreign}
DIRECTIONS = {**TENSOR_FILES, "one part many times": repeated}
PICKLES = {**pickle_damage.DAMAGE, "another kind of file": foreign}
NEVER_VALID = {
    "header length",
    "header of another kind",
    "empty shapes",
    "metadata missing",
    "newer version",
    "NaN or Inf",
    "another kind of file",
    "pickle with a payload",
    "other matrices",
}
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
        parts.tensors[key] = dtype, shape, start + data[len(start) :]

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
    "a loss weight of 400 digits": (
        "attribute",
        in_parts("recipe", weights={"target": 10**400, "source": 1.0, "target_values": 0.0, "source_values": 0.0}),
    ),
    "a weight of 400 digits": ("attribute", in_parts("entry", weight=10**400)),
    "a weight that is no number": ("attribute", in_parts("entry", weight=math.nan)),
    "sides of 400 digits": ("attribute with network", in_parts("entry", shape=[1, 4, 10**400, 10**400])),
    "NaN in the triplets": ("attribute", with_values("0.S", math.nan)),
    "NaN in a network": ("attribute with network", with_values("0.second", math.nan)),
    "a network of whole numbers": ("attribute with network", as_dtype("0.first", "I64")),
    "a gigabyte in 1000 bytes": (
        "published",
        lambda blob: with_pickle(pth({MATRIX: torch.zeros(1)}), pickle.dumps({MATRIX: Call(bytearray, 2**30)}, 2)),
    ),
    "64 MB deflated": (
        "published",
        lambda blob: packed(unpacked(pth({MATRIX: torch.zeros(81920, 8), "more": torch.zeros(2**24)})), zipfile.ZIP_DEFLATED),
    ),
    "ten million lists in a pickle": ("published", lambda blob: with_pickle(blob, b"\x80\x02" + b"]" * 10**7 + b".")),
    "an archive with two directories": (
        "published",
        lambda blob: with_two_directories(
            {"x/data.pkl": b"N.", "x/version": b"3", "x/more": b""},
            {"x/data.pkl": pickle.dumps({MATRIX: Call(bytearray, 2**30)}, 2), "x/version": b"3", "x/more": bytes(100)},
        ),
    ),
    "a sparse matrix": ("published", lambda blob: pth({MATRIX: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (81920, 8))})),
    "a matrix without values": ("published", lambda blob: pth({MATRIX: torch.empty(81920, 8, device="meta")})),
    "a block of views": (
        "released block",
        lambda blob: pth(file_of({key: torch.ones(1).expand([4096] * value.ndim) for key, value in weights("DDPM").items()})),
    ),
    "a block that repeats a number": (
        "released block",
        lambda blob: pth(
            file_of({key: torch.ones(1).expand([4096 if n > 1 else 1 for n in value.shape]) for key, value in weights("DDPM").items()})
        ),
    ),
    "NaN in a block": ("released block", lambda blob: pth(file_of({**weights("DDPM"), "conv1.bias": torch.full((64,), math.nan)}))),
    "code beside a block": ("released block", lambda blob: pth(file_of(weights("DDPM"), more=Call(bytearray, 2**30)))),
    "a block of a billion channels": ("block", on_parts(lambda parts: parts.metadata.update(channels="999999968"))),
    "a billion channels of the embedding": (
        "block",
        on_parts(lambda parts: parts.tensors.update({"0.block.time.weight": ("F32", [32, 2**30], b"")})),
    ),
    "NaN in the vectors": ("published", lambda blob: pth({MATRIX: torch.full((81920, 8), math.nan)})),
}


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
        base = rng.choices(list(whole()), [3, 2, 1, 3, 4, 3, 3, 4, 1, 4, 5, 3, 3, 5])[0]
        damage = PICKLES if base in PICKLED else TENSOR_FILES if base in {*ATTRIBUTES, "slider"} else DIRECTIONS
        kind = list(damage)[number % len(damage)]
        return cls(f"case{number}", base, kind, damage[kind](rng, whole()[base]))

    @classmethod
    def known(cls, name):
        base, damage = KNOWN[name]
        torch.manual_seed(0)
        return cls(f"known{list(KNOWN).index(name)}", base, name, damage(whole()[base]))

    def __str__(self):
        return f"{self.name} ({self.base}: {self.kind})"
