"""Damage to a .pth file, which is an archive with a pickle."""

import io
import math
import os
import pickle
import struct
import zipfile

import torch

from pack.tests.campaigns.fuzz.byte_damage import blanked, cut, flipped, grown
from pack.tests.campaigns.fuzz.files import MATRIX, pth

MB = 2**20


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


def with_pickle(blob, data):
    return packed({name: data if name.endswith("data.pkl") else record for name, record in unpacked(blob).items()})


def with_two_directories(seen, hidden):
    """An archive whose directory stands before its end for one reader (zipfile), and where its end says it is for another (torch)."""
    parts = []
    for blob in (packed(seen), packed(hidden)):
        size, start = struct.unpack_from("<II", blob, len(blob) - 10)
        parts.append((blob[:start], bytearray(blob[start : start + size]), blob[start + size :]))
    (first, directory, _), (second, other, end) = parts
    place = 0
    while place < len(directory):
        (length,) = struct.unpack_from("<H", directory, place + 28)
        (offset,) = struct.unpack_from("<I", directory, place + 42)
        struct.pack_into("<I", directory, place + 42, offset + len(second) - len(first))
        place += 46 + length
    assert len(directory) == len(other)
    assert len(second) >= len(first)
    return second + other + first + directory + end


def pickle_flipped(rng, blob):
    """With the archive's own sums right again."""
    records = unpacked(blob)
    return with_pickle(blob, flipped(rng, next(data for name, data in records.items() if name.endswith("data.pkl"))))


def payload(rng, blob):
    """Pickles that would run something."""
    value = {
        MATRIX: Call(
            *rng.choice(
                [
                    (os.system, "touch payload"),
                    (open, "payload", "w"),
                    (exec, "open('payload', 'w')"),
                    (os.mkdir, "payload"),
                    (os.open, "payload", os.O_CREAT),
                ]
            )
        )
    }
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
    return pth(
        rng.choice(
            [
                lambda: {MATRIX: matrix.to_sparse()},
                lambda: {MATRIX: torch.sparse_coo_tensor(torch.zeros(2, 1), torch.ones(1), (81920, 8))},
                lambda: {MATRIX: torch.empty(81920, 8, device="meta")},
                lambda: {MATRIX: matrix.T},
                lambda: {MATRIX: matrix[:-1].clone()},
                lambda: {MATRIX: matrix.int()},
                lambda: {MATRIX: matrix.bool()},
                lambda: {MATRIX: torch.ones(81920, 8, dtype=torch.complex64)},
                lambda: {MATRIX: torch.quantize_per_tensor(matrix, 1.0, 0, torch.qint8)},
                lambda: {"other": matrix},
                lambda: {0: matrix},
                lambda: [matrix],
                lambda: matrix,
                lambda: {},
                lambda: None,
                lambda: {MATRIX: 3},
                lambda: {MATRIX: "x" * 10**5},
                lambda: {MATRIX: [[0.0] * 8] * 100},
            ]
        )()
    )


def matrix_not_finite(rng, blob):
    matrix = torch.ones(81920, 8)
    matrix[rng.randrange(81920)] = rng.choice((math.nan, math.inf))
    return pth({MATRIX: matrix})


DAMAGE = {
    "cut short": cut,
    "grown": grown,
    "bits flipped": flipped,
    "sector lost": blanked,
    "pickle garbled": pickle_flipped,
    "pickle with a payload": payload,
    "pickle of large things": bomb,
    "other matrices": other_matrices,
    "NaN or Inf": matrix_not_finite,
}
