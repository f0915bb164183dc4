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
from bench.stage import start_host
from dev.studio import FACES, STEPS, Studio, as_image, as_picture, kept_sheet, labels_of, left_half, sheet, table, written

FOLDER = Path(__file__).resolve().parent.parent / "nodes/web/docs/images"
LARGEST, INVERTED = 40_000, size(50, 4)


class Pages(Studio):
    """For each help page, the method that makes its picture (h, w, 3), by the picture's name."""

    def decompose(self):
        return self.node("Decompose", samples=self.latent("smiling"))[1][0]

    def compose(self):
        svd, kept = self.svd("blond"), (1, 4, 8)
        some = [self.composed(self.node("RescaleSingularValues", svd=svd, mode="truncate", last=last)[0]) for last in kept]
        return sheet([*some, self.composed(svd)], [*(f"triplets 1-{last}" if last > 1 else "triplet 1" for last in kept), "all 32"])

    def rescale_singular_values(self):
        svd, gains = self.svd("smiling"), (0.5, 1.0, 1.5, 2.0)
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
            128,
        )

    def spectrum_operation(self):
        gains = (0.2, 1.0, 1.5, 2.0)
        return sheet(
            [self.recoloured("blond", gain) for gain in gains],
            [f"gain {gain:g}" for gain in gains],
            title="layout joint, triplets 2 and 3, while the face is drawn",
        )

    def edit_during_sampling(self):
        ways = {
            "x0, 0.2 to 0.8": {},
            "x0, left half": {"mask": left_half()},
            "x0, 0.2 to 0.5": {"end_percent": 0.5},
            "x0, 0.6 to 0.8": {"start_percent": 0.6},
            "x_t, once at 0.6": {"target": "x_t", "steps": "first in range", "start_percent": 0.6},
        }
        drawn = [self.recoloured("blond", 0.2, **way) for way in ways.values()]
        return sheet(
            [self.draw("blond"), *drawn], ["unedited", *ways], 3, 128, title="Spectrum Operation: joint, triplets 2 and 3, gain 0.2"
        )

    def direction_from_prompts(self):
        faces = ("tan", "brown")
        rows = [
            [self.draw(face), self.edited(face, self.hat, 1.0), self.edited(face, self.hat, 2.0), self.draw(face, more=", hat")]
            for face in faces
        ]
        return sheet(
            sum(rows, []), ["unedited", "strength +1", "strength +2", "prompt + hat"] * len(rows), 4, title="a face, to a face, hat"
        )

    def discover_directions(self):
        directions, labels, plot = self.node("DiscoverDirections", positive=self.encode("a face"), images=32, steps=12, **self.runs())
        strengths = (-3.0, 0.0, 3.0)
        moved = [self.edited("brown", direction, strength, end_percent=1.0) for strength in strengths for direction in directions]
        return sheet(
            moved,
            [f"{label}, {strength:+g}" if strength else "unedited" for strength in strengths for label in labels],
            4,
            title="four directions (share of the variance), at -3, 0 and +3",
        )

    def apply_direction(self):
        strengths, upper = (-1.0, 0.0, 1.0, 2.0), left_half().mT
        skin = [self.edited("plain", self.shipped("dark_skin"), strength) for strength in strengths]
        masked = [self.edited("brown", self.beard, **how) for how in ({}, {"mask": upper}, {"mask": 1 - upper})]
        return sheet(
            [*skin, self.draw("brown"), *masked],
            [*labels_of(strengths), "unedited", "beard +1", "its upper half", "its lower half"],
            4,
            title="dark skin; below, a beard with masks",
        )

    def combine_directions(self):
        mixes = {"beard": (1, 0), "sunglasses": (0, 1), "both": (1, 1)}
        mixed = [
            self.node("CombineDirections", first=self.beard, second=self.sunglasses, first_weight=float(a), second_weight=float(b))[0]
            for a, b in mixes.values()
        ]
        return sheet([self.draw("tan"), *(self.edited("tan", mix) for mix in mixed)], ["unedited", *mixes])

    def save_direction(self):
        self.node("SaveDirection", direction=self.hat, filename_prefix="hat")
        path = next(self.output.rglob("hat_*.safetensors"))
        loaded = self.node("LoadDirection", file=path.name)[0]
        return kept_sheet(path, [self.draw("tan"), *(self.edited("tan", direction, 2.0) for direction in (self.hat, loaded))])

    def save_attribute(self):
        self.node("SaveAttribute", attribute=self.green[0], filename_prefix="green_background")
        path = next(self.output.rglob("green_background_*.safetensors"))
        loaded = self.node("LoadAttribute", file=path.name)[0]
        return kept_sheet(path, [self.draw("capped"), *(self.steered("capped", attribute, 1.5) for attribute in (self.green[0], loaded))])

    def load_direction(self):
        names = ("beard", "sunglasses", "dark_skin")
        return sheet(
            [self.draw("capped"), *(self.edited("capped", self.shipped(name)) for name in names)],
            ["unedited", *names],
            title="the demo model's own: demo_beard.safetensors, ...",
        )

    def train_direction(self):
        return super().train_direction("glasses", images=size(16, 3), **size({}, {"steps": 4, "epochs": 1}), seed=900_000)[2][0][
            :, : 3 * 192
        ]

    def editing_schedule(self):
        return self.node("EditingSchedule", positive=self.encode("a face"), vae=self.vae, **self.runs())[3][0]

    def compare_edit(self):
        before, after = (
            torch.stack([self.edited(face, self.sunglasses, strength) for face in ("tan", "brown")]) for strength in (0.0, 1.0)
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
        drawn = [
            self.edited("brown", self.beard, 2.0, sampler=self.node("DDIMSampler", **way)[0], asymmetric=True) for way in ways.values()
        ]
        return sheet(drawn, list(ways), 3, 128, title="beard, asymmetric, strength +2")

    def invert(self):
        from comfy.samplers import CFGGuider
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        from pack.demo import PICTURES as GIVEN

        pixels = as_picture(Image.open(GIVEN / "semantic_latents_face_photograph_like.png").convert("RGB"))
        latent, prompt = {"samples": self.vae.encode(pixels[None])}, self.encode("a face")
        sigmas = BasicScheduler.execute(self.model, "normal", INVERTED, 1.0).args[0]
        noise, _, _, error = self.node("Invert", model=self.model, positive=prompt, latent=latent, sigmas=sigmas)

        def again(model):
            guider = CFGGuider(model)
            guider.set_conds(prompt, [])
            guider.set_cfg(1.0)
            return self.picture(
                {"samples": guider.sample(noise.generate_noise(latent), latent["samples"], self.euler, sigmas, disable_pbar=True, seed=0)}
            )

        edited = [
            self.node("ApplyDirection", model=self.model, direction=self.shipped(name), strength=strength)[0]
            for name, strength in (("sunglasses", 1.5), ("beard", 1.0))
        ]
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
            "ExploreSingularVectors", **self.advanced("red"), percent=0.5, triplets="1-4", gains="0, 0.5, 1, 2"
        )
        return sheet(list(self.vae.decode(latent["samples"])), labels, columns, title="at 0.5 of the run")

    def train_attribute(self):
        return self.green[2][0]

    def apply_attribute(self):
        strengths, target = (-1.0, 0.0, 1.0, 1.5), self.encode(f"{FACES['capped'][0]}, green background")
        rows = [self.steered("capped", self.green[0], strength, **how) for how in ({}, {"target": target}) for strength in strengths]
        return sheet(rows, labels_of(strengths) * 2, 4, title="green background; below, with a target prompt")

    def mix_attributes(self):
        mixes = {"green": (1, 0), "sunglasses": (0, 1), "both": (1, 1)}
        mixed = [
            self.node("MixAttributes", first=self.green[0], second=self.shades[0], first_weight=float(a), second_weight=float(b))[0]
            for a, b in mixes.values()
        ]
        return sheet(
            [self.draw("brown"), *(self.steered("brown", mix, 1.5) for mix in mixed)],
            ["unedited", *mixes],
            title="strength +1.5, without a target prompt",
        )

    def load_attribute(self):
        strengths = (-1.0, 0.0, 1.0, 1.5)
        strip = sheet(
            [self.steered("brown", self.shades[0], strength) for strength in strengths],
            labels_of(strengths),
            title="demo_attribute_sunglasses.safetensors, and info",
        )
        return torch.cat([strip, written(self.shades[1], strip.shape[1])])

    def strength_range(self):
        strengths, labels = self.node("StrengthRange", minimum=0.0, maximum=0.6, count=4)
        return sheet(
            [self.edited("tan", self.beard, strength) for strength in strengths], labels, title="beard; minimum 0, maximum 0.6, count 4"
        )

    def grid(self):
        faces = ("brown", "blond", "red", "black", "blue", "smiling")
        return (
            self.pack["Grid"]
            .execute(
                images=[self.draw(face)[None] for face in faces],
                columns=[3],
                tile=[128],
                title=["columns 3, tile 128, this title"],
                labels=list(faces),
            )
            .args[0][0]
        )

    def demo_scorer(self):
        from pack.host.scorer import ImageScorer, text_embedding

        shown = {
            "a face, blue hair": ("blue", ""),
            "a face, sunglasses": ("tan", ", sunglasses"),
            "a face, beard": ("black", ", beard"),
            "a face, hat": ("brown", ", hat"),
        }
        pictures = torch.stack([self.draw(face, more=more) for face, more in shown.values()])
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
