"""Long texts, and the pixels of a text that is drawn."""

import numpy as np

from pack.core.pictures.typesetting import Typeset


def pixels(text, width=300, size=20):
    return np.asarray(Typeset.fitting([text], width, size).mask(0, centred=False))


LONG = {
    "words": "a photograph of a young woman, smiling, short brown hair, tan skin, blue background",
    "one word": "x" * 200,
    "a file": "semantic_latents_direction_from_prompts_00012_.safetensors",
    "ideographs": "日本語の長いラベルがここにあります" * 4,
    "a paragraph": " ".join(f"word{i}" for i in range(300)),
    "a book": "all work and no play " * 10000,
}
