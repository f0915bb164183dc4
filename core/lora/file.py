"""What a slider LoRA's file says beside its weights: its words, what it was trained on and how, and its unit.

It lies under one key of the file's metadata, so that every tool takes the file for a plain LoRA.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open

from ..dial import Dial
from ..files import LONGEST_TEXT, are_notes, entry_of, json_in, names_damage
from ..slider_file import dial_of

KEY = "semantic_latents.slider_lora"
VERSION = 1


@dataclass(frozen=True)
class LoraNotes:
    """name: a few words. words: by the inputs of Train Slider LoRA. settings: likewise. family, base: the model's, and a hash of some of
    its weights. dial: of Calibrate Slider, if it was there.
    """

    name: str
    words: dict[str, str]
    settings: dict[str, str]
    family: str
    base: str
    dial: Dial | None = field(default=None)


def lora_metadata(notes: LoraNotes) -> dict[str, str]:
    """The metadata of a slider LoRA's file. Raises ValueError for texts longer than a file can keep."""
    about = {
        "version": VERSION,
        "name": notes.name,
        "words": notes.words,
        "settings": notes.settings,
        "family": notes.family,
        "base": notes.base,
        "dial": notes.dial and [list(mark) for mark in notes.dial.marks],
    }
    rank = notes.settings.get("rank", "")
    metadata = {
        "format": "pt",
        KEY: json.dumps(about),
        "modelspec.title": notes.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
    }
    if sum(map(len, metadata.values())) > LONGEST_TEXT:
        raise ValueError("slider: its words are longer texts than a file can keep; write shorter ones.")
    return metadata


@names_damage
def notes_of_lora(path: Path) -> LoraNotes | None:
    """What the file of a LoRA says of itself; None for one of another tool. Raises ValueError that names the file if it is garbled."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if KEY not in metadata:
        return None
    if len(metadata[KEY]) > LONGEST_TEXT:
        raise ValueError(f"file: {path.name} is damaged: its metadata is longer than any slider's.")
    try:
        about = json_in(metadata, KEY)
        version, name, words, settings, family, base = entry_of(
            about, version=int, name=str, words=dict, settings=dict, family=str, base=str
        )
        if not are_notes(words) or not are_notes(settings):
            raise ValueError("its words and settings must be text")
        dial = dial_of(about.get("dial"))
    except ValueError as error:
        raise ValueError(f"file: {path.name} is damaged: its metadata does not describe a slider LoRA ({error}).") from error
    if version > VERSION:
        raise ValueError(f"file: {path.name} is of version {version}, this pack reads up to {VERSION}; update Semantic Latents.")
    return LoraNotes(name, words, settings, family, base, dial)
