"""The picture of the model card: what the models draw under the prompts of its rows, and faces before and after the VAE."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PROMPTS = (
    "a portrait, smiling, curly red hair, green background",
    "a portrait, frowning, black hair, dark skin, blue shirt",
    "an old man with a long beard and glasses",
    "a young woman with long blond hair, big smile, earrings",
    "a portrait, sunglasses, beanie, orange background",
    "a portrait, open mouth, spiky blue hair, looking right",
    "a portrait, bald, stubble, light from the left",
    "a portrait, slight smile, wavy brown hair, looking left, yellow shirt",
)
MODELS = {"unet": "Portrait (UNet)", "dit": "Portrait DiT (transformer)"}
LINE, GAP = 28, 8


def path_of(folder: Path, kind: str) -> Path:
    """The sheet of a model (unet, dit) or of the VAE (vae)."""
    return folder / f"sheet_{kind}.png"


def together(folder: Path) -> Image.Image | None:
    """The sheets of a folder as one picture: models side by side, below them the halves of the VAE's; None if there is no sheet."""
    drawn = {title: Image.open(path_of(folder, kind)) for kind, title in MODELS.items() if path_of(folder, kind).exists()}
    blocks = [_captioned(sheet, PROMPTS, title) for title, sheet in drawn.items()]
    if path_of(folder, "vae").exists():
        sheet = Image.open(path_of(folder, "vae"))
        count = max(1, len(blocks))
        parts = [sheet.crop((0, i * sheet.height // count, sheet.width, (i + 1) * sheet.height // count)) for i in range(count)]
        below = [_captioned(part, ["drawn faces, and what the VAE makes of them"]) for part in parts]
        blocks = [_stacked(*pair) for pair in zip(blocks, below, strict=True)] if blocks else below
    if not blocks:
        return None
    canvas = Image.new("RGB", (sum(b.width + GAP for b in blocks) - GAP, max(b.height for b in blocks)), "white")
    for i, block in enumerate(blocks):
        canvas.paste(block, (sum(b.width + GAP for b in blocks[:i]), 0))
    return canvas


def _stacked(*pictures: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (0, sum(p.height for p in pictures[:i])))
    return canvas


def _captioned(sheet: Image.Image, captions: tuple[str, ...] | list[str], title: str = "") -> Image.Image:
    """The rows of a sheet, as many as captions, each below its own."""
    row = sheet.height // len(captions)
    lines = [_line(sheet.width, title, stroke_width=0.5)] if title else []
    for i, caption in enumerate(captions):
        lines += [_line(sheet.width, caption), sheet.crop((0, i * row, sheet.width, (i + 1) * row))]
    return _stacked(*lines)


def _line(width: int, text: str, **how: float) -> Image.Image:
    line = Image.new("RGB", (width, LINE), "white")
    ImageDraw.Draw(line).text((4, 3), text, "black", ImageFont.load_default(20), **how)
    return line
