"""Training a slider as a LoRA: the node (Concept Sliders, Gandikota et al. 2023, arXiv 2311.12092)."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.latent import check_latent
from ..core.lora.file import LoraNotes, lora_metadata
from ..core.lora.training import LoraTraining
from ..core.pictures.sheet import labelled_grid
from ..host.families import check_reads_prompts, family_name
from ..host.folders import check_prefix, listed_name, save_whole
from ..host.lora_layers import LAYERS, Adapters, Layers, base_of, chosen_layers, file_names, start_of
from ..host.progress import Bar, Cancelled
from ..host.runs import empty_latent
from ..host.slider_files import LORAS
from ..host.slider_training import Scored, Setup, SliderTrainer, Words, check_trainable, mask_on, opposed, train
from ..host.sliders import CalibratedSlider, LoraSlider, Slider
from ..host.types import CLIP, VAE, ClipVisionModel, Latent, ModelPatcher
from ..host.words import prompt, prompt_beside
from .base import CATEGORY, SLIDER, checked, seed_input
from .train_direction import DIRECTIONAL, Scorer, directional

CONTRAST = "prompt contrast"
DISCARD, SAVE = "discard", "save"
CHECKPOINTS = {"auto": None, "on": True, "off": False}


class TrainSliderLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        advanced: dict[str, bool] = {"optional": True, "advanced": True}
        return io.Schema(
            node_id="SemanticLatents_TrainSliderLora",
            display_name="Train Slider LoRA",
            category=CATEGORY,
            description="Trains a LoRA that is a slider: strength 1 draws more of the wanted words, -1 their opposite, and the file works "
            "in every tool that reads LoRAs. Minutes to learn, and nothing extra when it draws. No pictures are needed.",
            search_aliases=["slider lora", "concept slider", "train lora", "slider training", "concept sliders", "attribute slider"],
            inputs=[
                io.Model.Input("model", tooltip="The model to train on: UNet or transformer, with LoRAs. It is not changed."),
                io.Clip.Input("clip", tooltip="Its CLIP, which reads the words."),
                io.Vae.Input("vae", tooltip="For the picture at the end, and for a scorer, which looks at pictures."),
                io.Latent.Input("latent", tooltip="An Empty Latent Image of the size that you will draw at, or a smaller one: faster."),
                io.String.Input("neutral", default="a portrait", tooltip="What is there anyway, in a few words: a face, a street, a cat."),
                io.String.Input(
                    "wanted", default="a portrait, smiling", tooltip="The same with the attribute: what strength 1 shall draw."
                ),
                io.String.Input(
                    "opposite",
                    default="",
                    tooltip="What strength -1 shall draw, a frowning face; if empty, the opposite of what wanted does to neutral.",
                ),
                io.String.Input(
                    "keep",
                    default="",
                    multiline=True,
                    tooltip="Prompts under which nothing shall change, one a line: a landscape. Each step trains one of them, too, at a "
                    "third more time.",
                ),
                io.Int.Input("rank", default=4, min=1, max=128, tooltip="Size of the LoRA. 4 is enough for one attribute."),
                io.Int.Input("steps", default=200, min=1, max=100000, tooltip="Updates, each at one noise level; 100 to 1000."),
                io.Float.Input(
                    "learning_rate",
                    default=0.001,
                    min=0.000001,
                    max=1.0,
                    step=0.0001,
                    round=0.0000001,
                    tooltip="Higher learns faster and breaks pictures sooner; lower it if the loss jumps.",
                ),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=0.1,
                    max=20.0,
                    step=0.1,
                    tooltip="How strong the slider is at strength 1, as a guidance: 1 is what the words do, 1 to 4 are usual.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the run the noise levels begin that it is trained at. Later keeps more of the picture.",
                ),
                io.Float.Input("end_percent", default=0.8, min=0.0, max=1.0, step=0.01, tooltip="Where in the run they end."),
                io.Combo.Input(
                    "layers",
                    options=list(LAYERS),
                    default=LAYERS[0],
                    tooltip="Which layers the LoRA changes. attention: all attention. cross-attention: where a UNet or Wan reads the "
                    "prompt, the least and fastest. all linear: every linear layer, the strongest.",
                ),
                seed_input("The first seed of the pictures that it trains on; the same seed gives the same LoRA."),
                io.Float.Input(
                    "cfg",
                    default=3.0,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    **advanced,
                    tooltip="Guidance of those pictures, as you will draw with.",
                ),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, **advanced, tooltip="Pictures in one update; lower it when memory runs out."
                ),
                io.Float.Input(
                    "keep_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    **advanced,
                    tooltip="How much the prompts of keep stay as they are; for CLIP directional, how much of the picture, too.",
                ),
                io.Combo.Input(
                    "objective",
                    options=[CONTRAST, DIRECTIONAL],
                    default=CONTRAST,
                    **advanced,
                    tooltip="prompt contrast: do what the words do to the prediction. CLIP directional: move the foreseen picture as the "
                    "words differ to a CLIP model, for what words cannot draw; needs clip_vision and scorer_clip.",
                ),
                io.ClipVision.Input(
                    "clip_vision", **advanced, tooltip="CLIP directional: the image tower, from Load CLIP Vision or Load Demo Scorer."
                ),
                io.Clip.Input("scorer_clip", **advanced, tooltip="CLIP directional: its text tower, from Load CLIP or Load Demo Scorer."),
                io.Boolean.Input(
                    "phrasings",
                    default=False,
                    **advanced,
                    tooltip="CLIP directional: takes the mean of each text in many phrasings; on for real CLIP models.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="The slider is trained to act where the mask is white, and to keep the rest."),
                io.Custom("LORA_MODEL").Input(
                    "resume", optional=True, tooltip="A LoRA to go on with, of the same rank and layers, from this node."
                ),
                SLIDER.Input("resume_slider", optional=True, tooltip="The same from a file: a LoRA from Load Slider."),
                io.Combo.Input(
                    "gradient_checkpointing",
                    options=list(CHECKPOINTS),
                    default="auto",
                    **advanced,
                    tooltip="Computes blocks twice in place of keeping them: less memory, a third more time. auto: if memory asks for it.",
                ),
                io.Combo.Input(
                    "on_cancel",
                    options=[DISCARD, SAVE],
                    default=DISCARD,
                    **advanced,
                    tooltip="What Cancel does with what was learned so far: nothing is kept, or it is saved to output/loras.",
                ),
                io.String.Input(
                    "filename_prefix", default="cancelled_slider", **advanced, tooltip="The name of the file that Cancel saves."
                ),
            ],
            outputs=[
                io.Custom("LORA_MODEL").Output("lora", tooltip="For core's Load LoRA Model and Save LoRA Weights."),
                io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: the loss of each update; 1 is what it begins at."),
                io.Image.Output("picture", tooltip="One picture at strengths -1, 0 and 1."),
                SLIDER.Output(
                    "slider", tooltip="The slider with its words and settings, for Apply Slider, Calibrate Slider and Save Slider."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        clip: CLIP,
        vae: VAE,
        latent: Latent,
        neutral: str,
        wanted: str,
        opposite: str,
        keep: str,
        rank: int,
        steps: int,
        learning_rate: float,
        scale: float,
        start_percent: float,
        end_percent: float,
        layers: Layers,
        seed: int,
        cfg: float = 3.0,
        batch_size: int = 1,
        keep_weight: float = 1.0,
        objective: str = CONTRAST,
        clip_vision: ClipVisionModel | None = None,
        scorer_clip: CLIP | None = None,
        phrasings: bool = False,
        mask: Tensor | None = None,
        resume: dict[str, Tensor] | None = None,
        resume_slider: Slider | None = None,
        gradient_checkpointing: str = "auto",
        on_cancel: str = DISCARD,
        filename_prefix: str = "cancelled_slider",
    ) -> io.NodeOutput:
        check_window(start_percent, end_percent)
        check_reads_prompts(model, "model", "Train a direction with Train Direction.")
        check_trainable(model)
        if on_cancel == SAVE:
            check_prefix(filename_prefix)
        words = words_of(clip, neutral, wanted, opposite, keep)
        chosen, names = chosen_layers(model, layers), file_names(model)
        check_latent(latent["samples"], "latent")
        empty = empty_latent(model, latent)
        begun = resumed(resume, resume_slider)
        adapters = Adapters(chosen, rank, seed, None if begun is None else start_of(model, begun, chosen, rank))
        window = (start_percent, end_percent)
        setup = Setup(
            steps,
            scale,
            window,
            cfg,
            seed,
            empty,
            batch_size,
            keep_weight,
            mask_on(mask, empty),
            CHECKPOINTS[gradient_checkpointing],
        )
        scored = None if objective == CONTRAST else scored_by(Towers(clip_vision, scorer_clip, phrasings), setup, words.texts, vae, model)
        bar = Bar(setup.ticks(), model)
        training = LoraTraining(adapters.weights(), learning_rate, steps)
        trainer = SliderTrainer(
            words.prompts,
            setup,
            adapters,
            training,
            lambda seen: bar.tick(seen, columns=batch_size if batch_size > 1 else 0),
            scored,
        )
        settings = dict(rank=rank, steps=steps, learning_rate=learning_rate, scale=scale, window=f"{window[0]:g} to {window[1]:g}")
        settings |= dict(layers=layers, seed=seed, cfg=cfg, objective=objective, batch_size=batch_size, keep_weight=keep_weight)
        told = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
        notes = LoraNotes(wanted, words.texts, told, family_name(model), base_of(model, chosen))
        try:
            train(model, trainer)
        except Cancelled:
            if on_cancel == SAVE and training.losses:
                so_far = LoraNotes(notes.name, notes.words, {**told, "steps": str(len(training.losses))}, notes.family, notes.base)
                path = save_whole(adapters.tensors(names), lora_metadata(so_far), filename_prefix, LORAS)
                logging.info("Semantic Latents: cancelled; what was learned so far is in loras/%s", listed_name(path, LORAS))
            raise
        lora = adapters.tensors(names)
        picture = bar.end(at_strengths(trainer, model, vae))
        return io.NodeOutput(
            lora, {"loss": training.losses}, picture, LoraSlider(wanted, lora, notes), ui=ui.PreviewImage(picture, cls=cls)
        )


@dataclass(frozen=True)
class Read:
    """A slider's words by their inputs, and the prompts that the model's CLIP makes of them."""

    texts: dict[str, str]
    prompts: Words


def words_of(clip: CLIP, neutral: str, wanted: str, opposite: str, keep: str) -> Read:
    """Raises ValueError, naming the input, for words that condition the model as others of them do."""
    base = prompt(clip, neutral)
    plus = prompt_beside(base, clip, neutral, wanted, "wanted", "neutral")
    minus = prompt_beside(base, clip, neutral, opposite, "opposite", "neutral") if opposite.strip() else None
    if minus is not None:
        prompt_beside(plus, clip, wanted, opposite, "opposite", "wanted")
    lines = [line.strip() for line in keep.splitlines() if line.strip()]
    texts = {"neutral": neutral, "wanted": wanted, "opposite": opposite.strip(), "keep": "\n".join(lines)}
    return Read(texts, Words(base, plus, minus, prompt(clip, ""), tuple(prompt(clip, line) for line in lines)))


def check_window(start: float, end: float) -> None:
    """Raise ValueError for a window that holds no noise level."""
    if start >= end:
        raise ValueError(f"end_percent: got {end:g} with a start_percent of {start:g}; the end has to come after the start.")


def resumed(lora: dict[str, Tensor] | None, slider: Slider | None) -> dict[str, Tensor] | None:
    """The tensors that training goes on with, None for none. Raises ValueError for two of them, or for a slider that is no LoRA."""
    if slider is None:
        return lora
    if lora is not None:
        raise ValueError("resume_slider: there is a LoRA in resume, too; connect one of them.")
    inner = slider.slider if isinstance(slider, CalibratedSlider) else slider
    if not isinstance(inner, LoraSlider):
        raise ValueError(f"resume_slider: {slider.name!r} is no LoRA; choose one of loras/ in Load Slider.")
    return inner.weights


@dataclass(frozen=True)
class Towers:
    """A CLIP model's towers, None where they are not connected."""

    clip_vision: ClipVisionModel | None
    clip: CLIP | None
    phrasings: bool


def scored_by(towers: Towers, setup: Setup, texts: dict[str, str], vae: VAE, model: ModelPatcher) -> Scored:
    """The scorer's objectives of both signs."""
    source = texts["opposite"] or texts["neutral"]
    return opposed(
        directional(setup.keep_weight, Scorer(towers.clip_vision, towers.clip, source, texts["wanted"], towers.phrasings), vae, model)
    )


def at_strengths(trainer: SliderTrainer, model: ModelPatcher, vae: VAE) -> Tensor:
    """A sheet of one picture at strengths -1, 0 and 1."""
    assert trainer.strip is not None  # training has ended
    pictures = vae.decode(model.get_model_object("latent_format").process_out(trainer.strip))
    stills = pictures[:, 0] if pictures.ndim == 5 else pictures.unflatten(0, (3, -1))[:, 0]  # of a video its first frame
    return labelled_grid(list(stills), ["-1", "0", "1"], columns=3)


NODES = [TrainSliderLora]
