"""Edits beside what else users put into the same graph: FEATURES of the host, each with EDITS of the pack, through the host's own nodes."""

from dataclasses import replace

import pytest
import torch

from pack.core.hspace.direction import Direction
from pack.tests.attributes import train
from pack.tests.campaigns.features import FEATURES, HALF, NOT_HERE, ORDERED, STEPS, Graph, by_hand, patched
from pack.tests.edits import with_attribute, with_direction, with_gain, with_slider
from pack.tests.rounding import close
from pack.tests.wiring import random

pytestmark = pytest.mark.campaign

DONE = set()  # pairs of a feature and an edit that were tried


class Kit:
    """A world's graph, and one of each of the pack's edits for it."""

    def __init__(self, run, world, control_net):
        import comfy.samplers

        from pack.host.families import family_of

        self.run, euler = run, comfy.samplers.sampler_object("euler")
        self.graph = Graph(world, world.model, world.encode("a portrait"), world.encode(""), world.empty(), euler, control_net=control_net)
        self.direction = Direction(random(0, 2, family_of(world.model).channels, 2, 2), (30.0, 1.0), family_of(world.model), "random")
        more = dict(sigmas=world.sigmas(STEPS, "simple"), percent=0.3, steps=1)
        self.attribute = train(run, world, euler, target="blue hair", **more)[0]
        self.pictures = {}

    def moved(self, graph, strength, *, direction=None, **changes):
        return graph.but(model=with_direction(self.run, graph.model, direction or self.direction, strength, **changes))

    def slid(self, graph, strength):
        return graph.but(model=with_slider(self.run, graph.model, graph.world.clip, strength))

    def edited(self, graph, strength, target):
        return graph.but(sampler=with_gain(self.run, graph.sampler, target, strength))

    def attributed(self, graph, strength, target=None):
        target = target and graph.world.encode(target)
        return graph.but(sampler=with_attribute(self.run, graph.sampler, self.attribute, strength, target=target))

    def alone(self, edit, steps):
        """The picture of an edit without a feature; of no edit for None."""
        if (edit, steps) not in self.pictures:
            graph = self.graph.but(steps=steps)
            self.pictures[edit, steps] = (EDITS[edit](self, lambda _: graph, 1.0) if edit else graph).draw()
        return self.pictures[edit, steps]


# Each takes the kit, a feature and a strength.
EDITS = {
    "direction": lambda kit, feature, strength: kit.moved(feature(kit.graph), strength),
    "direction before it": lambda kit, feature, strength: feature(kit.moved(kit.graph, strength)),
    "asymmetric direction on one branch": lambda kit, feature, strength: kit.moved(
        feature(kit.graph), strength, asymmetric=True, branch="conditional"
    ),
    "asymmetric direction before it": lambda kit, feature, strength: feature(kit.moved(kit.graph, strength, asymmetric=True)),
    "slider": lambda kit, feature, strength: kit.slid(feature(kit.graph), strength),
    "slider before it": lambda kit, feature, strength: feature(kit.slid(kit.graph, strength)),
    "edit of x0": lambda kit, feature, strength: kit.edited(feature(kit.graph), strength, "x0"),
    "edit of x_t": lambda kit, feature, strength: kit.edited(feature(kit.graph), strength, "x_t"),
    "stored attribute": lambda kit, feature, strength: kit.attributed(feature(kit.graph), strength),
    "attribute of a target": lambda kit, feature, strength: kit.attributed(feature(kit.graph), strength, "blue hair"),
}


@pytest.fixture(scope="module")
def kit(run, demo, shaped, control_net, tmp_path_factory):
    """`kit("SDXL")`: made once."""
    import folder_paths

    made = {}

    def make(name):
        if name not in made:
            folder_paths.set_temp_directory(str(tmp_path_factory.mktemp("temp")))
            with torch.inference_mode():
                made[name] = Kit(run, demo if name == "demo" else shaped(name), control_net)
        return made[name]

    return make


def differ(a, b, share=1e-3):
    """By more than rounding, as a share of the latent's size."""
    return a.shape != b.shape or float((a - b).abs().max()) > share * float(b.abs().max())


