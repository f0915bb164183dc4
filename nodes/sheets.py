"""A node's strength over a range, and the pictures that come of it on one labelled sheet."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import linspace

from ..core.grid import labelled_grid
from .node import checked, one_value_each
from .types import CATEGORY


class StrengthRange(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, minimum, maximum, count) -> io.NodeOutput:
        strengths = [round(value, 6) for value in linspace(minimum, maximum, count).double().tolist()]
        return io.NodeOutput(strengths, [f"{value:+.2f}" if value else "0" for value in strengths])


class Grid(io.ComfyNode):
    @classmethod
    def define_schema(cls):
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
    def execute(cls, images, columns, tile, title, labels=None) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        sheet = labelled_grid(pictures, labels or [], columns=columns, tile=tile, title=title)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))


NODES = [StrengthRange, Grid]
