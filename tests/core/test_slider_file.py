"""Files of sliders from words: what comes with a prompt loads back equal, and what is damaged or foreign is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pack.core.dial import Dial
from pack.core.files import OtherFormat
from pack.core.hspace.injection import Window
from pack.core.slider_file import PARTS, KeptSlider, load_slider, slider_tensors
from pack.tests.wiring import random

PLACES = ("cross-attention", "prediction")


def prompt(seed, dtype=torch.float32, **extras):
    return [[random(seed, 1, 7, 6).to(dtype), {"pooled_output": random(seed + 10, 1, 4), **extras}]]


def slider(**changes):
    prompts = {"plus": [*prompt(1), *prompt(2)], "minus": prompt(3), "opposite": prompt(4)}
    words = {"without": "a face", "wanted": "a smiling face", "opposite": "a sad face"}
    settings = dict(name="smile", words=words, place="prediction", window=Window(0.15, 0.8, 0.1), family="SDXL", prompts=prompts)
    settings |= dict(focus=0.7, hold_rest=True, spread=True, dial=Dial(((-1.0, -2.5), (0.0, 0.0), (0.5, 0.1), (1.0, 3.0))))
    return KeptSlider(**{**settings, **changes})


def kept(one, path):
    tensors, metadata = slider_tensors(one)
    save_file(tensors, path, metadata)
    return load_slider(path, PLACES)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_all_that_comes_with_a_prompt_loads_back_equal(tmp_path, dtype):
    shared = random(7, 2, 3, 4)
    extras = dict(
        attention_mask=torch.tensor([[1, 1, 0]]),
        ids=torch.tensor([[-(2**40), 2**31, 7]]),
        flags=torch.tensor([True, False]),
        number=0.1,
        whole=1024,
        on=True,
        nothing=None,
        text="a\u00e9\n",
        a_view=shared[:, 1].T,
        again=shared,
        scalar=torch.tensor(3.5),
    )
    one = slider(prompts={"plus": prompt(1, dtype, **extras), "minus": prompt(2, dtype)})
    found = kept(one, tmp_path / "x.safetensors")
    assert same(found.prompts, one.prompts)
    names = ("name", "words", "place", "window", "family", "focus", "hold_rest", "spread", "dial")
    assert [getattr(found, name) for name in names] == [getattr(one, name) for name in names]


def test_the_file_says_what_it_is(tmp_path):
    assert same(kept(slider(), tmp_path / "x.safetensors").prompts, slider().prompts)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
    assert metadata["format"] == "semantic_latents.slider"
    assert (metadata["name"], metadata["place"], metadata["family"]) == ("smile", "prediction", "SDXL")
    assert json.loads(metadata["window"]) == {"start": 0.15, "end": 0.8, "ramp": 0.1}
    parts = ("plus.0", "plus.1", "minus.0", "opposite.0")
    assert keys == {f"{part}.{key}" for part in parts for key in ("embedding", "extras.pooled_output")}


@pytest.mark.parametrize(
    ("extras", "named"),
    [
        (dict(control=object()), "control"),
        (dict(hooks=[1], gligen=("position", object())), "hooks, gligen"),
        (dict(bad=torch.tensor([float("nan")])), "bad"),
        (dict(far=torch.tensor([2**60])), "far"),
        (dict(least=torch.tensor([-(2**63)])), "least"),
        (dict(complex=torch.zeros(1, dtype=torch.complex64)), "complex"),
        (dict(number=float("inf")), "number"),
        ({3: "a key that is no text"}, "3"),
    ],
)
def test_what_no_file_can_keep_is_refused_by_name(extras, named):
    with pytest.raises(ValueError, match=f"slider: its prompts carry {named}, which a file cannot keep"):
        slider_tensors(slider(prompts={"plus": [[random(1, 1, 7, 6), extras]], "minus": prompt(2)}))


@pytest.mark.parametrize("embedding", [torch.zeros(7, 6), torch.zeros(1, 0, 6), torch.full((1, 7, 6), float("nan"))])
def test_an_embedding_that_is_none_is_refused(embedding):
    with pytest.raises(ValueError, match="slider: its prompts carry an embedding of shape"):
        slider_tensors(slider(prompts={"plus": [[embedding, {}]], "minus": prompt(2)}))


def test_prompts_of_too_many_parts_or_too_long_texts_are_refused_when_saving():
    for prompts in ({"plus": prompt(1) * (PARTS + 1), "minus": prompt(2)}, {"plus": prompt(1, text="x" * 2**20), "minus": prompt(2)}):
        with pytest.raises(ValueError, match="slider: its prompts have more than 64 parts, or longer texts"):
            slider_tensors(slider(prompts=prompts))


def described(metadata, change):
    entry = json.loads(metadata["prompts"])
    change(entry)
    metadata["prompts"] = json.dumps(entry)


DAMAGE = {
    "newer": (lambda t, m: m.update(version="2"), "is of version '2'"),
    "missing": (lambda t, m: m.pop("family"), "lacks family"),
    "words": (lambda t, m: m.update(words="[1]"), "its words must be text"),
    "place": (lambda t, m: m.update(place="elsewhere"), "its place is none of cross-attention, prediction"),
    "window": (lambda t, m: m.update(window='{"start": 0.5, "end": 0.1, "ramp": 0}'), "start_percent, end_percent: got 0.5 to 0.1"),
    "no window": (lambda t, m: m.update(window="{}"), "start is missing or no float"),
    "focus": (lambda t, m: m.update(focus="1.5"), "its focus is no number from 0 to 1"),
    "hold_rest": (lambda t, m: m.update(hold_rest="1"), "its hold_rest is neither true nor false"),
    "spread": (lambda t, m: m.update(spread="null"), "its spread is neither true nor false"),
    "no hold_rest": (lambda t, m: m.pop("hold_rest"), "lacks hold_rest"),
    "dial": (lambda t, m: m.update(dial="[[0, 0], [1]]"), "its dial has marks that are no two numbers"),
    "dial that falls": (lambda t, m: m.update(dial="[[0, 0], [1, -1]]"), "a dial has 2 to 201 marks that rise"),
    "prompts": (lambda t, m: m.update(prompts="{"), "does not describe a slider"),
    "deep": (lambda t, m: m.update(prompts="[" * 5000), "nested too deeply"),
    "one side": (lambda t, m: described(m, lambda e: e.pop("minus")), "its prompts have to be plus, minus, opposite"),
    "another side": (lambda t, m: described(m, lambda e: e.update(more=[])), "its prompts have to be plus, minus, opposite"),
    "no part": (lambda t, m: described(m, lambda e: e.update(minus=[])), "a prompt has to have 1 to 64 parts"),
    "many parts": (lambda t, m: described(m, lambda e: e.update(minus=65 * e["minus"])), "a prompt has to have 1 to 64 parts"),
    "values": (lambda t, m: described(m, lambda e: e["plus"][0]["values"].update(a=[])), "its values must be numbers or texts"),
    "no embedding": (lambda t, m: described(m, lambda e: e["plus"][0]["tensors"].pop("embedding")), "a part has no embedding"),
    "type": (lambda t, m: described(m, lambda e: e["plus"][0]["tensors"].update(embedding=["c64", [1]])), "no type that is known"),
    "unhashable": (lambda t, m: described(m, lambda e: e["plus"][0]["tensors"].update(embedding=[[], [1]])), "no type that is known"),
    "sizes": (
        lambda t, m: described(m, lambda e: e["plus"][0]["tensors"].update(embedding=["float32", [-1, 2, 3]])),
        "no type that is known",
    ),
    "values of another type": (
        lambda t, m: described(m, lambda e: e["plus"][0]["tensors"].update(embedding=["int64", [1, 7, 6]])),
        "values that are none of their types",
    ),
    "tensor": (lambda t, m: t.pop("minus.0.embedding"), "its tensors have shapes"),
    "more": (lambda t, m: t.update(x=torch.zeros(1)), "its tensors have shapes"),
    "shapes": (lambda t, m: t.update({"minus.0.embedding": torch.zeros(7, 6)}), "its tensors have shapes"),
    "nan": (lambda t, m: t["minus.0.embedding"].fill_(float("nan")), "contain NaN or Inf"),
    "8 bits": (lambda t, m: t.update({"minus.0.embedding": torch.zeros(1, 7, 6, dtype=torch.int8)}), "no real numbers of 16 bits"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind):
    damage, words = DAMAGE[kind]
    tensors, metadata = slider_tensors(slider())
    damage(tensors, metadata)
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match="file: x.safetensors") as caught:
        load_slider(tmp_path / "x.safetensors", PLACES)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 600


def test_a_flat_embedding_is_refused_though_the_metadata_say_so(tmp_path):
    tensors, metadata = slider_tensors(slider())
    tensors["minus.0.embedding"] = torch.zeros(7, 6)
    described(metadata, lambda entry: entry["minus"][0]["tensors"].update(embedding=["float32", [7, 6]]))
    save_file(tensors, tmp_path / "x.safetensors", metadata)
    with pytest.raises(ValueError, match="its tensors have shapes"):
        load_slider(tmp_path / "x.safetensors", PLACES)


def test_another_format_is_told_apart(tmp_path):
    tensors, metadata = slider_tensors(slider())
    save_file(tensors, tmp_path / "x.safetensors", {**metadata, "format": "semantic_latents.attribute"})
    with pytest.raises(OtherFormat, match="holds no slider"):
        load_slider(tmp_path / "x.safetensors", PLACES)
