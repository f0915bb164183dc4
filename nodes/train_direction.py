"""Training a direction in h-space: the node (Asyrp, Kwon et al. 2023, arXiv 2210.10960)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.hspace.direction import Direction
from ..core.hspace.injection import Window
from ..core.hspace.network import ImplicitNetwork
from ..core.hspace.trained import AnyDirection, TrainedDirection
from ..core.hspace.training import Training, difference
from ..core.pictures.sheet import labelled_grid
from ..host.carried import check_carries_none
from ..host.edits import HEdit, check_no_asymmetric_edit, with_edit
from ..host.families import check_fits, check_reads_prompts, family_of
from ..host.inversion import inverted
from ..host.progress import Bar
from ..host.provenance import HIDDEN, prompt_notes
from ..host.runs import check_set, euler, noise_for, schedule
from ..host.scorer import ImageScorer, PictureDecoder, check_pair, text_embedding
from ..host.seeds import seeds_from
from ..host.training import Directional, Matching, NetworkOnModel, Trainer, TrainingRuns, averaged, check_weights, trained
from ..host.types import CLIP, VAE, ClipVisionModel, Conditioning, Latent, ModelPatcher
from ..host.watching import check_whole
from .base import CATEGORY, DIRECTION, checked, one_value_each, seed_input

SHOWN = 4  # pictures in a preview
MATCHING, DIRECTIONAL = "prompt matching", "CLIP directional"
POINTWISE, PAPER = "point by point", "the paper's form"


class TrainDirection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticLatents_TrainDirection",
            display_name="Train Direction",
            category=CATEGORY,
            description="Trains a small network that finds, for each picture and noise level, the shift of the UNet's inside "
            "that changes one attribute (Asyrp). Minutes, not seconds; the direction looks at each picture that it edits.",
            hidden=[*HIDDEN],
            is_input_list=True,  # pictures that come one by one are one training set
            search_aliases=["asyrp", "h-space", "train slider", "clip direction", "concept slider", "smile"],
            inputs=[
                io.Model.Input("model", tooltip="SD 1.x, SD 2.x, SDXL or Portrait; the direction fits this family only."),
                io.Conditioning.Input("source", tooltip="The prompt without the attribute: a portrait."),
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
                io.String.Input("source_text", default="a portrait", tooltip="CLIP directional: what the pictures show."),
                io.String.Input("target_text", default="a portrait, smiling", tooltip="CLIP directional: what they shall show."),
                io.Conditioning.Input(
                    "target", optional=True, tooltip="Prompt matching: the prompt with the attribute: a portrait, smiling."
                ),
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
                io.Combo.Input(
                    "form",
                    options=[POINTWISE, PAPER],
                    default=POINTWISE,
                    optional=True,
                    advanced=True,
                    tooltip="What the edited run is compared with. point by point: the model's own prediction at the same point, in the "
                    "symmetric process. the paper's form: the unedited run on its own path, in the asymmetric process; turn asymmetric on "
                    "in Apply Direction then.",
                ),
                io.Boolean.Input(
                    "phrasings",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="CLIP directional: takes the mean of each text in many phrasings (a photo of ..., a drawing of ...), as is "
                    "usual with real CLIP models. Off for Load Demo Scorer, which does not know these words.",
                ),
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
        model: ModelPatcher,
        source: Conditioning,
        negative: Conditioning,
        vae: VAE,
        latent: Latent,
        objective: str,
        images: int,
        batch_size: int,
        epochs: int,
        steps: int,
        end_percent: float,
        cfg: float,
        learning_rate: float,
        keep_weight: float,
        seed: int,
        source_text: str,
        target_text: str,
        target: Conditioning | None = None,
        clip_vision: ClipVisionModel | None = None,
        clip: CLIP | None = None,
        pictures: Sequence[Latent] = (),
        resume: AnyDirection | None = None,
        form: str = POINTWISE,
        phrasings: bool = False,
    ) -> io.NodeOutput:
        family = family_of(model)
        check_no_asymmetric_edit(model, "through which no direction is trained")
        check_carries_none(model, "through which no direction is trained")
        if objective == MATCHING:
            check_reads_prompts(model, "objective", "Choose CLIP directional, which needs none.")
        resumed = check_resumed(resume, model)
        scorer = Scorer(clip_vision, clip, source_text, target_text, phrasings)
        goal = goal_of(objective, keep_weight, target, scorer, vae, model)
        sigmas = schedule(model, steps)
        for check in (check_whole, check_weights):
            check(source=source, negative=negative, target=target)
        prompts = {"positive": source, "negative": negative, **({"target": target} if goal.needs_target and target is not None else {})}
        lowest = model.get_model_object("model_sampling").percent_to_sigma(end_percent)
        network = NetworkOnModel()
        runs = TrainingRuns(network.on(model), network, prompts, cfg, sigmas, min(float(lowest), float(sigmas[0])), form == PAPER)
        noise = inverted(model, source, pictures, sigmas) if pictures else noise_for(model, latent, images, seed)
        check_set(noise)
        batches = noise.split(batch_size)
        updates = epochs * runs.steps * len(batches)
        kept = runs.kept_steps(goal) * len(batches)
        bar = Bar(kept + updates + updates // epochs + 2)
        begin = Beginning(family.channels, seed, learning_rate, updates, resumed, 1 / runs.unit)
        training = trained(Trainer(runs, bar.tick, goal, begin), batches, epochs, lambda latents: show(bar, model, vae, latents))
        about = dict(
            objective=objective, images=str(len(noise)), steps=str(steps), seed=str(seed), updates=str(updates + begin.updates_before)
        )
        notes = {**prompt_notes(cls, "source", "target"), **about, "end_percent": f"{end_percent:g}", "form": form}
        if objective == DIRECTIONAL:
            notes |= {"source": source_text, "target": target_text}
        shifts, levels = averaged(runs, training.average, batches, bar.tick)
        means = Direction(runs.unit * shifts, levels, family, "training", notes)
        direction = TrainedDirection(training.average.cpu().times(runs.unit), means)
        picture = bar.end(before_and_after(runs, model, vae, direction, noise[:SHOWN], end_percent, bar))
        return io.NodeOutput(direction, {"loss": training.losses}, picture, ui=ui.PreviewImage(picture, cls=cls))


@dataclass(frozen=True, eq=False)
class Beginning:
    """How a training begins, once the size of h is known: with a fresh network, or with that of a direction to go on with.

    strength: of Apply Direction, at which that one shifts h as the network of this training does.
    """

    channels: int
    seed: int
    learning_rate: float
    updates: int
    resume: TrainedDirection | None
    strength: float

    def __call__(self, size: float, device: torch.device) -> Training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(*seeds_from(self.seed, 1))
            network = self.resume.network.times(self.strength) if self.resume else ImplicitNetwork(self.channels, size)
        return Training(network.to(device), self.learning_rate, self.updates)

    @property
    def updates_before(self) -> int:
        """Those of the direction that training goes on with."""
        return int(self.resume.notes.get("updates", 0)) if self.resume else 0


def show(bar: Bar, model: ModelPatcher, vae: VAE, latents: tuple[Tensor, ...]) -> None:
    """The pictures of a few predicted latents (b, c, h, w), a row each, on the node."""
    process_out = model.get_model_object("latent_format").process_out
    bar.show([vae.decode(process_out(row)[:SHOWN]) for row in latents])


def check_resumed(resume: AnyDirection | None, model: ModelPatcher) -> TrainedDirection | None:
    """The direction that training goes on with, None for none; ValueError for one that it cannot go on with."""
    if resume is None:
        return None
    if not isinstance(resume, TrainedDirection):
        raise ValueError(
            f"resume: this direction ({resume.method}) has no network to go on with; connect one of Train Direction, loaded or fresh."
        )
    check_fits(model, resume, "resume")
    return resume


@dataclass(frozen=True)
class Scorer:
    """A CLIP model's towers, None where they are not connected, and the words of the attribute."""

    clip_vision: ClipVisionModel | None
    clip: CLIP | None
    source_text: str
    target_text: str
    phrasings: bool

    def texts(self) -> list[Tensor]:
        """The embeddings (e,) of the two texts."""
        return [text_embedding(self.clip, text, phrasings=self.phrasings).clone() for text in (self.source_text, self.target_text)]

    def check(self) -> None:
        """Raise ValueError that names the tower that is missing."""
        if self.clip_vision is None or self.clip is None:
            raise ValueError(
                f"{'clip_vision' if self.clip_vision is None else 'clip'}: CLIP directional needs a scorer, both its image and its text "
                "tower; connect Load CLIP Vision and Load CLIP (Load Demo Scorer for the demo models), or choose prompt matching."
            )