def some_edits(feature, count):
    """So many of them, from all over the table, others for the next feature."""
    names, first = list(EDITS), list(FEATURES).index(feature)
    return [names[(first + i * len(names) // count) % len(names)] for i in range(count)]


@pytest.mark.campaign
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_and_an_edit_act_together(kit, feature, rounds, figures):
    """Both have their effect; strength 0 and disconnecting give the feature's own picture, and a second run the first's, bit for bit."""
    for world in (world for world in rounds(["SD15"], ["SD15", "SDXL"]) if feature not in NOT_HERE[world]):
        tools = kit(world)
        wired = FEATURES[feature](tools.graph)
        alone = wired.draw()
        assert torch.isfinite(alone).all(), f"{feature} does nothing by itself"
        assert differ(alone, tools.alone(None, wired.steps)), f"{feature} does nothing by itself"
        for edit in some_edits(feature, rounds(2, len(EDITS))):
            case, both = f"{feature}, {edit}, {world}", EDITS[edit](tools, FEATURES[feature], 1.0)
            picture = both.draw()
            assert torch.isfinite(picture).all(), case
            assert differ(picture, alone), f"{case}: the edit is lost"
            assert differ(picture, tools.alone(edit, wired.steps)), f"{case}: the feature is lost"
            assert torch.equal(both.draw(), picture), f"{case}: the second run differs"
            if "direction" not in edit and "slider" not in edit or rounds(False, True):  # these are the very model at strength 0
                assert torch.equal(EDITS[edit](tools, FEATURES[feature], 0.0).draw(), alone), f"{case}: strength 0 differs"
            DONE.add(case)
        nothing = replace(tools.direction, shifts=torch.zeros_like(tools.direction.shifts))
        unmoved = tools.moved(
            wired, 3.0, direction=nothing, asymmetric=True, branch="both"
        )  # of one half, in another batch, bits differ on some machines
        for again in rounds([unmoved], [wired, unmoved]):
            assert torch.equal(again.draw(), alone), f"{feature}, {world}: an edit outlasts its removal, or one of zeros is seen"
    figures(
        "edits beside other features", f"{len(DONE)} combinations of {len(FEATURES)} features with {len(EDITS)} edits, none refused or lost"
    )


def easy_cached(graph):
    return patched("easycache.EasyCacheNode", reuse_threshold=1.0, start_percent=0.0, end_percent=1.0, verbose=False)(graph.but(steps=4))


@pytest.mark.parametrize("edit", [name for name in EDITS if "stored" not in name and "x0" not in name])
def test_easy_cache_and_an_edit_act_together_or_are_refused_by_name(kit, edit):
    tools = kit("SD15")
    alone, both = easy_cached(tools.graph).draw(), EDITS[edit](tools, easy_cached, 1.0)
    if "asymmetric" in edit and "before" in edit:
        with pytest.raises(ValueError, match="model: EasyCache.* Connect it ahead of Apply Direction"):
            both.draw()
        return
    picture = both.draw()
    assert torch.isfinite(picture).all()
    assert differ(picture, alone)
    assert differ(picture, tools.alone(edit, 4))
    assert torch.equal(both.draw(), picture)


@pytest.mark.campaign
def test_it_does_not_matter_which_patch_comes_first(kit, rounds):
    tools = kit("SD15")
    patches = [name for name in FEATURES if FEATURES[name](tools.graph).model is not tools.graph.model and name not in ORDERED]
    assert len(patches) > 25
    for feature in rounds(["FreeU", "attn2 patch", "perturbed attention guidance", "normalized attention guidance"], patches):
        for asymmetric in (False, True):
            close(
                FEATURES[feature](tools.moved(tools.graph, 1.0, asymmetric=asymmetric)).draw(),
                tools.moved(FEATURES[feature](tools.graph), 1.0, asymmetric=asymmetric).draw(),
            )


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_slider_and_a_direction_act_together_in_either_order(kit, asymmetric):
    tools = kit("SD15")
    both = tools.slid(tools.moved(tools.graph, 1.0, asymmetric=asymmetric), 1.0).draw()
    close(both, tools.moved(tools.slid(tools.graph, 1.0), 1.0, asymmetric=asymmetric).draw())
    assert differ(both, tools.slid(tools.graph, 1.0).draw())
    assert differ(both, tools.moved(tools.graph, 1.0, asymmetric=asymmetric).draw())


def spied(graph, seen):
    """The graph with a patch that notes what reaches it in the middle block: h, and the prompt."""
    return by_hand(
        lambda model: model.set_model_middle_block_after_patch(
            lambda args: seen.append((args["h"].clone(), args["context"])) or {"h": args["h"]}
        )
    )(graph)


def test_patches_of_the_middle_block_keep_their_order(kit):
    """Theirs multiplies h by 1.3, ours adds a shift."""
    tools, theirs, added = kit("SD15"), FEATURES["middle block patch"], []
    for both in (lambda graph: tools.moved(theirs(graph), 1.0), lambda graph: theirs(tools.moved(graph, 1.0))):
        before, after = [], []
        spied(both(spied(tools.graph, before)), after).draw()
        added.append(after[0][0] - 1.3 * before[0][0])
    assert added[0].abs().max() > 0.1
    close(added[1], 1.3 * added[0])


@pytest.mark.parametrize("branch", ["conditional", "unconditional"])
@pytest.mark.parametrize(
    "feature",
    ["LoRA", "perturbed attention guidance", "perpendicular negative", "self-attention guidance", "dual guidance", "dual guidance, nested"],
)
def test_a_branch_is_that_of_the_positive_or_of_the_negative_prompt(kit, feature, branch):
    """By the prompt that the UNet reads where h moves."""
    tools, before, after = kit("SD15"), [], []
    spied(tools.moved(spied(FEATURES[feature](tools.graph), before), 1.0, branch=branch), after).draw()
    for (h, context), (edited, _) in zip(before, after, strict=True):
        for row in range(len(h)):
            (prompt,) = (
                text for text in ("a portrait", "", "a hat", "b") if torch.equal(context[row], tools.graph.world.encode(text)[0][0][0])
            )
            expected = {"a portrait": branch == "conditional", "": branch == "unconditional"}
            assert differ(edited[row], h[row]) == expected.get(prompt, differ(edited[row], h[row]))


@pytest.mark.parametrize("feature", ["area", "mask bounds"])
def test_a_mask_stays_where_it_is_under_a_prompt_for_an_area(kit, feature):
    """The prompts are for the right (area) or the left (bounds); the mask is white on the other side."""
    tools, before, after = kit("SD15"), [], []
    mask = HALF if feature == "area" else 1 - HALF
    spied(tools.moved(spied(FEATURES[feature](tools.graph), before), 1.0, mask=mask), after).draw()
    parts = [(h, edited) for (h, _), (edited, _) in zip(before, after, strict=True) if h.shape[-1] < h.shape[-2]]
    assert parts
    assert all(torch.equal(h, edited) for h, edited in parts)


@pytest.fixture
def finer(kit, monkeypatch):
    """A kit's graph for a UNet with attention at the latent's own resolution, where token merging acts."""
    make = type(kit("SD15").graph.world)
    conftest = make.__init__.__globals__
    depths = {"transformer_depth": [1, 1, 1], "transformer_depth_output": [1] * 6}
    monkeypatch.setitem(conftest["FAMILIES"], "SD15", {**conftest["SMALL"], **conftest["FAMILIES"]["SD15"], **depths})
    world = make("SD15")
    return kit("SD15").graph.but(world=world, model=world.model, latent=world.empty(size=32), steps=3)


@pytest.mark.parametrize(
    "feature",
    [
        patched("tomesd.TomePatchModel", ratio=0.5),
        patched("hypertile.HyperTile", tile_size=32, swap_size=3, max_depth=1, scale_depth=False),
    ],
    ids=["token merging", "HyperTile"],
)
def test_an_asymmetric_direction_of_zeros_changes_no_bit_beside_patches_that_draw_at_random(kit, finer, feature):
    wired, nothing = feature(finer), replace(kit("SD15").direction, shifts=torch.zeros(2, 64, 2, 2))
    assert differ(wired.draw(), finer.draw())
    assert torch.equal(kit("SD15").moved(wired, 3.0, direction=nothing, asymmetric=True).draw(), wired.draw())


def test_everything_at_once(kit):
    """A graph as users build them, with four of the pack's edits in it."""
    tools = kit("SD15")
    names = (
        "LoRA",
        "FreeU V2",
        "attn2 patch",
        "perturbed attention guidance",
        "RescaleCFG",
        "unet function wrapper",
        "mask",
        "ControlNet",
        "noise mask",
    )

    def full(graph):
        for name in names:
            graph = FEATURES[name](graph)
        return graph

    def edited(strength):
        return tools.attributed(
            tools.edited(
                tools.slid(tools.moved(full(tools.moved(tools.graph, strength)), strength, asymmetric=True), strength), strength, "x0"
            ),
            strength,
            "blue hair",
        )

    alone, both = full(tools.graph).draw(), edited(1.0)
    picture = both.draw()
    assert torch.isfinite(picture).all()
    assert differ(picture, alone)
    assert torch.equal(both.draw(), picture)
    assert torch.equal(edited(0.0).draw(), alone)
    assert torch.equal(full(tools.graph).draw(), alone)
    close(picture[..., 8:], alone[..., 8:], 1e-6)  # outside the noise mask
