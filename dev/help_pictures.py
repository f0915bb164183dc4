"""Draws the pictures of the nodes' help pages, from real results on the demo model, to nodes/web/docs/images.

python -m dev.help_pictures [name ...] [--out folder] [--smallest]     all of them without a name; COMFYUI is the host's folder
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from bench.sizes import parsed, size
from bench.stage import SOURCE, start_host
from dev.studio import (
    CFG,
    FACES,
    STEPS,
    Studio,
    as_image,
    as_picture,
    centred,
    kept_sheet,
    labels_of,
    left_half,
    sheet,
    shrunk,
    table,
    written,
)

FOLDER = Path(__file__).resolve().parent.parent / "nodes/web/docs/images"
LARGEST, INVERTED = 55_000, size(30, 4)


class Pages(Studio):
    """For each help page, the method that makes its picture (h, w, 3), by the picture's name."""

    def make_slider(self):
        smiles, lights = (-0.5, -0.25, 0.0, 0.25, 0.5), (-1.0, -0.5, 0.0, 0.5, 1.0)
        rows = [self.slid("red", strength, "big smile", opposite=f"{SOURCE}, very sad") for strength in smiles]
        rows += [self.slid("brown", strength, "light from the left", focus=0.0) for strength in lights]
        return sheet(rows, labels_of(smiles + lights), 5, title="a smile, with words for its opposite; below, light from the left, focus 0")

    def apply_slider(self):
        """One slider, on the checkpoint and on a model that Load Slider has given sunglasses."""
        strengths, file = (-1.0, 0.0, 1.0), "portrait_attribute_sunglasses.safetensors"
        models = (self.model, self.node("LoadSlider", model=self.model, file=file, strength=2.0)[0])
        rows = [
            self.draw("brown", model=self.node("ApplySlider", model=model, slider=self.smile, strength=strength)[0])
            for model in models
            for strength in strengths
        ]
        labels = [f"smile {label}" if label != "unedited" else label for label in labels_of(strengths)]
        labels += [f"sunglasses, smile {strength:+g}" if strength else "sunglasses" for strength in strengths]
        return sheet(rows, [label.replace("strength ", "") for label in labels], 3)

    def calibrate_slider(self):
        """The plot, and one face at even strengths of the whole range, before and after."""
        prompts = dict(positive=self.encode(SOURCE), negative=self.encode(""))
        scaled, side = dict(seed=900_003, cfg=CFG) | {"seeds": 2, "steps": size(8, 4)}, size(self.side, 8)
        latent = {"samples": torch.zeros(1, 4, side, side)}
        unit, plot, info = self.node(
            "CalibrateSlider", model=self.model, slider=self.smile, vae=self.vae, latent=latent, **prompts, **scaled
        )
        shown = (-1.0, -0.5, 0.0, 0.5, 1.0)
        before = [unit.dial.strength(-1.0) * -x if x < 0 else unit.dial.strength(1.0) * x for x in shown]
        drawn = [self.draw("red", model=slider.on(self.model, x)) for slider, row in ((self.smile, before), (unit, shown)) for x in row]
        labels = [*(f"before: {x:+.2g}" if x else "unedited" for x in before), *(f"after: {x:+g}" if x else "unedited" for x in shown)]
        strips = sheet(drawn, labels, 5, 128)
        small = as_picture(as_image(plot[0]).resize((480, 345), Image.Resampling.LANCZOS))
        return torch.cat([centred(small, strips.shape[1]), strips, written(info, strips.shape[1])])

    def slider_strip(self):
        """With the pictures at a smaller size than the node's."""
        prompts = dict(positive=self.encode(f"{SOURCE}, curly red hair, no hat, no beard, no glasses"), negative=self.encode(""))
        latent, scorer = {"samples": self.empty()}, dict(zip(("clip_vision", "clip"), self.node("DemoScorer")))
        drawn = dict(model=self.model, slider=self.smile, latent=latent, vae=self.vae, seed=2, seeds=2, cfg=CFG, **prompts, **scorer)
        whole = self.node("SliderStrip", strengths="-1 to 1 in 5", scorer_text=f"{SOURCE}, big smile", **drawn)[0][0]
        return as_picture(as_image(whole).resize((880, 880 * whole.shape[0] // whole.shape[1]), Image.Resampling.LANCZOS))

    def load_pixel_model(self):
        """The text of info for narrow networks of random weights, in the layout of guided diffusion."""
        import folder_paths
        from safetensors.torch import save_file

        from pack.core.pixel.configuration import Configuration, Level, expected_shapes

        kinds = {"narrow_P2": (True, 6, None), "narrow_iDDPM": (False, 6, None), "narrow_ADM_of_10_classes": (True, 3, 10)}
        levels = tuple(Level(64 * m, (m == 2,), (m == 2, m == 2)) for m in (1, 2))
        with tempfile.TemporaryDirectory() as folder:
            folder_paths.add_model_folder_path("diffusion_models", folder)
            generator, texts = torch.Generator().manual_seed(0), []
            for name, (resamples, outputs, classes) in kinds.items():
                shapes = dict(expected_shapes(Configuration(64, 64, levels, True, True, resamples, outputs, classes)))
                weights = {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
                save_file(weights, Path(folder) / f"{name}.safetensors")
                texts.append(self.node("LoadPixelModel", file=f"{name}.safetensors")[3])
            folder_paths.folder_names_and_paths["diffusion_models"][0].remove(folder)
        return torch.cat([written(text, 480) for text in texts])

    def decompose(self):
        return self.node("Decompose", samples=self.latent("red"))[1][0]

    def compose(self):
        svd, kept = self.svd("blond"), (1, 4, 8)
        some = [self.composed(self.node("RescaleSingularValues", svd=svd, mode="truncate", last=last)[0]) for last in kept]
        return sheet([*some, self.composed(svd)], [*(f"triplets 1-{last}" if last > 1 else "triplet 1" for last in kept), "all 32"])

    def rescale_singular_values(self):
        svd, gains = self.svd("brown"), (0.5, 1.0, 1.5, 2.0)
        bands = {"triplet 1": (1, 1), "5 to 32": (5, 0)}
        return sheet(
            [
                self.composed(self.node("RescaleSingularValues", svd=svd, first=first, last=last, gain=gain)[0])
                for first, last in bands.values()
                for gain in gains
            ],
            [f"{name} x {gain:g}" for name in bands for gain in gains],
            4,
            title="triplet 1, and triplets 5 to 32, times a gain",
        )

    def exchange_singular_vectors(self):
        first, other = self.svd("red"), self.svd("black")
        taken = [
            self.composed(self.node("ExchangeSingularVectors", svd=first, other=other, take=take, leading=leading)[0])
            for take, leading in (("triplets", 2), ("triplets", 6), ("values", 0), ("vectors", 0))
        ]
        return sheet(
            [self.composed(first), self.composed(other), *taken],
            ["the first", "the other", "takes 2 triplets", "takes 6 triplets", "takes all values", "takes all vectors"],
            3,
        )

    def spectrum_operation(self):
        strengths = (-0.6, 0.0, 0.6, 1.2)
        return sheet(
            [self.recoloured("red", strength) for strength in strengths],
            labels_of(strengths),
            title="layout joint, triplets 2 to 4, gain 1.8, while the face is drawn",
        )

    def edit_during_sampling(self):
        ways = {
            "x0, 0.2 to 0.8": {},
            "x0, left half": {"mask": left_half()},
            "x0, 0.2 to 0.5": {"end_percent": 0.5},
            "x0, 0.6 to 0.8": {"start_percent": 0.6},
            "x_t, once at 0.6": {"target": "x_t", "steps": "first in range", "start_percent": 0.6},
        }
        drawn = [self.recoloured("red", -0.6, **way) for way in ways.values()]
        title = "Spectrum Operation: joint, triplets 2 to 4, gain 1.8, strength -0.6"
        return sheet([self.draw("red"), *drawn], ["unedited", *ways], 3, title=title)

    def direction_from_prompts(self):
        direction = self.node(
            "DirectionFromPrompts", source=self.encode(SOURCE), target=self.encode(f"{SOURCE}, sunglasses"), **self.runs()
        )[0]
        strengths, rows = (0.0, 1.0, 8.0), []
        for face in ("red", "brown"):
            rows += [self.edited(face, direction, strength) for strength in strengths]
            rows.append(self.draw(face, words=FACES[face][0].replace("no glasses", "sunglasses")))
        return sheet(
            rows, [*labels_of(strengths), "prompt + sunglasses"] * 2, 4, title="a portrait, to a portrait, sunglasses: no effect here"
        )

    def discover_directions(self):
        directions, labels = self.discovered
        strengths = (-8.0, 0.0, 8.0)
        moved = [self.edited("any", direction, strength, end_percent=1.0) for strength in strengths for direction in directions]
        return sheet(
            moved,
            [f"{label}, {strength:+g}" if strength else "unedited" for strength in strengths for label in labels],
            4,
            title="four directions (share of the variance), at -8, 0 and +8",
        )

    def apply_direction(self):
        strengths, half, direction = (-12.0, -6.0, 0.0, 6.0, 12.0), left_half(), self.discovered[0][1]
        moved = [self.edited("any", direction, strength, end_percent=1.0) for strength in strengths]
        masked = [self.edited("any", direction, 12.0, end_percent=1.0, mask=mask) for mask in (half, 1 - half)]
        return sheet(
            [*moved, *masked],
            [*labels_of(strengths), "+12, left half", "+12, right half"],
            5,
            title="a discovered direction; below, with masks",
        )

    def combine_directions(self):
        first, _, second, _ = self.discovered[0]
        mixes = {"the first": (1, 0), "the second": (0, 1), "both": (1, 1)}
        mixed = [
            self.node("CombineDirections", first=first, second=second, first_weight=float(a), second_weight=float(b))[0]
            for a, b in mixes.values()
        ]
        return sheet(
            [self.draw("any"), *(self.edited("any", mix, 8.0, end_percent=1.0) for mix in mixed)],
            ["unedited", *mixes],
            title="two discovered directions, at strength +8",
        )

    def save_direction(self):
        direction, loaded, path = self.kept("Direction", self.discovered[0][0], "headwear")
        moved = [self.edited("any", each, 8.0, end_percent=1.0) for each in (direction, loaded)]
        return kept_sheet(path, [self.draw("any"), *moved])

    def save_attribute(self):
        attribute, loaded, path = self.kept("Attribute", self.hat[0], "hat")
        return kept_sheet(path, [self.draw("brown"), *(self.steered("brown", each, 2.0) for each in (attribute, loaded))])

    def save_slider(self):
        self.node("SaveSlider", slider=self.smile, filename_prefix="smile")
        path = next(self.output.rglob("smile_*.safetensors"))
        loaded = self.node("LoadSlider", model=self.model, file=path.name)[0]
        return kept_sheet(path, [self.draw("red"), *(self.draw("red", model=model) for model in (self.smile.on(self.model, 1.0), loaded))])

    def load_slider(self):
        strengths = (-1.0, 0.0, 1.0, 2.0)
        files = {"red": "portrait_attribute_smile.safetensors", "plain": "portrait_attribute_sunglasses.safetensors"}
        rows = [
            self.draw(face, model=self.node("LoadSlider", model=self.model, file=file, strength=strength)[0])
            for face, file in files.items()
            for strength in strengths
        ]
        return sheet(rows, labels_of(strengths) * 2, 4, title=", ".join(files.values()))

    def load_direction(self):
        loaded = [self.kept("Direction", direction, f"discovered_{i}")[1] for i, direction in enumerate(self.discovered[0][:3], 1)]
        return sheet(
            [self.draw("any"), *(self.edited("any", direction, 8.0, end_percent=1.0) for direction in loaded)],
            ["unedited", *(f"discovered_{i}" for i in range(1, 4))],
            title="three discovered directions, saved and loaded, at +8",
        )

    def train_direction(self):
        scaled = size({"images": 8, "steps": 12}, {"images": 3, "steps": 4, "epochs": 1})
        picture = super().train_direction("glasses", **scaled, seed=900_000)[2][0]
        return picture[:, : 3 * 256]

    def train_slider_lora(self):
        prompts = dict(neutral=SOURCE, wanted=f"{SOURCE}, big smile")
        settings = dict(model=self.model, clip=self.clip, vae=self.vae, latent={"samples": self.empty()}, steps=size(60, 2))
        return self.node("TrainSliderLora", **prompts, **settings)[2][0]

    def editing_schedule(self):
        return self.node("EditingSchedule", positive=self.encode(SOURCE), vae=self.vae, **self.runs())[3][0]

    def image_guidance(self):
        """One reference, for two faces."""
        reference, factors = self.latent("any", words=f"{SOURCE}, sunglasses, big smile"), (8, 4, 2)
        rows = []
        for face in ("red", "blond"):
            models = [self.node("ImageGuidance", model=self.model, reference=reference, strength=1.0, downsample=n)[0] for n in factors]
            rows += [self.draw(face), *(self.draw(face, model=model) for model in models), self.picture(reference)]
        return sheet(rows, ["unguided", *(f"downsample {n}" for n in factors), "the reference"] * 2, 5, 160)

    def classifier_guidance(self):
        scorer, strengths = dict(zip(("clip_vision", "clip"), self.node("DemoScorer"))), (1.0, 3.0)
        models = [self.node("ClassifierGuidance", model=self.model, vae=self.vae, strength=s, **scorer)[0] for s in strengths]
        rows = [self.draw(face, model=model) for face in ("red", "brown") for model in (self.model, *models)]
        return sheet(rows, ["unguided", *labels_of(strengths)] * 2, 3, title="pushed to sunglasses by the demo scorer")

    def compare_edit(self):
        before, after = (
            torch.stack([shrunk(self.slid(face, strength, "sunglasses"), 192) for face in ("plain", "any")]) for strength in (0.0, 1.0)
        )
        return self.node("CompareEdit", before=before, after=after)[0][0]

    def ddim_sampler(self):
        ways = {
            "boost 1, eta 0": {},
            "boost from 0.8": {"boost_percent": 0.8},
            "boost from 0.6": {"boost_percent": 0.6},
            "eta 0.3": {"eta": 0.3},
            "eta 0.6": {"eta": 0.6},
            "eta 1": {"eta": 1.0},
        }
        return sheet([self.draw("any", sampler=self.node("DDIMSampler", **way)[0]) for way in ways.values()], list(ways), 3)

    def invert(self):
        from comfy.samplers import CFGGuider
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from pack.demo import PICTURES as GIVEN

        pixels = as_picture(Image.open(GIVEN / "semantic_latents_portrait_photograph_like.png").convert("RGB"))
        latent, prompt = {"samples": self.vae.encode(pixels[None])}, self.encode(f"{SOURCE}, brown hair, blue shirt, green background")
        sigmas = BasicScheduler.execute(self.model, "normal", INVERTED, 1.0).args[0]
        noise, _, exact, error = self.node("Invert", model=self.model, positive=prompt, latent=latent, sigmas=sigmas)

        def again(model):
            guider = CFGGuider(model)
            guider.set_conds(prompt, [])
            guider.set_cfg(1.0)
            return self.picture(
                {"samples": guider.sample(noise.generate_noise(latent), latent["samples"], exact, sigmas, disable_pbar=True, seed=0)}
            )

        edited = [self.slider(strength, words) for words, strength in (("sunglasses", 1.5), ("beard", 1.5))]
        return sheet(
            [pixels, *map(again, (self.model, *edited))],
            ["given", "drawn again", "sunglasses", "beard"],
            title=f"{INVERTED} steps, 5 refinements: error {error:.4f}",
        )

    def sample_trajectory(self):
        steps = (0, 3 * STEPS // 10, 3 * STEPS // 5, STEPS)
        moments = [
            {"samples": self.model.get_model_object("latent_format").process_out(latents[i])}
            for latents in (self.trajectory.latents("x_t"), self.trajectory.latents("x0"))
            for i in steps
        ]
        return sheet(
            [self.picture(moment) for moment in moments],
            [f"{name}, {self.trajectory.percents[i]:.2f}" for name in ("noisy", "foreseen") for i in steps],
            4,
        )

    def subspace_distance(self):
        return self.node("SubspaceDistance", trajectory=self.trajectory)[0][0]

    def vector_mobility(self):
        return self.node("VectorMobility", trajectory=self.trajectory)[0][0]

    def explore_singular_vectors(self):
        latent, labels, columns, *_ = self.node(
            "ExploreSingularVectors", **self.advanced("any"), percent=0.3, triplets="1-4", gains="-1, 0, 1, 2"
        )
        return sheet(list(self.vae.decode(latent["samples"])), labels, columns, 128, "at 0.3 of the run")

    def train_attribute(self):
        return self.hat[2][0]

    def apply_attribute(self):
        strengths, target = (-1.0, 0.0, 1.0, 2.0), self.encode(FACES["plain"][0] + ", hat")
        rows = [self.steered("plain", self.hat[0], strength, **how) for how in ({}, {"target": target}) for strength in strengths]
        return sheet(rows, labels_of(strengths) * 2, 4, title="a hat; below, with a target prompt")

    def apply_attribute_to_model(self):
        strengths, smiling = (-1.0, 0.0, 1.0, 2.0), self.slider(1.0, "big smile")
        rows = [
            self.draw("brown", model=self.node("ApplyAttributeToModel", model=model, attribute=self.shades[0], strength=strength)[0])
            for model in (self.model, smiling)
            for strength in strengths
        ]
        labels = [*labels_of(strengths), *(f"smile, {label}" if label != "unedited" else "smile" for label in labels_of(strengths))]
        return sheet(rows, labels, 4, title="sunglasses on the model; below, after Make Slider")

    def mix_attributes(self):
        mixes = {"hat": (1, 0), "sunglasses": (0, 1), "both": (1, 1)}
        mixed = [
            self.node("MixAttributes", first=self.hat[0], second=self.shades[0], first_weight=float(a), second_weight=float(b))[0]
            for a, b in mixes.values()
        ]
        return sheet(
            [self.draw("plain"), *(self.steered("plain", mix, 2.0) for mix in mixed)],
            ["unedited", *mixes],
            title="strength +2, without a target prompt",
        )

    def load_attribute(self):
        strengths = (-1.0, 0.0, 1.0, 2.0)
        strip = sheet(
            [self.steered("plain", self.shades[0], strength) for strength in strengths],
            labels_of(strengths),
            title="portrait_attribute_sunglasses.safetensors, and info",
        )
        return torch.cat([strip, written(self.shades[1], strip.shape[1])])

    def strength_range(self):
        strengths, labels = self.node("StrengthRange", minimum=-0.5, maximum=0.5, count=4)
        return sheet(
            [self.slid("red", strength, "big smile", opposite=f"{SOURCE}, very sad") for strength in strengths],
            labels,
            title="a smile; minimum -0.5, maximum 0.5, count 4",
        )

    def grid(self):
        faces = ("red", "brown", "blond", "black", "bald", "blue")
        return (
            self.pack["Grid"]
            .execute(
                images=[shrunk(self.draw(face), 192)[None] for face in faces],
                columns=[3],
                tile=[192],
                title=["columns 3, this title"],
                labels=list(faces),
            )
            .args[0][0]
        )

    def demo_scorer(self):
        from pack.host.scorer import ImageScorer, text_embedding

        shown = {f"{SOURCE}, {words}": words for words in ("blue hair", "sunglasses", "long beard", "hat")}
        pictures = torch.stack([self.draw("plain", words=f"{text}, facing the camera") for text in shown])
        with torch.inference_mode(False), torch.no_grad():
            texts = torch.stack([text_embedding(self.clip, text).clone().cpu() for text in shown])
            images = ImageScorer(self.node("DemoScorer")[0]).embed(pictures.clone().movedim(-1, 1)).cpu()
        return table(pictures, list(shown), torch.nn.functional.cosine_similarity(texts[:, None], images[None], dim=2), "cosine")


def save(picture, path):
    """Write a JPEG, as good as its size allows; the quality."""
    for quality in range(92, 48, -4):
        as_image(picture).save(path, quality=quality, optimize=True)
        if path.stat().st_size < LARGEST:
            return quality
    raise ValueError(f"{path.name} is too large")


def main():
    """Draw the pictures of the command line, and say how long each took."""
    parser, every = (
        argparse.ArgumentParser(prog="dev.help_pictures", description=__doc__.splitlines()[0]),
        [name for name in vars(Pages) if name[0] != "_"],
    )
    parser.add_argument("names", nargs="*", help=f"all of them if left out: {', '.join(every)}")
    options = parsed(parser, FOLDER)
    names = options.names or every
    if set(names) - set(every):
        parser.error(f"no page has the picture {', '.join(set(names) - set(every))}")
    start_host()
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        pages = Pages(folder)
        for name in names:
            start = time.monotonic()
            quality = save(getattr(pages, name)(), options.out / f"{name}.jpg")
            print(f"{name}: {time.monotonic() - start:.0f} s, quality {quality}", flush=True)


if __name__ == "__main__":
    main()
