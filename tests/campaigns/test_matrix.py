"""Every group of nodes on every family of models, in every number format, batch, size and mask: what works, and what is refused by name."""

import copy
import itertools
import re

import pytest
import torch

from pack.tests.campaigns.groups import GROUPS
from pack.tests.campaigns.place import SIZES, Cell, Place
from pack.tests.pixel_worlds import Pixel

pytestmark = [pytest.mark.campaign, pytest.mark.usefixtures("short_slider_training")]

FAMILIES = {
    "demo": None,
    "SD 1.5": "SD15",
    "SD 2.1": "SD20",
    "SDXL": "SDXL",
    "SD 1.5 inpaint": "SD15 inpaint",
    "SD 1.5 distilled": "SD15 distilled",
    "DDPM": "DDPM",
    "SD3": "SD3",
    "Flux": "Flux",
    "video": "WAN21_T2V",
}
TRANSFORMERS = {"SD3", "Flux", "video"}
PIXEL = {"DDPM"}  # by Load Pixel Diffusion Model; they read no words
FORMATS = {
    "fp32": (torch.float32, None),
    "fp16": (torch.float16, None),
    "bf16": (torch.bfloat16, None),
    "fp16 cast": (torch.float16, torch.float32),
    "bf16 cast": (torch.bfloat16, torch.float32),
}
SLOW = ("fp16", "bf16")  # a CPU computes half precision slowly
REFUSED = [  # what is refused, the groups and cells that refuse it, and how the message begins
    (
        "models without a UNet",
        lambda cell: (
            cell.group.startswith(("Direction From", "Discover", "Train Direction", "Editing Schedule")) and cell.family in TRANSFORMERS
        ),
        r"model: \w+ has no UNet with a middle block",
    ),
    (
        "models without words",
        lambda cell: (
            cell.group.startswith(("Make Slider", "Train Slider", "Train Attribute", "Direction From", "Train Direction"))
            and cell.family in PIXEL
        ),
        r"(model|source, target|objective): this pixel-space model is unconditional",
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
def world_of(demo, shaped, run, tmp_path_factory):
    """`world_of("SDXL", "fp16")` gives the demo checkpoint, a narrow model of a family, or a small pixel-space network.

    A cast model computes in fp32, as the host does it on a CPU.
    """
    import comfy.model_management
    import comfy.sd
    import folder_paths

    made = {}

    def demo_in(dtype, cast):
        path = folder_paths.get_full_path("checkpoints", "semantic_latents_portrait.safetensors")
        world = copy.copy(demo)
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: cast)
            world.model = comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False, model_options={"dtype": dtype})[
                0
            ]
        return world

    def pixel_in(network, name):
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: FORMATS[name][1])
            return Pixel(run, folder, network, weight_dtype=name.split()[0])

    def make(family, name):
        if (family, name) not in made:
            if family in PIXEL:
                made[family, name] = pixel_in(family, name)
            else:
                made[family, name] = shaped(FAMILIES[family], *FORMATS[name]) if FAMILIES[family] else demo_in(*FORMATS[name])
        return made[family, name]

    folder = tmp_path_factory.mktemp("pixel")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    yield make
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(folder))


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
