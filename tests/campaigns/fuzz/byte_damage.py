"""Damage to the bytes of any file."""


def cut(rng, blob):
    return blob[: rng.randrange(len(blob))]


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
    return blob[:start] + other[: len(blob) - start] + blob[start + size :]
