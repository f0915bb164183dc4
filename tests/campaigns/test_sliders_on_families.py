"""Make Slider on every family of models that users run: it works, or is refused by name."""

import itertools

import pytest

from pack.tests.campaigns import sliders
from pack.tests.campaigns.sliders import FAMILIES, HELD, PLACES, WORKS, Cell, cells, chosen, expected, outcome, slid

pytestmark = pytest.mark.campaign


def known(family):
    """The family, where this host has it."""
    if not sliders.is_known(family):
        pytest.skip(f"this host has no {family}")
    return family


def wrong(some, shaped):
    """The cells that give something else than they should, with what they give."""

    def found(cell):
        try:
            return outcome(cell, shaped)
        except Exception as error:
            return repr(error)

    return [f"{cell}: {result}" for cell in some for result in [found(cell)] if result != expected(cell)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_works_at_each_place_and_with_each_trait(family, shaped):
    assert not wrong(chosen(known(family)), shaped)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_of_a_family(family, shaped):
    assert not wrong(cells(known(family)), shaped)


def test_the_choice_has_every_pair_of_a_family_a_place_and_a_trait_that_works():
    every, some = ([cell for family in FAMILIES for cell in of(family)] for of in (cells, chosen))
    pairs = [
        {pair for cell in found if expected(cell) == WORKS for pair in itertools.combinations(enumerate(cell), 2)}
        for found in (every, some)
    ]
    assert pairs[0] == pairs[1]
    assert {cell[:2] for cell in every} == {cell[:2] for cell in some}
    assert len(some) < len(every) / 2


@pytest.mark.parametrize("place", PLACES)
def test_a_slider_that_does_nothing_is_found(place, shaped, monkeypatch):
    monkeypatch.setattr(sliders, "slid", lambda world, strength, **changes: world.model.clone())
    with pytest.raises(AssertionError, match="picture 0 is not edited"):
        outcome(Cell("SD 1.5", place, "plain"), shaped)


def test_a_rest_that_is_not_held_is_found(shaped, monkeypatch):
    monkeypatch.setattr(sliders, "slid", lambda world, strength, **changes: slid(world, strength, **{**changes, "hold_rest": False}))
    with pytest.raises(AssertionError, match="the rest is not held"):
        outcome(Cell("Flux", HELD, "mask"), shaped)


@pytest.mark.parametrize("left", ["hook", "option", "method"])
def test_what_stays_on_a_model_is_found(left, shaped, monkeypatch):
    def careless(world, strength, **changes):
        layer = world.model.model.diffusion_model.img_in
        if left == "hook":
            taken.append(layer.register_forward_hook(lambda *args: None).remove)
        if left == "option":
            monkeypatch.setitem(world.model.model_options["transformer_options"], "left", 1)
        if left == "method":
            monkeypatch.setattr(layer, "forward", layer.forward)
        return slid(world, strength, **changes)

    taken = []
    monkeypatch.setattr(sliders, "slid", careless)
    try:
        with pytest.raises(AssertionError, match="something stayed on the model"):
            outcome(Cell("Flux", "prediction", "plain"), shaped)
    finally:
        for take in taken:
            take()
        vars(shaped("Flux").model.model.diffusion_model.img_in).pop("forward", None)


def test_an_error_that_names_no_input_is_no_refusal(shaped, monkeypatch):
    def broken(world, strength, **changes):
        raise ValueError("too many values to unpack (expected 2)")

    monkeypatch.setattr(sliders, "slid", broken)
    with pytest.raises(ValueError, match="too many values"):
        outcome(Cell("SD3", "prediction", "plain"), shaped)


@pytest.mark.parametrize("trait", ["tiles", "context windows", "offload", "fp16"])
def test_a_trait_that_is_not_on_is_found(trait, shaped, monkeypatch):
    if trait == "offload":
        from contextlib import nullcontext

        monkeypatch.setattr(sliders, "weights_stay_away", nullcontext)
    if trait == "fp16":
        given = shaped
        shaped = lambda family, dtype: given(family)
    monkeypatch.setattr(sliders.Trait, "in_tiles", lambda self, model: model)
    monkeypatch.setattr(sliders.Trait, "in_windows", lambda self, model: model)
    with pytest.raises(AssertionError, match=f"{trait} was not on"):
        outcome(Cell("Wan 2.1", "prediction", trait), shaped)
