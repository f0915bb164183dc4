"""Training a direction in h-space: the node (Asyrp, Kwon et al. 2023, arXiv 2210.10960)."""

from __future__ import annotations

import copy
from typing import Any

import comfy.samplers
import torch
import torch.nn.functional as F
from comfy.hooks import EnumHookType
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.hspace.direction import Direction
from ..core.hspace.discovery import Means
from ..core.hspace.injection import Window
from ..core.hspace.network import ImplicitNetwork
from ..core.hspace.trained import AnyDirection, TrainedDirection
from ..core.hspace.training import Training, difference
from ..core.pictures.sheet import labelled_grid
from ..host.edits import HEdit, check_no_asymmetric_edit, with_edit
from ..host.families import check_fits, family_of
from ..host.inversion import inverted
from ..host.progress import Bar
from ..host.provenance import HIDDEN, prompt_notes
from ..host.runs import check_set, drawn, schedule
from ..host.scorer import ImageScorer, PictureDecoder, check_pair, text_embedding
from ..host.seeds import seeds_from
from ..host.training import Averaging, Course, Directional, Lesson, Matching, Trainer, in_training
from ..host.watching import check_whole
from .base import CATEGORY, DIRECTION, checked, one_value_each, seed_input

SHOWN = 4  # pictures in a preview
MATCHING, DIRECTIONAL = "prompt matching", "CLIP directional"


class TrainDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="SemanticLatents_TrainDirection",
            display_name="Train Direction",
            category=CATEGORY,
            description="Trains a small network that finds, for each picture and noise level, the shift of the UNet's inside "
            "that changes one "
            "attribute (Asyrp). Minutes, not seconds; the direction looks at each picture that it edits.",
            hidden=[*HIDDEN],
            is_input_list=True,  # pictures that come one by one are one training set
            search_aliases=["asyrp", "h-space", "train slider", "clip direction", "concept slider", "smile"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x, SDXL or the demo model; the direction fits this family only."),
                io.Conditioning.Input("source", tooltip="The prompt without the attribute: a face."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of the runs; an empty one will do."),
                io.Vae.Input("vae", tooltip="For the previews, and for the scorer, which looks at pictures."),
                io.Latent.Input("latent", tooltip="An Empty Latent Image of the size that you will edit; only its size matters."),
                io.Combo.Input(
                    "objective",
                    options=[MATCHING, DIRECTIONAL],
                    default=MATCHING,
                    tooltip="prompt matching: do what the target prompt would do; needs target. CLIP directional: move the pictures as the "
                    "texts differ, judged by a CLIP model; needs clip_vision, clip and the two texts.",
                ),
                io.Int.Input(
                    "images",
                    default=32,
                    min=1,
                    max=10000,
                    tooltip="How many pictures are drawn as the training set, if pictures is not connected.",
                ),
                io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="Pictures in one update; lower it when memory runs out."),
                io.Int.Input("epochs", default=2, min=1, max=1000, tooltip="How often the training set is gone through."),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=2,
                    max=200,
                    tooltip="Steps of each run, one update each. The direction works with any other number of steps.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.8,
                    min=0.05,
                    max=1.0,
                    step=0.01,
                    tooltip="The part of the run in which h is shifted (up to t_edit); use the same in Apply Direction.",
                ),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance of the runs, as you will draw with; 1 for given pictures.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.002,
                    min=0.000001,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    tooltip="Lower it if the loss jumps.",
                ),
                io.Float.Input(
                    "keep_weight",
                    default=0.3,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much pictures are kept as they are (L1 term); more shows less.",
                ),
                seed_input("The first seed of the training set, which takes the seeds from here up."),
                io.String.Input("source_text", default="a face", tooltip="CLIP directional: what the pictures show."),
                io.String.Input("target_text", default="a face, smiling", tooltip="CLIP directional: what they shall show."),
                io.Conditioning.Input("target", optional=True, tooltip="Prompt matching: the prompt with the attribute: a face, smiling."),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP directional: the scorer's image tower, from Load CLIP Vision or Load Demo Scorer.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="CLIP directional: its text tower, from Load CLIP, or Load Demo Scorer."),
                io.Latent.Input(
                    "pictures",
                    optional=True,
                    tooltip="Given pictures as the training set, from VAE Encode: two or more, of one size. They are inverted first.",
                ),
                DIRECTION.Input("resume", optional=True, tooltip="A trained direction to go on with, from Load Direction."),
            ],
            outputs=[
                DIRECTION.Output("direction", tooltip="For Apply Direction, Combine Directions and Save Direction."),
                io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: the loss of each update."),
                io.Image.Output("picture", tooltip="The first pictures of the training set, before and after."),
            ],
        )

    @classmethod
    @checked
    @one_value_each(but=("pictures",))
    def execute(
        cls,
        model,
        source,
        negative,
        vae,
        latent,
        objective,
        images,
        batch_size,
        epochs,
        steps,
        end_percent,
        cfg,
        learning_rate,
        keep_weight,
        seed,
        source_text,
        target_text,
        target=None,
        clip_vision=None,
        clip=None,
        pictures=(),
        resume=None,
    ) -> io.NodeOutput:
        family = family_of(model)
        check_no_asymmetric_edit(model, "through which no direction is trained")
        check_resumed(resume, model)
        goal = goal_of(objective, keep_weight, model, vae, target, clip_vision, clip, source_text, target_text)
        sigmas = schedule(model, steps)
        for check in (check_whole, check_weights):
            check(source=source, negative=negative, target=target)
        prompts = {"positive": source, "negative": negative, **({"target": target} if objective == MATCHING else {})}
        lowest = model.get_model_object("model_sampling").percent_to_sigma(end_percent)
        course = Course(Lesson(model), prompts, cfg, sigmas, min(float(lowest), float(sigmas[0])))
        noise = inverted(model, source, pictures, sigmas) if pictures else drawn(model, latent, images, seed)
        check_set(noise)
        updates = epochs * course.steps * -(-len(noise) // batch_size)
        bar = Bar(updates + updates // epochs + 2)

        def begin(size: float, device: torch.device) -> Training:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(*seeds_from(seed, 1))
                network = copy.deepcopy(resume.network) if resume else ImplicitNetwork(family.channels, size)
            return Training(network.to(device), learning_rate, updates)

        trainer, averaging = Trainer(course, bar.tick, goal, begin), Averaging(course, bar.tick, Means())
        with in_training():
            for _ in range(epochs):
                for batch in noise.split(batch_size):
                    course.run(trainer, batch)
                    bar.show(
                        [vae.decode(latents[:SHOWN]) for latents in map(model.get_model_object("latent_format").process_out, trainer.last)]
                    )
        course.lesson.network = network = trainer.training.average
        for batch in noise.split(batch_size):
            course.run(averaging, batch)
        notes = {
            **prompt_notes(cls, "source", "target"),
            "objective": objective,
            "images": str(len(noise)),
            "steps": str(steps),
            "seed": str(seed),
            "updates": str(updates + int(resume.notes.get("updates", 0) if resume else 0)),
            "end_percent": f"{end_percent:g}",
        }
        if objective == DIRECTIONAL:
            notes |= {"source": source_text, "target": target_text}
        direction = TrainedDirection(network.cpu(), Direction(*averaging.means.result(), family, "training", notes))
        picture = before_and_after(course, model, vae, direction, noise[:SHOWN], end_percent, bar)
        return io.NodeOutput(direction, {"loss": trainer.training.losses}, picture, ui=ui.PreviewImage(picture, cls=cls))


def check_resumed(resume: AnyDirection | None, model: ModelPatcher) -> None:
    """Raise ValueError for a direction that training cannot go on with."""
    if resume is None:
        return
    if not isinstance(resume, TrainedDirection):
        raise ValueError(
            f"resume: this direction ({resume.method}) has no network to go on with; connect one of Train Direction, loaded or fresh."
        )
    check_fits(model, resume.family, "resume")


def goal_of(
    objective: str, keep: float, model: ModelPatcher, vae: Any, target: Any, clip_vision: Any, clip: Any, before: str, after: str
) -> Matching | Directional:
    """The objective; ValueError that names what is missing for it."""
    if objective == MATCHING:
        if target is None:
            raise ValueError("target: prompt matching needs the prompt with the attribute; connect it, or choose CLIP directional.")
        return Matching(keep)
    if clip_vision is None or clip is None:
        raise ValueError(
            f"{'clip_vision' if clip_vision is None else 'clip'}: CLIP directional needs a scorer, both its image and its text "
            "tower; connect Load CLIP "
            "Vision and Load CLIP (Load Demo Scorer for the demo model), or choose prompt matching."
        )
    with torch.inference_mode(False), torch.no_grad():
        texts = [text_embedding(clip, text).clone() for text in (before, after)]
        scorer, decoder, process_out = ImageScorer(clip_vision), PictureDecoder(vae), model.get_model_object("latent_format").process_out
        check_pair(scorer.embed(torch.zeros(1, 3, 64, 64)), texts[0])
        change = difference(*texts)
    if float(change.norm()) < 1e-4:
        raise ValueError("target_text: it says the same as source_text to the scorer; describe the attribute.")
    return Directional(keep, lambda latents: scorer.embed(decoder(process_out(latents))), change, float(F.cosine_similarity(*texts, dim=0)))


def check_weights(**prompts: Any) -> None:
    """Raise ValueError for a prompt that changes the model's weights: one copy of the decoder serves all prompts. None passes."""
    for name, prompt in prompts.items():
        if any(extras.get("hooks") and extras["hooks"].get_type(EnumHookType.Weight) for _, extras in prompt or []):
            raise ValueError(
                f"{name}: it carries a LoRA of its own (a hook), which training cannot follow. Load the LoRA on the model instead."
            )


def before_and_after(course: Course, model: ModelPatcher, vae: Any, direction: AnyDirection, noise: Tensor, end: float, bar: Bar) -> Tensor:
    """A sheet of whole runs without and with the direction."""
    edited = with_edit(model, HEdit(direction, 1.0, Window(0.0, end), "both", False, False, None))
    rows = []
    for patched in (model, edited):
        rows.append(vae.decode(course.run(comfy.samplers.sampler_object("euler").sampler_function, noise, patched)))
        bar.tick()
    return bar.end(
        labelled_grid([picture for row in rows for picture in row], ["before"] * len(noise) + ["after"] * len(noise), columns=len(noise))
    )


NODES = [TrainDirection]
