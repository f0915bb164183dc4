"""Drawn faces on their way to the trainers: files of arrays that drawing processes fill and trainers read meanwhile.

Face `i` and its captions depend on the seed and `i` alone, whatever the number of drawing processes, so that a run that
was stopped goes on with the same faces. No torch here: the drawing processes start in a moment and stay small.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from . import captions
from .drawing import render
from .faces import CATEGORICAL, CONTINUOUS, IDENTITY, SIZE, Face, sample_face, visible

CHUNK = 32  # neighbouring faces that one process draws
CAPTIONS = 4  # a face
TRAIN_SEED, UNSEEN_SEED = 1, 987_654
CELLS = 32  # side of a latent
NAMES = (*CATEGORICAL, *CONTINUOUS, *IDENTITY)


def numbers_of(face: Face) -> np.ndarray:
    return np.array([face.numbers[name] for name in CONTINUOUS], np.float32)


def padded(text: str) -> list[int]:
    """Token ids of a caption, padded as the host pads them."""
    ids = [captions.START, *captions.words_to_ids(text)[: captions.MAX_TOKENS - 2], captions.END]
    return ids + [captions.END] * (captions.MAX_TOKENS - len(ids))


class Store:
    """Arrays of `count` faces in a folder, one `.npy` file each; `ready()` counts the faces at the front that are drawn.

    pixels (n, 256, 256, 3) uint8; labels (n, attributes) and shown (n, NAMES), whether the picture can show each;
    numbers (n, numbers); identity (n, parts); tokens (n, CAPTIONS, MAX_TOKENS); said_labels and said_numbers: what
    the first caption says (the number of values, or nan, where it says nothing); latents (n, 4, 32, 32), filled later.
    """

    def __init__(self, folder: Path, count: int | None = None, workers: int = 1):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        shapes = {
            "pixels": (np.uint8, (SIZE, SIZE, 3)),
            "labels": (np.int16, (len(CATEGORICAL),)),
            "shown": (np.bool_, (len(NAMES),)),
            "numbers": (np.float32, (len(CONTINUOUS),)),
            "identity": (np.float32, (len(IDENTITY),)),
            "tokens": (np.int16, (CAPTIONS, captions.MAX_TOKENS)),
            "said_labels": (np.int16, (len(CATEGORICAL),)),
            "said_numbers": (np.float32, (len(CONTINUOUS),)),
            "latents": (np.float16, (4, CELLS, CELLS)),
        }
        if not (self.folder / "progress.npy").exists():
            for name, (kind, shape) in shapes.items():
                np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", kind, (count, *shape))
            np.lib.format.open_memmap(self.folder / "encoded.npy", "w+", np.int64, (1,))
            np.lib.format.open_memmap(self.folder / "progress.partial.npy", "w+", np.int64, (workers,))
            (self.folder / "progress.partial.npy").replace(self.folder / "progress.npy")
        for name in (*shapes, "encoded", "progress"):
            setattr(self, name, np.load(self.folder / f"{name}.npy", mmap_mode="r+"))
        self.count, self.workers = len(self.pixels), len(self.progress)

    def ready(self) -> int:
        """Faces 0 to this number are drawn: process w draws chunks w, w + workers, ... and counts those it has done."""
        done = np.array(self.progress)
        return min(self.count, CHUNK * int(min(done[w] * self.workers + w for w in range(self.workers))))

    def wait(self, count: int, seconds: float = 600.0) -> int:
        """The number of faces that are ready, once it is at least `count`."""
        end = time.time() + seconds
        while self.ready() < min(count, self.count):
            if time.time() > end:
                raise TimeoutError(f"{self.ready()} of {count} faces were drawn in {seconds:.0f} s")
            time.sleep(0.1)
        return self.ready()

    def write(self, i: int, face: Face, rng: np.random.Generator) -> None:
        known = visible(face)
        texts = [captions.caption(face, rng) for _ in range(CAPTIONS)]
        said = captions.said_in(texts[:1])
        self.pixels[i] = render(face)
        self.labels[i] = [values.index(face.labels[name]) for name, values in CATEGORICAL.items()]
        self.shown[i] = [name in known for name in NAMES]
        self.numbers[i] = numbers_of(face)
        self.identity[i] = [face.identity[name] for name in IDENTITY]
        self.tokens[i] = [padded(text) for text in texts]
        self.said_labels[i] = [said[name][0] for name in CATEGORICAL]
        self.said_numbers[i] = [said[name][0] for name in CONTINUOUS]


def draw(folder: Path, worker: int, seed: int) -> None:
    """One drawing process's share, from where it was stopped; ends early when a file `stop` lies in the folder's parent."""
    store, stop = Store(folder), Path(folder).parent / "stop"
    while True:
        first = (int(store.progress[worker]) * store.workers + worker) * CHUNK
        if first >= store.count or stop.exists():
            return
        for i in range(first, min(first + CHUNK, store.count)):
            rng = np.random.default_rng([seed, i])
            store.write(i, sample_face(rng), rng)
        store.progress[worker] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("worker", type=int)
    options = parser.parse_args()
    os.nice(5)
    draw(options.folder / "unseen", options.worker, UNSEEN_SEED)
    draw(options.folder / "train", options.worker, TRAIN_SEED)


if __name__ == "__main__":
    main()
