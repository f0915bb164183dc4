"""A run looked at: its trajectory, the spans of its singular vectors, and what single triplets carry (Wang et al. 2025)."""

from __future__ import annotations

import re
from typing import Any, Literal, overload

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.latent import check_latent
from ..core.pictures.figures import distance_figure, ranks_figure
from ..core.sampling.recording import Seen, Trajectory
from ..core.svd.subspaces import Side, distance_matrix, followed, random_distance
from ..host.denoisers import percent_of
from ..host.exploring import Explorer
from ..host.progress import preview_of_run
from ..host.runs import run_as_wired
from ..host.samplers import check_exposes_x_t, inner_function, with_function
from ..host.types import KSAMPLER, CFGGuider, Latent, Noise
from .base import CATEGORY, TRAJECTORY, checked


@overload
def numbers_in(text: str, name: str, *, whole: Literal[True]) -> list[int]: ...


@overload
def numbers_in(text: str, name: str, *, whole: Literal[False]) -> list[float]: ...


def numbers_in(text: str, name: str, *, whole: bool) -> list[int] | list[float]:
    """Numbers out of a text such as `1-4, 8` (whole numbers from 1) or `0, 0.5, 2`; ValueError that names the input."""
    found: list[Any] = []
    for part in filter(None, (part.strip() for part in re.split(r"[,;\s]+", text))):
        match = re.fullmatch(r"(\d+)-(\d+)", part)
        try:
            if whole and match:
                first, last = map(int, match.groups())
                if not 1 <= first <= last <= 4096:
                    raise ValueError
                found.extend(range(first, last + 1))
            else:
                value = int(part) if whole else float(part)
                if whole and not 1 <= value <= 4096 or not abs(value) < 1e6:
                    raise ValueError
                found.append(value)
        except ValueError:
            example = "1-4, 8" if whole else "0, 0.5, 2"
            raise ValueError(
                f"{name}: {part!r} cannot be read; write {'numbers from 1, or ranges' if whole else 'numbers'}, such as {example}."
            ) from None
    if not found:
        raise ValueError(f"{name}: it is empty; write at least one number.")
    return found


def run_inputs() -> list[io.Input]:
    """The inputs of SamplerCustomAdvanced."""
    return [
        io.Noise.Input("noise", tooltip="From RandomNoise, or Invert."),
        io.Guider.Input("guider", tooltip="From CFGGuider or BasicGuider, which hold the model and the prompts."),
        io.Sampler.Input("sampler", tooltip="From KSamplerSelect; euler shows the run as it is."),
        io.Sigmas.Input("sigmas", tooltip="From BasicScheduler."),
        io.Latent.Input("latent_image", tooltip="An Empty Latent Image, or a latent to start from."),
    ]


class SampleTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SampleTrajectory",
            display_name="Sample Trajectory",
            category=CATEGORY,
            description="Draws as SamplerCustomAdvanced does, and keeps the latent of every step, for Subspace Distance and "
            "Vector Mobility.",
            search_aliases=["trajectory", "record latents", "sampler", "intermediate latents", "svd analysis"],
            inputs=run_inputs(),
            outputs=[
                io.Latent.Output("latent", tooltip="The finished latent, for VAE Decode."),
                TRAJECTORY.Output("trajectory", tooltip="The noisy and the foreseen latent of every step."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, noise: Noise, guider: CFGGuider, sampler: KSAMPLER, sigmas: Tensor, latent_image: Latent) -> io.NodeOutput:
        check_latent(latent_image["samples"], "latent_image")
        steps = len(sigmas) - 1
        moments: list[tuple[Tensor, Tensor]] = []
        if steps < 1:
            raise ValueError("sigmas: no step to follow; connect BasicScheduler with at least 1 step and denoise above 0.")
        preview = preview_of_run(guider.model_patcher, steps)

        def on_step(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
            moments.append((x.detach().float().cpu().clone(), denoised.detach().float().cpu().clone()))
            preview(step, denoised, x, total)

        latent = run_as_wired(noise, guider, sampler, sigmas, latent_image, on_step)
        if len(moments) != steps:
            raise ValueError(
                f"sampler: it reported {len(moments)} of {steps} steps, so the run cannot be followed; choose another, such as euler."
            )
        model = guider.model_patcher
        final = model.get_model_object("latent_format").process_in(latent["samples"].float().cpu())
        percents = [percent_of(model.get_model_object("model_sampling"), sigma) if sigma > 0 else 1.0 for sigma in sigmas.tolist()]
        noisy, foreseen = zip(*moments)
        return io.NodeOutput(latent, Trajectory((*noisy, final), (*foreseen, final), tuple(sigmas.tolist()), tuple(percents)))


class SubspaceDistance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_SubspaceDistance",
            display_name="Subspace Distance",
            category=CATEGORY,
            is_output_node=True,
            description="Shows how far the spans of the leading singular vectors move over a run: a map of all pairs of "
            "steps, beside what random "
            "spans would give.",
            search_aliases=["grassmann", "geodesic", "principal angles", "svd", "trajectory"],
            inputs=[
                TRAJECTORY.Input("trajectory", tooltip="From Sample Trajectory."),
                io.Int.Input("rank", default=4, min=1, max=4096, tooltip="How many leading vectors span the subspace."),
                io.Combo.Input(
                    "side",
                    options=["left", "right"],
                    default="left",
                    tooltip="left: vectors over the picture's height; right: over its width.",
                ),
                io.Combo.Input(
                    "of",
                    options=["x_t", "x0"],
                    default="x_t",
                    tooltip="x_t: the noisy latents, as in the paper. x0: what the model foresees.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="The map: dark is near, bright as far as random subspaces."),
                io.Float.Output("neighbours", tooltip="Mean distance from one step to the next."),
                io.Float.Output("mean", tooltip="Mean distance over all pairs of steps."),
                io.Float.Output("random", tooltip="Mean distance of random subspaces of the same size."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, trajectory: Trajectory, rank: int, side: Side, of: Seen) -> io.NodeOutput:
        latents = trajectory.latents(of)
        matrix = distance_matrix(latents, rank, side)
        rows = latents[0].shape[-2 if side == "left" else -1]
        random, steps = random_distance(rows, rank), len(matrix)
        picture = distance_figure(matrix, trajectory.percents, random)
        return io.NodeOutput(
            picture,
            float(matrix.diagonal(1).mean()),
            float(matrix.sum() / (steps * (steps - 1))),
            random,
            ui=ui.PreviewImage(picture, cls=cls),
        )


class VectorMobility(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_VectorMobility",
            display_name="Vector Mobility",
            category=CATEGORY,
            is_output_node=True,
            description="Follows the leading singular triplets of the finished picture back through its run, and draws the "
            "rank at which each stands.",
            search_aliases=["svd", "rank", "trajectory", "singular vectors", "mobility"],
            inputs=[
                TRAJECTORY.Input("trajectory", tooltip="From Sample Trajectory; its first picture is looked at."),
                io.Int.Input(
                    "triplets", default=8, min=1, max=4096, tooltip="How many of the finished picture's leading triplets are followed."
                ),
                io.Int.Input("channel", default=1, min=1, max=1024, tooltip="The latent channel, from 1."),
                io.Combo.Input(
                    "of",
                    options=["x_t", "x0"],
                    default="x_t",
                    tooltip="x_t: the noisy latents, as in the paper. x0: what the model foresees.",
                ),
            ],
            outputs=[
                io.Image.Output("picture", tooltip="A line for each triplet; the fainter, the less surely it was followed."),
                io.Float.Output("mobility", tooltip="Mean change of rank from one step to the next, by how surely each was followed."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, trajectory: Trajectory, triplets: int, channel: int, of: Seen) -> io.NodeOutput:
        paths = followed([latent[:1] for latent in trajectory.latents(of)], channel - 1, triplets)
        picture = ranks_figure(trajectory.percents, paths.ranks, paths.likeness)
        return io.NodeOutput(picture, paths.mobility, ui=ui.PreviewImage(picture, cls=cls))


class ExploreSingularVectors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_ExploreSingularVectors",
            display_name="Explore Singular Vectors",
            category=CATEGORY,
            description="Shows what single triplets carry: at one step of a run each is made stronger or weaker by itself, "
            "and every variant is finished.",
            search_aliases=["svd", "xy plot", "singular values", "grid", "what does it do"],
            inputs=[
                *run_inputs(),
                io.Float.Input(
                    "percent",
                    default=0.3,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="The part of the run at which a singular value is changed. Early changes "
                    "layout and colours, late ones detail; too early is repaired by the rest of the run.",
                ),
                io.String.Input("triplets", default="1-6", tooltip="Which triplets, a column each, from 1 for the leading one: 1-4, 8."),
                io.String.Input(
                    "gains",
                    default="0, 0.5, 1, 1.5, 2",
                    tooltip="By how much the singular value is multiplied, a row each; 1 is unchanged.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="How many variants are finished at once; 0 for as many as the host expects to fit.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="All variants in one batch, row by row, for VAE Decode and Labelled Grid."),
                io.String.Output("labels", is_output_list=True, tooltip="A label for each variant, for Labelled Grid."),
                io.Int.Output("columns", tooltip="How many triplets a row has, for Labelled Grid."),
                io.String.Output("row_labels", is_output_list=True, tooltip="The gains, a label for each row."),
                io.String.Output("column_labels", is_output_list=True, tooltip="The triplets, a label for each column."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        noise: Noise,
        guider: CFGGuider,
        sampler: KSAMPLER,
        sigmas: Tensor,
        latent_image: Latent,
        percent: float,
        triplets: str,
        gains: str,
        batch_size: int,
    ) -> io.NodeOutput:
        check_latent(latent_image["samples"], "latent_image")
        if len(latent_image["samples"]) != 1:
            raise ValueError(f"latent_image: got a batch of {len(latent_image['samples'])}; one picture is varied, connect a batch of 1.")
        inner, columns, rows = (
            inner_function(sampler),
            numbers_in(triplets, "triplets", whole=True),
            numbers_in(gains, "gains", whole=False),
        )
        check_exposes_x_t(inner)
        explorer = with_function(sampler, Explorer(inner, columns, rows, percent, batch_size))
        latent = run_as_wired(noise, guider, explorer, sigmas, latent_image)
        if "batch_index" in latent:  # from which a node after it draws each latent's noise: all variants are of one
            latent["batch_index"] = latent["batch_index"] * len(latent["samples"])
        row_labels, column_labels = [f"x {gain:g}" for gain in rows], [f"triplet {i}" for i in columns]
        return io.NodeOutput(
            latent, [f"{triplet} {gain}" for gain in row_labels for triplet in column_labels], len(columns), row_labels, column_labels
        )


NODES = [SampleTrajectory, SubspaceDistance, VectorMobility, ExploreSingularVectors]
