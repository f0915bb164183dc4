"""Nodes of pictures: a node's strength over a range, labelled sheets, figures before and after an edit, and the demo's scorer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor, linspace

from ..core.pictures.channels import as_rgb
from ..core.pictures.distances import colour_drift, psnr, ssim
from ..core.pictures.sheet import labelled_grid
from ..demo import JUDGES, WEIGHTS, offered
from ..host.scorer import ImageScorer, check_pair, text_embedding
from ..host.types import CLIP, ClipVisionModel
from .base import CATEGORY, checked, one_value_each


class StrengthRange(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_StrengthRange",
            display_name="Strength Range",
            category=CATEGORY,
            description="Gives a row of strengths. Connected to a strength, everything after it runs once for each; a "
            "Labelled Grid puts the pictures side by side.",
            search_aliases=["slider", "xy plot", "float list", "sweep", "linspace"],
            inputs=[
                io.Float.Input("minimum", default=-1.0, min=-100.0, max=100.0, step=0.01, tooltip="The first strength."),
                io.Float.Input("maximum", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip="The last strength."),
                io.Int.Input(
                    "count",
                    default=5,
                    min=1,
                    max=100,
                    tooltip="How many strengths, at equal distances; each costs a "
                    "whole run. An odd count from -1 to 1 has the unedited picture in its middle.",
                ),
            ],
            outputs=[
                io.Float.Output("strength", is_output_list=True, tooltip="Connect a node's strength (turn the widget into an input)."),
                io.String.Output("label", is_output_list=True, tooltip="The strengths in words, for Labelled Grid."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, minimum: float, maximum: float, count: int) -> io.NodeOutput:
        strengths = [round(value, 6) for value in linspace(minimum, maximum, count).double().tolist()]
        return io.NodeOutput(strengths, [f"{value:+.2f}" if value else "0" for value in strengths])


class Grid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_Grid",
            display_name="Labelled Grid",
            category=CATEGORY,
            description="Puts pictures side by side, each over its label, on one picture.",
            search_aliases=["strip", "contact sheet", "xy plot", "compare", "image grid"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A list of pictures, batches, or both, of one size; in the order in which they arrive."),
                io.Int.Input("columns", default=0, min=0, max=100, tooltip="Pictures in a row; 0 for all in one row."),
                io.Int.Input(
                    "tile",
                    default=192,
                    min=16,
                    max=2048,
                    tooltip="Pictures narrower than this many pixels are enlarged, pixel by pixel, so that small ones can be seen.",
                ),
                io.String.Input("title", default="", tooltip="A line above the sheet; leave empty for none."),
                io.String.Input(
                    "labels",
                    optional=True,
                    force_input=True,
                    tooltip="One label a picture, from Strength Range or any list of texts; for a batch, one for each of its pictures.",
                ),
            ],
            outputs=[io.Image.Output("image", tooltip="The sheet, for Save Image.")],
        )

    @classmethod
    @checked
    @one_value_each(but=("images", "labels"))
    def execute(cls, images: list[Tensor], columns: int, tile: int, title: str, labels: list[str] | None = None) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        sheet = labelled_grid(pictures, labels or [], columns=columns, tile=tile, title=title)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


class CompareEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_CompareEdit",
            display_name="Compare Edit",
            category=CATEGORY,
            is_output_node=True,
            description="Says in figures how far pictures after an edit are from those before: structure, pixels, colours; "
            "with a CLIP model also how well "
            "they fit a text, and whether they moved as the text says.",
            search_aliases=["ssim", "psnr", "clip score", "metrics", "before after", "difference", "directional similarity"],
            inputs=[
                io.Image.Input("before", tooltip="The unedited picture, or a batch."),
                io.Image.Input("after", tooltip="The edited one, of the same size; a batch as long, or compared with one picture before."),
                io.String.Input("source_text", default="a portrait", tooltip="With a scorer: what the pictures before show."),
                io.String.Input("target_text", default="a portrait, smiling", tooltip="With a scorer: what the edit shall show."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="From Load CLIP Vision, or Load Demo Scorer; with clip."),
                io.Clip.Input(
                    "clip", optional=True, tooltip="The text tower that belongs to clip_vision, from Load CLIP, or Load Demo Scorer."
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="Before, after, and what differs, enlarged in brightness, under the main figures."),
                io.String.Output("figures", tooltip="All figures in words, for Preview Text."),
                io.Float.Output("ssim", tooltip="Structural similarity, 1 for equal pictures; the mean over the batch."),
                io.Float.Output("psnr", tooltip="Peak signal-to-noise ratio in dB, 120 for equal pictures."),
                io.Float.Output("colour_drift", tooltip="How far the mean colours moved, 0 to 1."),
                io.Float.Output(
                    "text_gain",
                    tooltip="With a scorer: how much likelier the target text fits after than before, a difference of cosines; else 0.",
                ),
                io.Float.Output("direction", tooltip="With a scorer: cosine between the pictures' move and the texts', -1 to 1; else 0."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        before: Tensor,
        after: Tensor,
        source_text: str,
        target_text: str,
        clip_vision: ClipVisionModel | None = None,
        clip: CLIP | None = None,
    ) -> io.NodeOutput:
        before, after = pair_of(before, after)
        a, b = (pictures.movedim(-1, 1).float() * 2 - 1 for pictures in (before, after))
        means, deviations = colour_drift(a, b)
        found = {"SSIM": ssim(a, b), "PSNR in dB": psnr(a, b), "colour drift, means": means / 2, "colour drift, deviations": deviations / 2}
        gain = direction = torch.zeros(1)
        if clip_vision is not None or clip is not None:
            gain, direction = scored(clip_vision, clip, before, after, source_text, target_text)
            found |= {"gain of the target text": gain, "direction": direction}
        figures = "\n".join(
            f"{name}: {values.mean():.3f}" + (f" (from {values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")
            for name, values in found.items()
        )
        shown = [("before", before), ("after", after), ("difference x 4", (4 * (after - before).abs()).clamp(max=1))]
        rows = min(len(after), 4)
        title = f"SSIM {found['SSIM'].mean():.2f}, PSNR {found['PSNR in dB'].mean():.0f} dB, colour drift {means.mean() / 2:.3f}"
        sheet = labelled_grid(
            [batch[i] for i in range(rows) for _, batch in shown], [name for name, _ in shown] * rows, columns=3, title=title
        )
        values = [
            float(found["SSIM"].mean()),
            float(found["PSNR in dB"].mean()),
            float(means.mean() / 2),
            float(gain.mean()),
            float(direction.mean()),
        ]
        return io.NodeOutput(sheet, figures, *values, ui=ui.PreviewImage(sheet, cls=cls))


def pair_of(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches (b, h, w, 3) at equal length; ValueError if they do not belong together."""
    if before.shape[1:3] != after.shape[1:3]:
        raise ValueError(
            f"after: got {after.shape[2]} x {after.shape[1]} pixels, before has {before.shape[2]} x {before.shape[1]}; scale one of them."
        )
    if len(before) not in (1, len(after)):
        raise ValueError(
            f"after: got {len(after)} pictures for {len(before)} before; connect batches of equal length, or one picture before."
        )
    return as_rgb(before, "before").expand(len(after), -1, -1, -1).cpu(), as_rgb(after, "after").cpu()


