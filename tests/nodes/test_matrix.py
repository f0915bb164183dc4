"""Every group of nodes on every family of models, in every number format, batch, size and mask: what works, and what is refused by name."""

import copy
import itertools
import re
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

pytestmark = pytest.mark.campaign

FAMILIES = {
    "demo": None,
    "SD 1.5": "SD15",
    "SD 2.1": "SD20",
    "SDXL": "SDXL",
    "SD 1.5 inpaint": "SD15 inpaint",
    "SD 1.5 distilled": "SD15 distilled",
    "SD3": "SD3",
    "Flux": "Flux",
    "video": "WAN21_T2V",
}
TRANSFORMERS = {"SD3", "Flux", "video"}
FORMATS = {
    "fp32": (torch.float32, None),
    "fp16": (torch.float16, None),
    "bf16": (torch.bfloat16, None),
    "fp16 cast": (torch.float16, torch.float32),
    "bf16 cast": (torch.bfloat16, torch.float32),
}
MASKS = ("no mask", "mask", "inpainting")  # of the node, and of the LATENT
SIZES = {"square": (6, 6), "odd": (5, 9)}
STEPS = 3
SLOW = ("fp16", "bf16")  # a CPU computes half precision slowly


class Cell(NamedTuple):
    """A place of the matrix."""

    group: str
    family: str
    format: str
    batch: int
    size: str
    mask: str


GROUPS = {}


def group(name, *masks):
    """Registers what a group of nodes does in a cell, and the kinds of masks that it can be given."""

    def register(act):
        GROUPS[name] = act, ("no mask", *masks)
        return act

    return register


