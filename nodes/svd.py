"""Latent SVD in a graph: decompose, change singular values, compose (Wang et al. 2025, arXiv 2502.02225)."""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io, ui

from ..core.pictures.figures import spectrum_figure
from ..core.svd import decomposition as latent_svd
from ..core.svd.applying import apply_spectrum
from ..core.svd.matrices import Layout
from ..core.svd.rescaling import Band, CurveGain, Power, SpectrumEdit, SpectrumOperation, Threshold, Truncate, rescale
from ..host.types import Latent
from .base import CATEGORY, SVD, DecomposedLatent, checked

MODES = ["gain", "power", "curve", "truncate", "hard threshold", "soft threshold"]


def layout_input() -> io.Combo.Input:
    return io.Combo.Input(
        "layout",
        options=["channel", "joint"],
        default="channel",
        tooltip="What is decomposed. channel: the picture of each latent channel by itself, height x width, as in the "
        "paper; edits change shapes and layout. joint: all channels together, channels x pixels; edits change "
        "contrast between channels, that is colour and material.",
    )


def rescaling_inputs() -> list[io.Input]:
    """The inputs that RescaleSingularValues and SpectrumOperation share, read by `rescaling`."""
    return [
        io.Combo.Input(
            "mode",
            options=MODES,
            default="gain",
            tooltip="How the singular values change. gain: multiplies a band. power: raises all to a power at equal energy. "
            "curve: a gain that follows the curve over the ranks. truncate: keeps the leading triplets only. hard / soft "
            "threshold: drops / shrinks what is below the edge of the noise.",
        ),
        io.Int.Input(
            "first",
            default=1,
            min=1,
            max=16384,
            tooltip="Mode gain: where the band starts. 1 is the largest triplet (broad layout and light); higher ones carry finer shapes.",
        ),
        io.Int.Input(
            "last",
            default=4,
            min=0,
            max=16384,
            tooltip="Mode gain: the band's last triplet, 0 for all the rest. Mode truncate: how many triplets are kept.",
        ),
        io.Float.Input(
            "gain",
            default=1.5,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Modes gain and curve: above 1 makes what the triplets carry stronger, below 1 weaker, 0 removes it, 1 "
            "changes nothing.",
        ),
        io.Float.Input(
            "exponent",
            default=0.9,
            min=0.0,
            max=4.0,
            step=0.01,
            tooltip="Mode power: above 1 the leading triplets gain (bolder, simpler), below 1 the trailing ones (busier, "
            "more texture), 1 changes nothing.",
        ),
        io.Float.Input(
            "threshold",
            default=1.0,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Modes hard and soft threshold: the level below which triplets are taken for noise, in units of the "
            "largest singular value that pure noise would have; the noise level is read off the median.",
        ),
        io.Boolean.Input(
            "keep_energy",
            default=False,
            tooltip="Keeps the overall contrast of each channel: the singular values are scaled back to their sum of "
            "squares. Turn it on when an edit washes out or burns the picture.",
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=-10.0,
            max=10.0,
            step=0.01,
            tooltip="The slider. 0 changes nothing at all, 1 is the edit as set, more exaggerates, below 0 does the opposite.",
        ),
    ]


def curve_input() -> io.Input:
    return io.Custom("CURVE").Input(
        "curve",
        optional=True,
        extra_dict={"forceInput": True},  # a socket only: the frontend's own widget is for the editor
        tooltip="Mode curve: from a Curve Editor. Left is the largest triplet, right the smallest; height 0 leaves a "
        "triplet alone and 1 gives it the full gain.",
    )


def rescaling(
    *,
    mode: str,
    first: int,
    last: int,
    gain: float,
    exponent: float,
    threshold: float,
    keep_energy: bool,
    strength: float,
    curve: io.Curve.Type | None = None,
) -> SpectrumOperation:
    """The operation that the inputs of `rescaling_inputs` describe."""
    if mode == "curve" and curve is None:
        raise ValueError("curve: mode curve needs one; connect a Curve Editor, or choose another mode.")
    edits: dict[str, Callable[[], SpectrumEdit]] = {  # made when chosen: the inputs of other modes are not looked at
        "gain": lambda: Band(first, last, gain),
        "power": lambda: Power(exponent),
        "truncate": lambda: Truncate(last),
        "curve": lambda: along(curve, gain),
        "hard threshold": lambda: Threshold(threshold, "hard"),
        "soft threshold": lambda: Threshold(threshold, "soft"),
    }
    return SpectrumOperation(edits[mode](), strength, keep_energy)


def along(curve: io.Curve.Type, gain: float) -> CurveGain:
    """A gain that follows a curve over the ranks: 1 where the curve is 0, all of it where the curve is 1."""
    return CurveGain(lambda ranks: 1 + (gain - 1) * curve.interp_array(ranks))