def scored(
    clip_vision: ClipVisionModel | None, clip: CLIP | None, before: Tensor, after: Tensor, source: str, target: str
) -> tuple[Tensor, Tensor]:
    """Gain (b,) of the target text's cosine, and cosine (b,) of the pictures' move with the texts'."""
    texts, images = embedded(clip_vision, clip, [source, target], [before, after])
    return (images[1] - images[0]) @ texts[1], F.cosine_similarity(images[1] - images[0], (texts[1] - texts[0])[None], dim=1)


def embedded(
    clip_vision: ClipVisionModel | None, clip: CLIP | None, texts: list[str], batches: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Unit embeddings (n, e) of texts, and (b, e) of each batch of pictures (b, h, w, 3) in 0..1; ValueError without both towers."""
    if clip_vision is None or clip is None:
        raise ValueError(
            f"{'clip_vision' if clip_vision is None else 'clip'}: figures of a scorer need both towers of one CLIP model; "
            "connect it, or disconnect the other."
        )
    with torch.inference_mode(False), torch.no_grad():
        words = torch.stack([text_embedding(clip, text).clone().cpu() for text in texts])
        scorer = ImageScorer(clip_vision)
        images = [scorer.embed(pictures.clone().movedim(-1, 1)).cpu() for pictures in batches]
    for one in images:
        check_pair(one, words[0])
    return F.normalize(words, dim=1), [F.normalize(one, dim=1) for one in images]


class DemoScorer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_DemoScorer",
            display_name="Load Demo Scorer",
            category=CATEGORY,
            description="The demo models' small CLIP scorer, which comes with this pack. For other models use ComfyUI's Load "
            "CLIP Vision and Load CLIP.",
            search_aliases=["clip vision", "scorer", "demo"],
            inputs=[],
            outputs=[
                io.ClipVision.Output(
                    "clip_vision", tooltip="Reads the faces that the demo models draw; anything else means nothing to it."
                ),
                io.Clip.Output("clip", tooltip="Its text tower: the demo checkpoint's CLIP, whichever model you draw with."),
            ],
        )

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(offered.picture_tower(JUDGES), offered.text_tower(WEIGHTS))


NODES = [StrengthRange, Grid, CompareEdit, DemoScorer]
