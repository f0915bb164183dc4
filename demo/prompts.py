"""Words for faces: captions to train on, the prompt of one attribute, and the word-level tokenizer of the demo model."""

from __future__ import annotations

import re

import numpy as np
import torch

from .faces import Face, hair_is_visible

SUBJECTS = ("a face", "a face", "a portrait", "a person", "a portrait of a person", "face", "")
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "smile": {
        "frowning": ("frowning", "frown", "sad", "a sad face"),
        "neutral": ("neutral expression", "serious"),
        "smiling": ("smiling", "smile", "happy", "with a smile"),
    },
    "mouth": {"closed": ("closed mouth",), "open": ("open mouth", "mouth open")},
    "glasses": {
        "none": ("no glasses", "without glasses"),
        "glasses": ("glasses", "wearing glasses", "with glasses"),
        "sunglasses": ("sunglasses", "wearing sunglasses", "with sunglasses"),
    },
    "beard": {
        "none": ("no beard", "clean shaven"),
        "mustache": ("mustache", "moustache", "with a mustache"),
        "beard": ("beard", "with a beard", "bearded"),
    },
    "style": {
        "bald": ("bald", "no hair", "bald head"),
        "short": ("short hair",),
        "long": ("long hair",),
        "curly": ("curly hair",),
        "spiky": ("spiky hair",),
    },
    "hair": {colour: (f"{colour} hair",) for colour in ("black", "brown", "blond", "red", "gray", "blue")},
    "skin": {colour: (f"{colour} skin",) for colour in ("pale", "tan", "brown", "dark")},
    "hat": {"none": ("no hat", "without a hat"), "hat": ("hat", "wearing a hat", "with a hat")},
    "gaze": {"left": ("looking left",), "front": ("looking ahead", "facing front"), "right": ("looking right",)},
    "background": {colour: (f"{colour} background",) for colour in ("white", "gray", "orange", "green", "blue", "pink")},
    "shirt": {colour: (f"{colour} shirt", f"wearing a {colour} shirt") for colour in ("white", "black", "red", "green", "yellow")},
}
UNREMARKABLE = {("smile", "neutral"), ("mouth", "closed"), ("glasses", "none"), ("beard", "none"), ("hat", "none"), ("gaze", "front")}
SYNONYMS = {
    "blonde": "blond",
    "grey": "gray",
    "eyeglasses": "glasses",
    "smiles": "smile",
    "woman": "person",
    "man": "person",
    "faces": "face",
    "backdrop": "background",
}

START, END = 0, 1
_WORD = re.compile(r"[a-z]+")


def _spoken_words() -> list[str]:
    phrases = [*SUBJECTS, *(p for values in WORDS.values() for spoken in values.values() for p in spoken)]
    return sorted({word for phrase in phrases for word in _WORD.findall(phrase)})


VOCABULARY = {"<start>": START, "<end>": END, **{word: i for i, word in enumerate(_spoken_words(), 2)}}


def caption(face: Face, rng: np.random.Generator) -> str:
    """A random, truthful description of a face, often incomplete, in random order and wording."""
    keep = min(1.0, rng.uniform(0.15, 1.6))
    phrases = []
    for name, value in face.labels.items():
        rare = 0.6 if (name, value) in UNREMARKABLE else 1.0
        if rng.random() < keep * rare and not (name == "hair" and not hair_is_visible(face.labels)):
            phrases.append(str(rng.choice(WORDS[name][value])))
    phrases = _joined_hair(phrases, rng)
    rng.shuffle(phrases)
    subject = str(rng.choice(SUBJECTS))
    return ", ".join(([subject] if subject else []) + phrases)


def _joined_hair(phrases: list[str], rng: np.random.Generator) -> list[str]:
    """`curly hair, red hair` is often said `curly red hair`."""
    hair = [p for p in phrases if p.endswith(" hair") and p != "no hair"]
    if len(hair) < 2 or rng.random() < 0.4:
        return phrases
    joined = f"{hair[0][:-5]} {hair[1]}"
    return [p for p in phrases if p not in hair] + [joined]


def prompt_for(wanted: dict[str, str]) -> str:
    """The plainest prompt for some attributes: `a face, smiling, red hair`."""
    return ", ".join(["a face", *(WORDS[name][value][0] for name, value in wanted.items())])


def said_in(captions: list[str]) -> dict[str, torch.Tensor]:
    """For each attribute, the index (b,) of the value that each caption names, or the number of values where it names none."""
    said = {}
    for name, values in WORDS.items():
        spoken = [{frozenset(_WORD.findall(phrase)) for phrase in phrases} for phrases in values.values()]
        said[name] = torch.tensor([_longest_said(spoken, caption) for caption in captions])
    return said


def _longest_said(spoken: list[set[frozenset[str]]], caption: str) -> int:
    """The value of which a clause of the caption has the longest phrase: `no hat` is more than `hat`."""
    clauses = [frozenset(_WORD.findall(clause)) for clause in caption.split(",")]
    lengths = [max((len(p) for p in phrases for clause in clauses if p <= clause), default=0) for phrases in spoken]
    return int(np.argmax(lengths)) if any(lengths) else len(spoken)


def words_to_ids(text: str) -> list[int]:
    """Token ids of the known words of a text, without start and end; unknown words are skipped."""
    words = (SYNONYMS.get(word, word) for word in _WORD.findall(text.lower()))
    return [VOCABULARY[word] for word in words if word in VOCABULARY]


class WordTokenizer:
    """The part of a Hugging Face tokenizer that the host's SDTokenizer calls, over `VOCABULARY`."""

    @classmethod
    def from_pretrained(cls, path, **options):
        return cls()

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [START, *words_to_ids(text), END]}

    def get_vocab(self) -> dict[str, int]:
        return dict(VOCABULARY)

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        words = {i: word for word, i in VOCABULARY.items()}
        return " ".join(words[i] for i in ids if not (skip_special_tokens and i in (START, END)))
