"""The drawn portraits: the same face gives the same picture, attributes move it smoothly, and captions say what they mean."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from pack.demo.captions import END, MAX_TOKENS, START, VOCABULARY, caption, prompt_for, said_in, told, unknown_words, words_to_ids
from pack.demo.drawing import render
from pack.demo.faces import CATEGORICAL, CONTINUOUS, IDENTITY, SIZE, Face, sample_face, visible

PLAIN = {"glasses": "none", "hat": "none", "style": "straight"}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def changed(a: np.ndarray, b: np.ndarray) -> int:
    """The number of pixels that differ plainly."""
    return int((np.abs(a.astype(int) - b).max(-1) > 25).sum())


def test_the_same_face_gives_the_same_pixels():
    faces = [sample_face(rng(k)) for k in range(6)]
    first = [render(face) for face in faces]
    for face, picture in zip(reversed(faces), reversed(first)):
        again = render(Face(dict(face.labels), dict(face.numbers), dict(face.identity)))
        assert picture.shape == (SIZE, SIZE, 3)
        assert picture.dtype == np.uint8
        assert np.array_equal(again, picture)


def test_a_smaller_picture_is_the_same_drawing():
    face = sample_face(rng(3))
    half = render(face).astype(float).reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean((1, 3))
    assert difference(half, render(face, SIZE // 2)) < 2


def test_a_random_face_has_every_attribute_within_its_range():
    for k in range(50):
        face = sample_face(rng(k))
        assert set(face.labels) == set(CATEGORICAL)
        assert all(v in CATEGORICAL[n] for n, v in face.labels.items())
        assert set(face.numbers) == set(CONTINUOUS)
        assert all(CONTINUOUS[n][0] <= v <= CONTINUOUS[n][1] for n, v in face.numbers.items())
        assert set(face.identity) == set(IDENTITY)
        assert all(-1 <= v <= 1 for v in face.identity.values())


def test_every_value_and_every_part_of_a_range_is_well_represented():
    source = rng()
    faces = [sample_face(source) for _ in range(2000)]
    for name, values in CATEGORICAL.items():
        counts = [sum(face.labels[name] == value for face in faces) for value in values]
        assert min(counts) > 0.1 * len(faces), name
    for name, (low, high) in CONTINUOUS.items():
        fifths = np.histogram([face.numbers[name] for face in faces], bins=5, range=(low, high))[0]
        assert fifths.min() > 0.09 * len(faces), name


def test_attributes_are_independent_of_each_other():
    source = rng(1)
    faces = [sample_face(source) for _ in range(3000)]
    columns = [[face.numbers[name] for face in faces] for name in CONTINUOUS]
    columns += [[face.labels[name] == value for face in faces] for name, values in CATEGORICAL.items() for value in values[1:]]
    groups = [*CONTINUOUS, *(name for name, values in CATEGORICAL.items() for _ in values[1:])]
    correlation = np.abs(np.corrcoef(np.array(columns, float)))
    apart = np.array([[a != b for b in groups] for a in groups])
    assert correlation[apart].max() < 0.1


def test_fixed_attributes_are_kept_and_bad_ones_are_named():
    face = sample_face(rng(), hair="red", smile=0.9, jaw=-0.5)
    assert face.labels["hair"] == "red"
    assert face.numbers["smile"] == 0.9
    assert face.identity["jaw"] == -0.5
    with pytest.raises(ValueError, match="hair: 'green'"):
        sample_face(rng(), hair="green")
    with pytest.raises(ValueError, match="smile: 3 arrived"):
        sample_face(rng(), smile=3)
    with pytest.raises(ValueError, match="tail: no such attribute"):
        sample_face(rng(), tail=1)


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("seed", range(3))
def test_a_continuous_attribute_moves_the_picture_smoothly(name, seed):
    """Of 20 equal steps over the range, none makes up more than a fifth of the way, and each moves the picture further."""
    pictures = [render(sample_face(rng(seed), **{**PLAIN, name: float(v)})) for v in np.linspace(*CONTINUOUS[name], 21)]
    steps = [difference(a, b) for a, b in pairwise(pictures)]
    assert max(steps) < 0.2 * sum(steps)
    assert min(steps) > 0
    away = [difference(pictures[0], picture) for picture in pictures]
    assert all(later > earlier - 0.02 * away[-1] for earlier, later in pairwise(away))


@pytest.mark.parametrize("name", IDENTITY)
def test_each_number_of_identity_is_drawn(name):
    fixed = {**PLAIN, "turn": 0.0, "hat": "cap" if name == "hat_hue" else "none", "glasses": "glasses" if name == "frames" else "none"}
    low, high = (render(sample_face(rng(2), **{**fixed, name: v})) for v in (-1.0, 1.0))
    assert difference(low, high) > 0.02


@pytest.mark.parametrize("name", CATEGORICAL)
def test_each_categorical_value_looks_different(name):
    for seed in range(3):
        fixed = {"style": "straight", "hat": "none", "glasses": "none", "age": 0.2, "turn": 0.0, "hair_length": 0.6}
        pictures = [render(sample_face(rng(seed), **{**fixed, name: value})) for value in CATEGORICAL[name]]
        assert min(changed(a, b) for k, a in enumerate(pictures) for b in pictures[:k]) > 150


@pytest.mark.parametrize("skin", (0.0, 0.5, 1.0))
def test_features_stand_out_on_every_skin(skin):
    """Brows, lids, nose and mouth differ from the skin around them by enough to be read, on every tone."""
    face = sample_face(rng(4), **PLAIN, beard=0.0, skin=skin, light=0.0, turn=0.0, hair="black", age=0.2, fringe=-0.8, smile=0.4, mouth=0.2)
    grey = render(face).astype(float).mean(-1)[100:190, 85:171]
    assert np.median(grey) - grey.min() > 35
    assert np.percentile(grey, 97) - np.percentile(grey, 3) > 40


def test_what_cannot_be_seen_is_not_judged():
    bald = sample_face(rng(), style="bald", beard=0.0)
    assert not {"hair", "hair_length"} & visible(bald)
    assert "style" in visible(bald)
    assert "eyes" not in visible(sample_face(rng(), glasses="sunglasses"))
    assert "hair" not in visible(sample_face(rng(), age=0.9))
    seen = visible(sample_face(rng(), style="wavy", hat="none", glasses="none", age=0.1, hair_length=0.6))
    assert seen >= {*CATEGORICAL, *CONTINUOUS}
    assert {"iris", "fringe"} <= seen
    assert not {"frames", "hat_hue"} & seen


def test_what_is_not_seen_does_not_change_the_picture():
    """Attributes that `visible` leaves out do not show, or hardly."""
    for style in ("bald", "bun"):
        low, high = (render(sample_face(rng(5), hat="none", style=style, hair_length=value)) for value in (0.0, 1.0))
        assert np.array_equal(low, high)
    black, pink = (render(sample_face(rng(5), hat="none", style="bald", beard=0.0, hair=value)) for value in ("black", "pink"))
    assert changed(black, pink) < 300  # the brows' tint


def test_captions_say_what_they_mean():
    source = rng(7)
    pairs = [told(sample_face(source), source) for _ in range(2000)]
    heard = said_in([text for text, _ in pairs])
    for k, (text, said) in enumerate(pairs):
        for name, values in CATEGORICAL.items():
            assert heard[name][k] == said.get(name, len(values)), (name, text)
        for name in CONTINUOUS:
            assert heard[name][k] == pytest.approx(said.get(name, math.nan), nan_ok=True), (name, text)


def test_captions_are_true_of_their_faces():
    source = rng(8)
    for _ in range(1000):
        face = sample_face(source)
        _, said = told(face, source)
        assert set(said) <= visible(face)
        for name, meaning in said.items():
            if name in CATEGORICAL:
                assert CATEGORICAL[name][meaning] == face.labels[name]
            else:
                low, high = CONTINUOUS[name]
                assert abs(face.numbers[name] - meaning) <= 0.26 * (high - low), name


def test_captions_speak_of_everything_in_known_words():
    source = rng(9)
    texts = [caption(sample_face(source), source) for _ in range(2000)]
    assert not any(unknown_words(text) for text in texts)
    assert max(len(words_to_ids(text)) for text in texts) <= MAX_TOKENS - 2
    assert 0.05 < np.mean([len(text.split(",")) <= 2 and len(text.split()) <= 8 for text in texts]) < 0.35
    said = said_in(texts)
    for name, values in CATEGORICAL.items():
        assert set(said[name]) == set(range(len(values) + 1)), name
    for name in CONTINUOUS:
        assert np.isfinite(said[name]).mean() > 0.1, name
        assert len(set(np.array(said[name])[np.isfinite(said[name])])) >= 3, name
    used = {word for text in texts for word in words_to_ids(text)}
    assert len(used) > 0.9 * (len(VOCABULARY) - 2)


def test_words_have_ids_of_their_own_and_unknown_ones_are_listed():
    assert sorted(VOCABULARY.values()) == list(range(len(VOCABULARY)))
    assert {START, END} == {0, 1}
    assert words_to_ids("A SMILING, zorbic person") == [VOCABULARY[word] for word in ("a", "smiling", "person")]
    assert unknown_words("a smiling zorbic person") == ["zorbic"]


@pytest.mark.parametrize(
    "text, name, meaning",
    [
        ("portrait of an old woman with long curly red hair", "hair", 3),
        ("long curly red hair", "style", 3),
        ("long curly red hair", "hair_length", 0.775),
        ("blue shirt, no hat", "hat", 0),
        ("a knitted hat", "hat", 3),
        ("red hat and black shirt", "shirt", 1),
        ("no hair", "style", 0),
        ("without a beard", "beard", 0.0),
        ("a long beard", "beard", 0.9),
        ("slight smile", "smile", 0.3),
        ("no smile", "smile", 0.0),
        ("lit from the left, light skin", "skin", 0.15),
        ("very dark skin", "skin", 0.925),
        ("grey hair", "age", 0.875),
        ("grey background", "background", 1),
        ("dark glasses", "glasses", 2),
    ],
)
def test_phrases_that_people_type_are_heard(text, name, meaning):
    assert said_in([text])[name][0] == pytest.approx(meaning)


def test_a_text_that_says_nothing_says_nothing():
    said = said_in(["a portrait of a person", ""])
    assert all(said[name] == [len(values)] * 2 for name, values in CATEGORICAL.items())
    assert all(np.isnan(said[name]).all() for name in CONTINUOUS)


def test_a_prompt_asks_for_what_is_wanted():
    for name, values in CATEGORICAL.items():
        for k, value in enumerate(values):
            said = said_in([prompt_for(**{name: value})])
            assert said[name] == [k]
            assert all(said[other] == [len(CATEGORICAL[other])] for other in CATEGORICAL if other != name)
    for name, (low, high) in CONTINUOUS.items():
        for value in np.linspace(low, high, 9):
            said = said_in([prompt_for(**{name: float(value)})])
            assert abs(said[name][0] - value) <= 0.21 * (high - low), (name, value)
    assert prompt_for(glasses="sunglasses", smile=0.9) == "a portrait, sunglasses, big smile"
    with pytest.raises(ValueError, match="hat: 'crown'"):
        prompt_for(hat="crown")
    with pytest.raises(ValueError, match="tail: no such attribute"):
        prompt_for(tail=1.0)