def goal_of(
    objective: str, keep_weight: float, target: Conditioning | None, scorer: Scorer, vae: VAE, model: ModelPatcher
) -> Matching | Directional:
    """The objective; ValueError that names what is missing for it."""
    if objective == DIRECTIONAL:
        return directional(keep_weight, scorer, vae, model)
    if target is None:
        raise ValueError("target: prompt matching needs the prompt with the attribute; connect it, or choose CLIP directional.")
    return Matching(keep_weight)


def directional(keep_weight: float, scorer: Scorer, vae: VAE, model: ModelPatcher) -> Directional:
    """The objective of a scorer; ValueError for one that cannot serve, and for words that are the same to it."""
    scorer.check()
    process_out = model.get_model_object("latent_format").process_out
    with torch.inference_mode(False), torch.no_grad():
        texts = scorer.texts()
        images, decoder = ImageScorer(scorer.clip_vision), PictureDecoder(vae)
        check_pair(images.embed(torch.zeros(1, 3, 64, 64)), texts[0])
        change = difference(*texts)
    if float(change.norm()) < 1e-4:
        raise ValueError("target_text: it says the same as source_text to the scorer; describe the attribute.")
    likeness = float(F.cosine_similarity(texts[0], texts[1], dim=0))
    return Directional(keep_weight, lambda latents: images.embed(decoder(process_out(latents))), change, likeness)


def before_and_after(
    runs: TrainingRuns, model: ModelPatcher, vae: VAE, direction: AnyDirection, noise: Tensor, end: float, bar: Bar
) -> Tensor:
    """A sheet of whole runs without and with the direction."""
    edited = with_edit(model, HEdit(direction, 1.0, Window(0.0, end), "both", runs.as_in_paper, False, None))
    rows = []
    for patched in (model, edited):
        rows.append(vae.decode(runs.run(euler(), noise, patched)))
        bar.tick()
    labels = ["before"] * len(noise) + ["after"] * len(noise)
    return labelled_grid([picture for row in rows for picture in row], labels, columns=len(noise))


NODES = [TrainDirection]
