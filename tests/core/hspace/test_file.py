"""Files of directions: what is saved loads back bit for bit, what is damaged is refused."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pack.core.hspace.direction import Direction, Family
from pack.core.hspace.file import DEPTH, PARTS, _parsed, direction_tensors, load_direction
from pack.core.hspace.network import ImplicitNetwork
from pack.core.hspace.released import block_in, released_direction
from pack.core.hspace.trained import TrainedDirection, mixed
from pack.tests.released import CHANNELS, EMBEDDED, weights

FAMILY = Family("SD15", "EPS", 6)


def table(seed):
    return Direction(
        torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(seed)), (10.0, 1 / 3), FAMILY, "random", {"seed": str(seed)}
    )


def trained(seed):
    generator, network = torch.Generator().manual_seed(seed), ImplicitNetwork(6, 1 / 3)
    for weight in network.parameters():
        nn.init.normal_(weight, generator=generator)
    return TrainedDirection(network.requires_grad_(False), table(100 + seed))


def nested():
    inner = mixed([table(2), trained(3)], [0.1, 2.0], orthogonalise=True)
    return mixed([trained(1), inner, table(4)], [1 / 3, -0.5, 1.0], keep_size=True)


def chain(length):
    result = trained(0)
    for seed in range(1, length + 1):
        result = mixed([result, table(seed)], [1.0, 0.5])
    return result


def loaded(folder, tensors, metadata):
    save_file(tensors, folder / "x.safetensors", metadata)
    return load_direction(folder / "x.safetensors")


def assert_same(one, two):
    """As an edit uses them: on a device, where weights lie as in memory, not as in the file."""
    one, two = one.on(torch.device("cpu")), two.on(torch.device("cpu"))
    h = torch.randn(3, 6, 5, 3, generator=torch.Generator().manual_seed(9))
    for sigma in (20.0, 10.0, 2.0, 1 / 3, 0.01):
        assert torch.equal(one.shift(h, sigma), two.shift(h, sigma))
    assert torch.equal(one.mean().shifts, two.mean().shifts)
    assert (one.family, one.method, one.notes, one.mean().sigmas) == (two.family, two.method, two.notes, two.mean().sigmas)


@pytest.mark.parametrize(
    "direction",
    [trained(1), mixed([trained(1), table(2)], [1.0, -2.0]), nested(), chain(DEPTH)],
    ids=["trained", "mixed", "nested", "chain"],
)
def test_a_direction_with_networks_loads_back_bit_for_bit(tmp_path, direction):
    tensors, metadata = direction_tensors(direction)
    back = loaded(tmp_path, tensors, metadata)
    assert_same(back, direction)
    assert metadata["version"] == "2"
    assert type(back) is type(direction)
    assert not any(
        w.requires_grad for part in getattr(back, "parts", [back]) if isinstance(part, TrainedDirection) for w in part.network.parameters()
    )


def test_what_a_loaded_direction_saves_is_the_same_file(tmp_path):
    tensors, metadata = direction_tensors(nested())
    again, same = direction_tensors(loaded(tmp_path, tensors, metadata))
    assert same == metadata
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_a_direction_twice_in_a_mix_loads_back(tmp_path):
    one = trained(1)
    mix = mixed([one, mixed([one, table(2)], [1.0, 1.0])], [1.0, -2.0])
    assert_same(loaded(tmp_path, *direction_tensors(mix)), mix)


@pytest.mark.parametrize(
    "direction", [chain(DEPTH + 1), mixed([trained(0), *map(table, range(PARTS))], [1.0] * (PARTS + 1))], ids=["deep", "wide"]
)
def test_a_mix_too_large_to_be_read_back_is_not_written(direction):
    with pytest.raises(ValueError, match="direction: a mix has more than"):
        direction_tensors(direction)


@pytest.mark.parametrize("direction", [table(1), mixed([table(1), table(2)], [1.0, 2.0])], ids=["table", "mixed"])
def test_tables_alone_still_write_version_1(tmp_path, direction):
    tensors, metadata = direction_tensors(direction)
    assert metadata["version"] == "1"
    assert "tree" not in metadata
    assert set(tensors) == {"shifts", "sigmas"}
    assert_same(loaded(tmp_path, tensors, metadata), direction)


TENSORS = {
    "network tensor missing": lambda t: t.pop("0.network.scale"),
    "table missing": lambda t: t.pop("1.shifts"),
    "of another shape": lambda t: t.update({"0.network.time.bias": torch.zeros(5)}),
    "of fewer dimensions": lambda t: t.update({"0.network.enter.weight": torch.zeros(6, 6)}),
    "levels that do not fit": lambda t: t.update({"1.sigmas": torch.ones(3)}),
    "extra in the network": lambda t: t.update({"0.network.more": torch.zeros(1)}),
    "extra direction": lambda t: t.update({"7.shifts": t["1.shifts"].clone(), "7.sigmas": t["1.sigmas"].clone()}),
    "network of a table": lambda t: t.update(
        {key.replace("0.", "1.", 1): value.clone() for key, value in t.items() if key.startswith("0.network")}
    ),
    "NaN in the network": lambda t: t["0.network.enter.weight"].fill_(math.nan),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_no_direction_s_are_refused(tmp_path, kind):
    tensors, metadata = direction_tensors(nested())
    TENSORS[kind](tensors)
    with pytest.raises(ValueError, match="file: x.safetensors"):
        loaded(tmp_path, tensors, metadata)


def test_parts_that_make_a_huge_mix_are_refused_before_it_is_made(tmp_path):
    """Small tables: one with a large shift, one with many levels; the mix would have that shift at each of these."""
    large, many = (1, 6, 2048, 2048), (4096, 6, 1, 1)
    shapes = {"0.shifts": large, "0.sigmas": (1,), "1.shifts": many, "1.sigmas": (4096,)}
    leaf = {"trained": False, "method": "PCA", "notes": {}}
    tree = {
        "parts": [leaf | {"number": 0}, leaf | {"number": 1}],
        "weights": [1.0, 1.0],
        "orthogonalise": False,
        "keep_size": False,
        "notes": {},
    }
    about = {"family": "SD15", "prediction": "EPS", "channels": "6", "method": "combination", "notes": "{}", "version": "2"}
    with pytest.raises(ValueError, match="its parts make a larger mix than any direction is"):
        _parsed({**about, "tree": json.dumps(tree)}, shapes)


def deep(tree):
    for _ in range(DEPTH):
        tree = {"parts": [tree], "weights": [1.0], "orthogonalise": False, "keep_size": False, "notes": {}}
    return tree


def mix(**changes):
    return lambda tree: {**tree, **changes}


def leaf(**changes):
    return lambda tree: {**tree, "parts": [{**tree["parts"][0], **changes}, *tree["parts"][1:]]}


TREES = {
    "null": lambda tree: None,
    "a number": lambda tree: 5,
    "text": lambda tree: "parts",
    "a list": lambda tree: [tree],
    "empty": lambda tree: {},
    "deep": deep,
    "number negative": leaf(number=-1),
    "number boolean": leaf(number=False),
    "number text": leaf(number="0"),
    "number taken": leaf(number=1),
    "number unknown": leaf(number=9),
    "trained a number": leaf(trained=1),
    "trained not": leaf(trained=False),
    "method null": leaf(method=None),
    "weights too few": mix(weights=[1.0]),
    "weights too many": mix(weights=[1.0] * 4),
    "weights NaN": mix(weights=[1.0, math.nan, 1.0]),
    "weights Inf": mix(weights=[1.0, math.inf, 1.0]),
    "weights text": mix(weights=["1", "1", "1"]),
    "weights huge": mix(weights=[1, 10**400, 1]),
    "weights a number": mix(weights=3),
    "no parts": mix(parts=[], weights=[]),
    "parts null": mix(parts=None),
    "parts text": mix(parts="abc"),
    "parts a number": mix(parts=3),
    "parts a mapping": mix(parts={"a": 0, "b": 1, "c": 2}),
    "parts numbers": mix(parts=[0, 1, 2]),
    "switch a number": mix(keep_size=1),
    "notes not text": mix(notes={"a": 1}),
    "leaf's notes not text": leaf(notes={"a": [1]}),
    "notes a list": mix(notes=[]),
    "notes null": mix(notes=None),
    "leaf's notes text": leaf(notes="a"),
}
TEXTS = {
    "missing": None,
    "nothing": "",
    "not JSON": "{'parts': 1}",
    "cut short": '{"parts": [',
    "deep lists": "[" * 10**5,
    "deep mixes": '{"parts":[' * 10**5,
}


@pytest.mark.parametrize("kind", [*TREES, *TEXTS])
def test_a_garbled_tree_is_refused(tmp_path, kind):
    tensors, metadata = direction_tensors(nested())
    tree = json.loads(metadata.pop("tree"))
    text = TEXTS[kind] if kind in TEXTS else json.dumps(TREES[kind](tree))
    metadata |= {} if text is None else {"tree": text}
    with pytest.raises(ValueError, match="file: x.safetensors"):
        loaded(tmp_path, tensors, metadata)


def damage(kind, path):
    tensors, metadata = direction_tensors(table(1))
    changes = {
        "foreign": {"format": "lora"},
        "newer": {"version": "99"},
        "channels": {"channels": "64"},
        "notes": {"notes": "[" * 3000},
        "nonsense": {"version": "one"},
    }
    if kind == "shapes":
        tensors["sigmas"] = tensors["sigmas"][:1]
    if kind == "missing":
        del metadata["family"]
    if kind == "nan":
        tensors["shifts"][0, 0] = float("nan")
    if kind == "order":
        tensors["sigmas"] = tensors["sigmas"].flip(0).contiguous()
    save_file(tensors, path, {**metadata, **changes.get(kind, {})})
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    if kind == "garbage":
        path.write_bytes(os.urandom(500))
    if kind == "header":
        path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    if kind == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    "kind",
    ["foreign", "newer", "channels", "notes", "nonsense", "shapes", "missing", "nan", "order", "truncated", "garbage", "header", "empty"],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, kind):
    damage(kind, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="file: x.safetensors|direction:"):
        load_direction(tmp_path / "x.safetensors")


@pytest.mark.parametrize("fault", [TypeError, AttributeError, KeyError, RuntimeError])
def test_a_fault_of_the_program_is_not_reported_as_the_file_s(tmp_path, monkeypatch, fault):
    def faulty(self):
        raise fault("ours")

    monkeypatch.setattr(Direction, "__post_init__", faulty)
    tensors = {"shifts": torch.zeros(1, 6, 4, 4), "sigmas": torch.ones(1)}
    metadata = {"format": "semantic_latents.direction", "version": "1", "family": "SD15", "prediction": "EPS", "channels": "6"}
    with pytest.raises(fault, match="ours"):
        loaded(tmp_path, tensors, {**metadata, "method": "random", "notes": "{}"})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="file: x.safetensors cannot be read"):
        load_direction(tmp_path / "x.safetensors")


# --- blocks that look at the time embedding: version 3


def block(form, seed=0):
    return released_direction(*block_in(weights(form, seed=seed)), "smiling_LC_CelebA_HQ_t999_ninv40")


def wide_table(scale=1.0):
    generator = torch.Generator().manual_seed(3)
    shifts = scale * torch.randn(2, CHANNELS, 4, 4, generator=generator)
    return Direction(shifts, (9.0, 1.0), Family("Pixel 0123456789ab", "EPS", CHANNELS), "PCA", {})


def wide_trained():
    return TrainedDirection(ImplicitNetwork(CHANNELS).requires_grad_(False), wide_table())


def nested_blocks():
    inner = mixed([wide_trained(), block("ADM", 1), wide_table()], [0.1, 2.0, 1.0], orthogonalise=True)
    return mixed([block("DDPM"), inner, block("DDPM", 2)], [1 / 3, -0.5, 1.0], keep_size=True)


BLOCKS = {"DDPM": lambda: block("DDPM"), "ADM": lambda: block("ADM"), "nested": nested_blocks}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_direction_with_blocks_loads_back_bit_for_bit(tmp_path, kind):
    direction = BLOCKS[kind]()
    tensors, metadata = direction_tensors(direction)
    back = loaded(tmp_path, tensors, metadata)
    h, emb = (torch.randn(shape, generator=torch.Generator().manual_seed(4)) for shape in ((2, CHANNELS, 5, 3), (2, EMBEDDED)))
    for sigma in (20.0, 2.0, 0.01):
        assert torch.equal(back.shift(h, sigma, emb), direction.shift(h, sigma, emb))
    assert (back.family, back.method, back.notes, back.embedded) == (direction.family, direction.method, direction.notes, EMBEDDED)
    assert type(back) is type(direction)
    assert metadata["version"] == "3"
    again, same = direction_tensors(back)
    assert same == metadata
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def in_tree(**changes):
    return lambda tensors, metadata: metadata.update(tree=json.dumps({**json.loads(metadata["tree"]), **changes}))


def reshaped(key, change):
    return lambda tensors, metadata: tensors.update({f"0.block.{key}": change(tensors[f"0.block.{key}"]).contiguous()})


BLOCK_DAMAGE = {
    "no known form": (in_tree(block="LDM"), "part 0 has garbled notes, or a block of no known form"),
    "a form that is no text": (in_tree(block=1), "block is missing or no str"),
    "notes": (in_tree(notes={"a": 1}), "part 0 has garbled notes"),
    "the other form": (in_tree(block="ADM"), "which no direction has"),
    "a network in its place": (in_tree(trained=True), "which no direction has"),
    "one tensor more": (lambda tensors, metadata: tensors.update(more=torch.ones(1)), "which no direction has"),
    "one tensor less": (lambda tensors, metadata: tensors.pop("0.block.norm.bias"), "which no direction has"),
    "another width inside": (reshaped("enter.weight", lambda value: value[:, :32]), "which no direction has"),
    "another width of h": (lambda tensors, metadata: metadata.update(channels="32"), "which no direction has"),
    "channels without 32 groups": (lambda tensors, metadata: metadata.update(channels="65"), "which no direction has"),
    "no map of time": (reshaped("time.weight", lambda value: value[:, :0]), "which no direction has"),
    "NaN": (reshaped("time.bias", lambda value: value * float("nan")), "0.block.time.bias contain NaN or Inf"),
}


@pytest.mark.parametrize("kind", BLOCK_DAMAGE)
def test_a_damaged_block_is_refused(tmp_path, kind):
    tensors, metadata = direction_tensors(block("DDPM"))
    damage, message = BLOCK_DAMAGE[kind]
    damage(tensors, metadata)
    with pytest.raises(ValueError, match=f"file: x.safetensors is damaged: .*{message}"):
        loaded(tmp_path, tensors, metadata)


def test_a_mix_of_blocks_of_two_widths_is_refused(tmp_path):
    tensors, metadata = direction_tensors(mixed([block("DDPM"), block("ADM")], [1.0, 1.0]))
    tensors["1.block.time.weight"] = tensors["1.block.time.weight"][:, :64].contiguous()
    with pytest.raises(ValueError, match="file: x.safetensors .*time embeddings of different widths"):
        loaded(tmp_path, tensors, metadata)


def test_tables_beside_a_block_whose_sum_is_not_finite_are_refused(tmp_path):
    tensors, metadata = direction_tensors(mixed([block("DDPM"), mixed([wide_trained(), wide_table()], [1.0, 1.0])], [1.0, 1.0]))
    metadata["tree"] = metadata["tree"].replace(
        '"weights": [1.0, 1.0], "orthogonalise": false', '"weights": [1e38, 1e38], "orthogonalise": false'
    )
    tensors["1.shifts"] *= 100
    with pytest.raises(ValueError, match="file: x.safetensors .*NaN or Inf"):
        loaded(tmp_path, tensors, metadata)


def test_a_part_of_an_earlier_version_may_say_block(tmp_path):
    """An unknown key was passed over there, and still is."""
    tensors, metadata = direction_tensors(trained(1))
    tree = {**json.loads(metadata["tree"]), "block": "ADM"}
    assert_same(loaded(tmp_path, tensors, {**metadata, "tree": json.dumps(tree)}), trained(1))