class Place:
    """A cell's model and latents, and what all groups do with them."""

    def __init__(self, cell, world, run, sampler_of):
        self.run, self.sampler_of, self.size = run, sampler_of, SIZES[cell.size]
        self.rounding = 5e-2 if cell.format == "bf16" else 1e-2  # of a run's steps, which another order of the same sums changes
        self.model, self.vae, self.encode = world.model, world.vae, world.encode
        self.empty = self.latent = world.empty(cell.batch, *self.size)
        right = torch.zeros(1, *self.size)
        right[..., self.size[1] // 2 :] = 1
        self.mask = right if cell.mask == "mask" else None
        if cell.mask == "inpainting":
            self.latent = {**self.picture(), "noise_mask": right[:, None]}

    def picture(self):
        """A smooth latent: what no noise is."""
        noise = torch.randn(self.empty["samples"].shape, generator=torch.Generator().manual_seed(8))
        flat = noise.reshape(-1, 1, *self.size)
        return {"samples": torch.nn.functional.avg_pool2d(flat, 3, 1, 1).reshape(noise.shape)}

    def sigmas(self, steps=STEPS):
        from comfy_extras.nodes_custom_sampler import BasicScheduler

        return BasicScheduler.execute(self.model, "normal", steps, 1.0).args[0]

    def drawn(self, sampler="euler", model=None, *, sigmas=None, latent=None, noise=True):
        """SamplerCustom's latent."""
        from comfy_extras.nodes_custom_sampler import SamplerCustom

        sampler = self.sampler_of(sampler) if isinstance(sampler, str) else sampler
        return SamplerCustom.execute(
            model or self.model,
            noise,
            1,
            2.0,
            self.encode("a face"),
            self.encode(""),
            sampler,
            self.sigmas() if sigmas is None else sigmas,
            latent or self.latent,
        ).args[0]["samples"]

    def advanced(self, sampler, *, noise=None, cfg=2.0, latent=None):
        """The inputs of SamplerCustomAdvanced."""
        from comfy_extras.nodes_custom_sampler import CFGGuider, RandomNoise

        guider = CFGGuider.execute(self.model, self.encode("a face"), self.encode(""), cfg).args[0]
        sampler = self.sampler_of(sampler) if isinstance(sampler, str) else sampler
        return dict(
            noise=noise or RandomNoise.execute(1).args[0],
            guider=guider,
            sampler=sampler,
            sigmas=self.sigmas(),
            latent_image=latent or self.latent,
        )

    def applied(self, direction, strength=1.0, **changes):
        """A model that carries a direction."""
        settings = dict(start_percent=0.0, end_percent=1.0, ramp=0.0, branch="both", asymmetric=False, keep_norm=False, mask=self.mask)
        return self.run("ApplyDirection", model=self.model, direction=direction, strength=strength, **{**settings, **changes})[0]

    def check(self, edited, plain, share=1e-3):
        """Finite, as the host wants a LATENT, another than the unedited one, and what came in where an inpainting run paints nothing."""
        self.check_latent(edited)
        assert float((edited - plain).abs().max() / plain.abs().max()) > share, "nothing changed"
        if "noise_mask" in self.latent:
            outside = slice(0, self.size[1] // 2)
            close(edited[..., outside], self.latent["samples"][..., outside], 1e-5)

    def check_latent(self, latent):
        import comfy.model_management

        assert latent.shape == self.empty["samples"].shape, f"shape {tuple(latent.shape)}"
        assert latent.dtype == torch.float32, f"{latent.dtype} on {latent.device}"
        assert latent.device == comfy.model_management.intermediate_device(), f"{latent.dtype} on {latent.device}"
        assert torch.isfinite(latent).all(), "not finite"


def close(a, b, share):
    """Equal up to rounding, as a share of the latent's size."""
    torch.testing.assert_close(a, b, rtol=0, atol=share * float(b.abs().max()))


def check_picture(picture):
    assert picture.ndim == 4, f"picture {tuple(picture.shape)}"
    assert len(picture) == 1, f"picture {tuple(picture.shape)}"
    assert picture.shape[-1] == 3, f"picture {tuple(picture.shape)}"
    assert torch.isfinite(picture).all(), f"picture {tuple(picture.shape)}"


@group("spectrum between samplers", "inpainting")
def spectrum(place):
    settings = dict(mode="gain", first=1, last=2, gain=1.5, exponent=0.9, threshold=1.0, keep_energy=True, strength=1.0)
    sigmas, run = place.sigmas(), place.run
    half = {**place.latent, "samples": place.drawn(sigmas=sigmas[:2])}
    svd = run("Decompose", samples=half, layout="channel")[0]
    rescaled = run("RescaleSingularValues", svd=svd, **settings)[0]
    edited, exchanged = (
        run("Compose", svd=one)[0]
        for one in (rescaled, run("ExchangeSingularVectors", svd=svd, other=rescaled, take="values", leading=0)[0])
    )
    assert torch.equal(edited["samples"], exchanged["samples"])
    close(run("SpectrumOperation", layout="channel", **settings)[0](latent=half["samples"]), edited["samples"], 1e-4)
    plain, result = (place.drawn(sigmas=sigmas[1:], latent=latent, noise=False) for latent in (half, edited))
    place.check_latent(result)
    assert (result - plain).abs().max() > 1e-3 * plain.abs().max()


def edited_during_sampling(place, target):
    """Under a mask at the last step only, where an edit of x0 cannot spread."""
    operation = place.run(
        "SpectrumOperation",
        layout="joint",
        mode="gain",
        first=1,
        last=1,
        gain=1.5,
        exponent=0.9,
        threshold=1.0,
        keep_energy=False,
        strength=1.0,
    )[0]
    start = 0.0 if place.mask is None else 0.7
    sampler = place.run(
        "EditDuringSampling",
        sampler=place.sampler_of("dpmpp_2m"),
        operation=operation,
        target=target,
        steps="all in range",
        start_percent=start,
        end_percent=1.0,
        mask=place.mask,
    )[0]
    edited, plain = place.drawn(sampler), place.drawn("dpmpp_2m")
    place.check(edited, plain)
    if place.mask is not None and target == "x0":
        outside = slice(0, place.size[1] // 2)
        assert torch.equal(edited[..., outside], plain[..., outside])


@group("Edit During Sampling, x_t", "mask", "inpainting")
def edited_x_t(place):
    edited_during_sampling(place, "x_t")


@group("Edit During Sampling, x0", "mask", "inpainting")
def edited_x0(place):
    edited_during_sampling(place, "x0")


@group("Train Attribute, Apply Attribute", "mask", "inpainting")
def attribute(place):
    settings = dict(
        cfg=2.0,
        seed=0,
        seeds=1,
        percent=0.5,
        ahead=0.0,
        branch=0.0,
        source_rank=0,
        target_rank=0,
        solver="exact",
        target_weight=1.0,
        source_weight=0.2,
        target_values_weight=0.0,
        source_values_weight=0.0,
        residual=True,
        steps=1,
    )
    learned, _, picture = place.run(
        "TrainAttribute",
        model=place.model,
        source=place.encode("a face"),
        target=place.encode("a face, hat"),
        negative=place.encode(""),
        vae=place.vae,
        sampler=place.sampler_of("euler"),
        sigmas=place.sigmas(),
        latent=place.latent,
        **settings,
    )
    check_picture(picture)
    plain = place.drawn()
    for target in (None, place.encode("a face, hat")):
        sampler = place.run(
            "ApplyAttribute", sampler=place.sampler_of("euler"), attribute=learned, strength=1.0, budget=0.0, target=target, mask=place.mask
        )[0]
        place.check(place.drawn(sampler), plain)


def contrast(place):
    return place.run(
        "DirectionFromPrompts",
        model=place.model,
        source=place.encode("a face"),
        target=place.encode("a face, hat"),
        negative=place.encode(""),
        latent=place.latent,
        images=2,
        batch_size=2,
        steps=2,
        cfg=2.0,
        seed=0,
    )[0]


@group("Direction From Prompts, Apply Direction", "mask", "inpainting")
def direction(place):
    place.check(place.drawn(model=place.applied(contrast(place), 2.0)), place.drawn())


@group("Direction From Prompts, Apply Direction, asymmetric", "mask", "inpainting")
def asymmetric_direction(place):
    place.check(place.drawn(model=place.applied(contrast(place), 2.0, asymmetric=True)), place.drawn())


def discovered(place, method, **changes):
    directions, labels, picture = place.run(
        "DiscoverDirections",
        model=place.model,
        positive=place.encode("a face"),
        negative=place.encode(""),
        method=method,
        latent=place.latent,
        **{**dict(images=3, batch_size=3, steps=2, cfg=2.0, seed=0, count=1, percent=0.0, iterations=2, mask=place.mask), **changes},
    )
    check_picture(picture)
    assert len(directions) == len(labels) == 1
    place.check(place.drawn(model=place.applied(directions[0], 2.0)), place.drawn())


@group("Discover Directions, PCA", "mask", "inpainting")
def principal(place):
    discovered(place, "PCA")


@group("Discover Directions, Jacobian", "mask", "inpainting")
def jacobian(place):
    discovered(place, "Jacobian")


@group("Discover Directions, pullback", "mask", "inpainting")
def pullback(place):
    discovered(place, "pullback")


@group("Train Direction, Apply Direction", "mask", "inpainting")
def trained(place):
    settings = dict(
        objective="prompt matching",
        images=2,
        batch_size=2,
        epochs=1,
        steps=2,
        end_percent=1.0,
        cfg=1.0,
        learning_rate=1e-2,
        keep_weight=0.0,
        seed=0,
        source_text="",
        target_text="",
        source=place.encode("a face"),
        target=place.encode("a face, hat"),
        negative=place.encode(""),
        vae=place.vae,
        latent=place.latent,
        model=place.model,
    )
    learned, losses, picture = place.run("TrainDirection", **{key: [value] for key, value in settings.items()})
    check_picture(picture)
    assert len(losses["loss"]) == 2
    place.check(place.drawn(model=place.applied(learned, 5.0)), place.drawn())


@group("Invert", "inpainting")
def inverted(place):
    """The exact sampler returns to the picture, from itself and from an empty latent; from another start nothing does."""
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    picture = {**place.latent, **place.picture()}
    noise, noisy, exact, error = place.run(
        "Invert", model=place.model, positive=place.encode("a face"), latent=picture, sigmas=place.sigmas(), refinements=1, tolerance=0.0
    )
    place.check_latent(noisy["samples"])
    assert 0 <= error < float("inf")
    assert not torch.equal(noisy["samples"], picture["samples"])
    for start in (picture, place.empty):
        back = SamplerCustomAdvanced.execute(**place.advanced(exact, noise=noise, cfg=1.0, latent=start)).args[0]["samples"]
        place.check_latent(back)
        close(back, picture["samples"], 1e-5)
    assert not torch.allclose(place.drawn(exact), picture["samples"], atol=1e-2)


@group("DDIM Sampler", "inpainting")
def ddim(place):
    """Deterministic it is the host's euler."""
    sigmas = place.sigmas(4)
    plain, *others = (
        place.drawn(place.run("DDIMSampler", eta=eta, boost_percent=boost)[0], sigmas=sigmas)
        for eta, boost in ((0.0, 1.0), (1.0, 1.0), (0.0, 0.3))
    )
    close(plain, place.drawn(sigmas=sigmas), place.rounding)
    for other in others:
        place.check(other, plain)


@group("Editing Schedule", "inpainting")
def schedule(place):
    """Of a drawn picture, and in cells of batches of given ones."""
    given = place.picture()["samples"][:2]
    start, end, boost, picture = place.run(
        "EditingSchedule",
        model=place.model,
        positive=place.encode("a face"),
        negative=place.encode(""),
        vae=place.vae,
        latent=place.latent,
        distance="RMS",
        images=1,
        steps=4,
        cfg=2.0,
        seed=0,
        edit_threshold=0.1,
        boost_threshold=0.1,
        source_text="",
        target_text="",
        pictures={"samples": given} if len(given) > 1 else None,
    )
    check_picture(picture)
    assert start == 0 <= end <= boost <= 1
    assert boost > 0


@group("Sample Trajectory, Subspace Distance, Vector Mobility", "inpainting")
def trajectory(place):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    inputs = place.advanced("euler")
    latent, seen = place.run("SampleTrajectory", **inputs)
    place.check_latent(latent["samples"])
    assert torch.equal(latent["samples"], SamplerCustomAdvanced.execute(**inputs).args[0]["samples"])
    picture, neighbours, mean, random = place.run("SubspaceDistance", trajectory=seen, rank=2, side="right", of="x_t")
    check_picture(picture)
    assert neighbours > 0
    assert 0 < mean < 1.5 * random
    picture, mobility = place.run("VectorMobility", trajectory=seen, triplets=3, channel=2, of="x0")
    check_picture(picture)
    assert 0 <= mobility < float("inf")


@group("Explore Singular Vectors", "inpainting")
def explored(place):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    inputs = place.advanced("euler")
    variants = place.run("ExploreSingularVectors", **inputs, percent=0.3, triplets="1", gains="1, 3", batch_size=0)[0]["samples"]
    plain = SamplerCustomAdvanced.execute(**inputs).args[0]["samples"]
    close(variants[:1], plain, 5e-2)
    place.check(variants[1:], plain)


@group("Compare Edit", "inpainting")
def compared(place):
    from nodes import VAEDecode

    def decoded(sampler):
        latent = place.drawn(sampler)
        return VAEDecode().decode(place.vae, {"samples": latent / latent.abs().max() + 0.5})[0]

    edited = place.run(
        "EditDuringSampling",
        sampler=place.sampler_of("euler"),
        operation=lambda latent, **_: latent.flip(-2),
        target="x_t",
        steps="first in range",
        start_percent=0.0,
        end_percent=1.0,
        mask=None,
    )[0]
    picture, figures, ssim, psnr, *_ = place.run(
        "CompareEdit", before=decoded("euler"), after=decoded(edited), source_text="", target_text=""
    )
    check_picture(picture)
    assert -1 <= ssim < 1
    assert 0 < psnr < 120
    assert "SSIM" in figures


REFUSED = [  # what is refused, the groups and cells that refuse it, and how the message begins
    (
        "models without a UNet",
        lambda cell: (
            cell.group.startswith(("Direction From", "Discover", "Train Direction", "Editing Schedule")) and cell.family in TRANSFORMERS
        ),
        r"model: \w+ has no UNet with a middle block",
    ),
    ("masks", lambda cell: cell.group == "Discover Directions, PCA" and cell.mask == "mask", "mask: PCA compares whole pictures"),
    ("batches", lambda cell: cell.group == "Explore Singular Vectors" and cell.batch > 1, "latent_image: got a batch of 3"),
]


def product():
    """The whole matrix."""
    for name, (_, masks) in GROUPS.items():
        for values in itertools.product(FAMILIES, FORMATS, (1, 3), SIZES, masks):
            yield Cell(name, *values)


def refusal(cell):
    """What a cell refuses, and how its message begins; None if it works."""
    return next(((what, begins) for what, refuses, begins in REFUSED if refuses(cell)), None)


def choice(cells):
    """Cells that work such that each pair of values of two axes is in one of them, and each refusal by each group and family once."""
    working = {cell: set(itertools.combinations(enumerate(cell), 2)) for cell in cells if not refusal(cell)}
    slow = {cell: cell.batch * (1 if cell.family in TRANSFORMERS else 3) * (4 if cell.format in SLOW else 1) for cell in working}
    left, chosen = set().union(*working.values()), []
    while left:
        missing = min(left)
        chosen.append(max((cell for cell in working if missing in working[cell]), key=lambda cell: len(left & working[cell]) / slow[cell]))
        left -= working[chosen[-1]]
    return chosen + list({(cell.group, cell.family, refusal(cell)): cell for cell in cells if refusal(cell)}.values())


def outcome(cell, place):
    """What is wrong in a cell: nothing if it works, or refuses, as it should."""
    expected = refusal(cell)
    try:
        GROUPS[cell.group][0](place)
    except ValueError as error:
        return "" if expected and re.match(expected[1], str(error)) else f"{cell}: {error}"
    except Exception as error:
        return f"{cell}: {error!r}"
    return f"{cell}: not refused" if expected else ""


def row(name, cells):
    """A line of the README's matrix, of the cells that were tried."""
    formats = {
        family: tuple(
            dict.fromkeys(
                cell.format.split()[0]
                for cell in sorted(cells, key=lambda cell: [*FORMATS].index(cell.format))
                if cell.family == family and not refusal(cell)
            )
        )
        for family in dict.fromkeys(cell.family for cell in cells)
    }
    parts = [
        f"{', '.join(family for family in FAMILIES if formats.get(family) == some)}: works in {', '.join(some)}"
        for some in sorted(set(formats.values()), key=len, reverse=True)
        if some
    ]
    refused = [family for family in FAMILIES if formats.get(family) == ()] + sorted(
        {refusal(cell)[0] for cell in cells if refusal(cell) and formats[cell.family]}
    )
    parts += [f"{', '.join(refused)}: refused by name"] if refused else []
    return "; ".join(parts) + f" ({len(cells)} cells)"


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Plots are made and not painted, which takes longer than most cells."""
    from pack.core.pictures import figures

    monkeypatch.setattr(figures, "_picture", lambda figure: torch.zeros(1, 8, 8, 3))


@pytest.fixture(scope="module")
def world_of(demo, shaped):
    """`world_of("SDXL", "fp16")` gives the demo checkpoint, or a narrow model of a family.

    A cast model computes in fp32, as the host does it on a CPU.
    """
    import comfy.model_management
    import comfy.sd
    import folder_paths

    made = {}

    def demo_in(dtype, cast):
        path = folder_paths.get_full_path("checkpoints", "semantic_latents_demo.safetensors")
        world = copy.copy(demo)
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: cast)
            world.model = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False, model_options={"dtype": dtype})[
                0
            ]
        return world

    def make(family, name):
        if (family, name) not in made:
            made[family, name] = shaped(FAMILIES[family], *FORMATS[name]) if FAMILIES[family] else demo_in(*FORMATS[name])
        return made[family, name]

    return make


@pytest.fixture(scope="module")
def matrix():
    """The cells without and with --long."""
    cells = list(product())
    return choice(cells), cells


@pytest.mark.campaign
@pytest.mark.parametrize("name", GROUPS)
def test_every_cell_works_or_is_refused_by_name(name, matrix, world_of, run, sampler_of, rounds, figures):
    cells = [cell for cell in rounds(*matrix) if cell.group == name]
    wrong = [outcome(cell, Place(cell, world_of(cell.family, cell.format), run, sampler_of)) for cell in cells]
    assert cells, name
    assert not any(wrong), "\n".join(filter(None, wrong))
    figures(f"matrix: {name}", row(name, cells))


def test_the_choice_has_every_pair_of_values(matrix):
    chosen, cells = matrix
    pairs = [{pair for cell in some if not refusal(cell) for pair in itertools.combinations(enumerate(cell), 2)} for some in matrix]
    assert pairs[0] == pairs[1]
    assert len(chosen) < len(cells) / 20
    assert {(cell.group, cell.family, refusal(cell)) for cell in chosen if refusal(cell)} == {
        (cell.group, cell.family, refusal(cell)) for cell in cells if refusal(cell)
    }


@pytest.mark.parametrize("number_format", ["fp16", "bf16"])
def test_pullback_under_a_mask_in_half_precision(number_format, world_of, run, sampler_of):
    """Of three values at once, which no pair has: found by the whole matrix."""
    cell = Cell("Discover Directions, pullback", "SD 1.5", number_format, 1, "square", "mask")
    assert outcome(cell, Place(cell, world_of(cell.family, cell.format), run, sampler_of)) == ""


class Foreseeing:
    """A denoiser as samplers call it, for a model's noise levels and latents."""

    def __init__(self, world, foresee):
        self.inner_model, self.foresee = SimpleNamespace(model_patcher=world.model), foresee

    def __call__(self, x, sigma, **options):
        return self.foresee(x, float(sigma[0]))


@pytest.mark.parametrize("eta, boost", [(1.0, 1.0), (0.0, 0.0)])
def test_fresh_noise_keeps_the_picture_s_share_in_a_flow_model(shaped, run, eta, boost):
    """One step of a model that foresees the same picture everywhere, all ones."""
    noise = torch.randn(1, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    sampler = run("DDIMSampler", eta=eta, boost_percent=boost)[0].sampler_function
    after = sampler(
        Foreseeing(shaped("SD3"), lambda x, sigma: torch.ones_like(x)), 0.1 + 0.9 * noise, torch.tensor([0.9, 0.5]), extra_args={"seed": 0}
    )
    assert float(after.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(after.std()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("family", ["SD15", "SD3"])
def test_a_stored_attribute_moves_the_picture_by_what_it_holds(shaped, run, sampler_of, family):
    """With a model that foresees the picture that x is made of, and one noise."""
    from pack.core.avi.attribute import Attribute, Mixture, Recipe
    from pack.core.svd.decomposition import decompose
    from pack.host.pairs import kind_of

    world = shaped(family)
    scaling, like = world.model.get_model_object("model_sampling").noise_scaling, world.empty()["samples"]
    picture, noise, change = (torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3))

    def foresee(x, sigma):
        level, nothing = torch.tensor(sigma), torch.zeros(1)
        return (x - scaling(level, noise, nothing)) / scaling(level, nothing, torch.ones(1))

    attribute = Mixture(((Attribute(Recipe(0.5, branch=0.0), decompose(change), kind_of(world.model)), 1.0),))
    sampler = run("ApplyAttribute", sampler=sampler_of("euler"), attribute=attribute, strength=1.0, budget=0.0)[0].sampler_function
    sigmas = torch.tensor([0.9, 0.6, 0.3, 0.0])
    x = scaling(sigmas[0], noise, picture)
    close(sampler(Foreseeing(world, foresee), x, sigmas, extra_args={}, disable=True) - picture, change, 1e-3)


def test_pullback_varies_the_latent_alone(shaped, run, monkeypatch):
    from pack.host import jacobians

    world, found, search = shaped("SD15 inpaint"), [], jacobians.leading_right_vectors
    monkeypatch.setattr(jacobians, "leading_right_vectors", lambda *args, **more: found.append(search(*args, **more)) or found[-1])
    run(
        "DiscoverDirections",
        model=world.model,
        positive=world.encode("a face"),
        negative=world.encode(""),
        method="pullback",
        latent=world.empty(size=8),
        images=1,
        batch_size=1,
        steps=2,
        cfg=2.0,
        seed=0,
        count=2,
        percent=0.0,
        iterations=2,
    )
    vectors, _ = found[0]
    assert vectors[:, 4:].norm() < 1e-3 * vectors.norm()