class Decompose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_Decompose",
            display_name="Decompose Latent (SVD)",
            category=CATEGORY,
            description="Takes a latent apart into singular triplets, ordered from broad to fine, and draws how strong "
            "each one is beside what pure noise would show.",
            search_aliases=["svd", "singular values", "singular value decomposition", "latent spectrum", "slider"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent to take apart: of an image or a video, any model family, any batch."),
                layout_input(),
            ],
            outputs=[
                SVD.Output("svd", tooltip="The triplets, for Rescale Singular Values, Exchange Singular Vectors and Compose Latent."),
                io.Image.Output(
                    "spectrum",
                    tooltip="Singular values per channel against the bulk expected of noise: triplets above the bulk carry the picture.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, samples: Latent, layout: Layout) -> io.NodeOutput:
        svd = latent_svd.decompose(samples["samples"], layout=layout)
        picture = spectrum_figure(svd)
        return io.NodeOutput(DecomposedLatent.of(svd, samples), picture, ui=ui.PreviewImage(picture, cls=cls))


class Compose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_Compose",
            display_name="Compose Latent (SVD)",
            category=CATEGORY,
            description="Puts a latent together again from its singular triplets.",
            search_aliases=["svd", "reconstruct latent", "inverse svd"],
            inputs=[SVD.Input("svd", tooltip="The triplets, edited or not; unedited ones give the latent back.")],
            outputs=[io.Latent.Output("samples", tooltip="The latent, of the size and type that was decomposed, with its noise mask.")],
        )

    @classmethod
    @checked
    def execute(cls, svd: DecomposedLatent) -> io.NodeOutput:
        return io.NodeOutput(svd.latent(latent_svd.compose(svd.svd)))


class RescaleSingularValues(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_RescaleSingularValues",
            display_name="Rescale Singular Values",
            category=CATEGORY,
            description="Makes chosen triplets of a decomposed latent stronger or weaker: broad light and layout with the "
            "first ones, detail with the later ones.",
            search_aliases=["svd", "singular values", "spectrum", "equalizer", "slider", "detail", "contrast"],
            inputs=[SVD.Input("svd", tooltip="From Decompose Latent."), *rescaling_inputs(), curve_input()],
            outputs=[SVD.Output("svd", tooltip="The same triplets with the new singular values; connect Compose Latent.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        svd: DecomposedLatent,
        mode: str,
        first: int,
        last: int,
        gain: float,
        exponent: float,
        threshold: float,
        keep_energy: bool,
        strength: float,
        curve: io.Curve.Type | None = None,
    ) -> io.NodeOutput:
        operation = rescaling(
            mode=mode,
            first=first,
            last=last,
            gain=gain,
            exponent=exponent,
            threshold=threshold,
            keep_energy=keep_energy,
            strength=strength,
            curve=curve,
        )
        return io.NodeOutput(DecomposedLatent(rescale(svd.svd, operation), svd.rest))


class ExchangeSingularVectors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ExchangeSingularVectors",
            display_name="Exchange Singular Vectors",
            category=CATEGORY,
            description="Gives one latent the singular values, the singular vectors or whole triplets of another one.",
            search_aliases=["svd", "swap", "mix latents", "style transfer"],
            inputs=[
                SVD.Input("svd", tooltip="The latent that is changed."),
                SVD.Input("other", tooltip="The latent that gives; of the same size, batch and layout."),
                io.Combo.Input(
                    "take",
                    options=["triplets", "values", "vectors"],
                    default="triplets",
                    tooltip="What comes from the other latent. triplets: its shapes with their strengths. values: only how "
                    "strong each is. vectors: only the shapes, with the strengths of the first.",
                ),
                io.Int.Input(
                    "leading",
                    default=4,
                    min=0,
                    max=16384,
                    tooltip="How many of the leading triplets are exchanged: few move the layout and light, many the "
                    "whole picture. 0 for all.",
                ),
            ],
            outputs=[SVD.Output("svd", tooltip="The first latent with what it took; connect Compose Latent.")],
        )

    @classmethod
    @checked
    def execute(cls, svd: DecomposedLatent, other: DecomposedLatent, take: str, leading: int) -> io.NodeOutput:
        mixed = latent_svd.exchange(svd.svd, other.svd, take=take, leading=leading or None)
        return io.NodeOutput(DecomposedLatent(mixed, svd.rest))


class SpectrumOperationNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SpectrumOperation",
            display_name="Spectrum Operation",
            category=CATEGORY,
            description="The same rescaling as an operation to run elsewhere: during sampling (Edit During Sampling), on a "
            "latent (Latent Apply Operation), or on the guidance (Latent Apply Operation CFG).",
            search_aliases=["svd", "singular values", "latent operation", "slider", "equalizer"],
            inputs=[*rescaling_inputs(), layout_input(), curve_input()],
            outputs=[
                io.LatentOperation.Output("operation", tooltip="Connect Edit During Sampling, or core's Latent Apply Operation nodes.")
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        mode: str,
        first: int,
        last: int,
        gain: float,
        exponent: float,
        threshold: float,
        keep_energy: bool,
        strength: float,
        layout: Layout,
        curve: io.Curve.Type | None = None,
    ) -> io.NodeOutput:
        operation = rescaling(
            mode=mode,
            first=first,
            last=last,
            gain=gain,
            exponent=exponent,
            threshold=threshold,
            keep_energy=keep_energy,
            strength=strength,
            curve=curve,
        )
        return io.NodeOutput(lambda latent, **context: apply_spectrum(latent, operation, layout=layout))


NODES = [Decompose, Compose, RescaleSingularValues, ExchangeSingularVectors, SpectrumOperationNode]
