"""Asyrp's released blocks: read by keys and shapes, computed by the paper's formula, refused where they are something else."""

import os
import pickle

import pytest
import torch

from pack.core.hspace.delta_block import DeltaBlock
from pack.core.hspace.direction import Direction, Family
from pack.core.hspace.published import load_published
from pack.core.hspace.released import block_in, released_direction
from pack.core.hspace.trained import BlockDirection, MixedDirection, TrainedDirection, in_form, mixed
from pack.tests.core.hspace.random_directions import network
from pack.tests.released import CHANNELS, EMBEDDED, FORMS, file_of, shift_of, weights

NAME = "smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth"


def read(folder, value, name=NAME):
    torch.save(value, folder / name)
    return load_published(folder / name, "female")


def some(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def h_and_emb(batch=3):
    return 2 * some(batch, CHANNELS, 5, 3), some(batch, EMBEDDED, seed=2)


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


def test_a_block_is_the_papers_formula(tmp_path, form):
    block, (h, emb) = weights(form), h_and_emb()
    direction = read(tmp_path, file_of(block))
    expected = shift_of(form, block, h, emb)
    torch.testing.assert_close(direction.shift(h, 3.0, emb), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(direction.shift(h[1:2], 0.1, emb[1:2]), expected[1:2], rtol=1e-5, atol=1e-5)
    assert (direction.shift(h, 3.0, emb.flip(0)) - expected).abs().max() > 0.05  # it looks at the embedding
    torch.testing.assert_close(direction.shift(h, 3.0, emb[:1]), shift_of(form, block, h, emb[:1].expand(3, -1)), rtol=1e-5, atol=1e-5)


def test_the_group_norms_are_those_of_the_form(form):
    """On values of tiny variance, what the norms add to it shows."""
    block, (h, emb) = weights(form), h_and_emb()
    for key in block:
        if key.endswith("bias") or key in ("temb_proj.weight", "emb_layers.1.weight"):
            block[key] = torch.zeros_like(block[key])
    if form == "ADM":
        block["in_layers.2.weight"] *= 1e-2
    direction = released_direction(*block_in(block), "x")
    torch.testing.assert_close(direction.shift(1e-3 * h, 3.0, emb), shift_of(form, block, 1e-3 * h, emb), rtol=1e-4, atol=1e-5)


def test_without_its_map_a_block_does_not_look_at_the_embedding(tmp_path, form):
    block, (h, emb) = weights(form), h_and_emb()
    block[{"DDPM": "temb_proj", "ADM": "emb_layers.1"}[form] + ".weight"].zero_()
    direction = read(tmp_path, file_of(block))
    assert torch.equal(direction.shift(h, 3.0, emb), direction.shift(h, 3.0, -emb))


def test_a_block_says_what_it_fits_and_where_it_is_from(tmp_path, form):
    direction = read(tmp_path, file_of(weights(form)))
    assert isinstance(direction, BlockDirection)
    assert (direction.family, direction.embedded, direction.method) == (Family("Pixel", "EPS", CHANNELS), EMBEDDED, "published")
    assert direction.notes == {"target": "smiling", "source": "Asyrp (Kwon et al. 2023), on CelebA_HQ"}
    assert read(tmp_path, file_of(weights(form)), "mine.pth").notes == {"target": "mine", "source": "Asyrp (Kwon et al. 2023)"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_and_values_of_other_types(tmp_path, form, dtype):
    block, (h, emb) = weights(form), h_and_emb()
    kept = {key: value.to(dtype) for key, value in block.items()}
    direction = read(tmp_path, file_of(kept))
    expected = shift_of(form, {key: value.float() for key, value in kept.items()}, h, emb)
    torch.testing.assert_close(direction.shift(h, 3.0, emb), expected, rtol=1e-5, atol=1e-5)
    rounded = [value.to(dtype).float() for value in (h, emb)]
    half = direction.shift(h.to(dtype), 3.0, emb.to(dtype))
    assert half.dtype == torch.float32
    assert torch.equal(half, direction.shift(rounded[0], 3.0, rounded[1]))


def test_a_block_without_the_optimisers_state_is_read(tmp_path, form):
    block, (h, emb) = weights(form), h_and_emb()
    bare, whole = read(tmp_path, block), read(tmp_path, file_of(block))
    assert torch.equal(bare.shift(h, 3.0, emb), whole.shift(h, 3.0, emb))


def test_an_embedding_that_is_missing_or_of_another_width_is_named(tmp_path, form):
    direction, (h, emb) = read(tmp_path, file_of(weights(form))), h_and_emb()
    with pytest.raises(ValueError, match="direction: it looks at a time embedding of 128 channels, .* gets none"):
        direction.shift(h, 3.0)
    with pytest.raises(ValueError, match="direction: it looks at a time embedding of 128 channels, .* gets one of 64"):
        direction.shift(h, 3.0, emb[:, :64])


def test_on_a_device_a_block_has_weights_of_its_own(tmp_path, form):
    direction, (h, emb) = read(tmp_path, file_of(weights(form))), h_and_emb()
    moved, before = direction.on(torch.device("cpu")), direction.shift(h, 3.0, emb)
    assert torch.equal(moved.shift(h, 3.0, emb), before)
    torch.nn.init.zeros_(moved.block.leave.weight)
    assert torch.equal(direction.shift(h, 3.0, emb), before)
    assert not torch.equal(moved.shift(h, 3.0, emb), before)


# --- mixes


def table(name="Pixel 0123456789ab"):
    return Direction(some(1, CHANNELS, 4, 4, seed=5), (1.0,), Family(name, "EPS", CHANNELS), "PCA", {"target": "a"})


def test_a_mix_with_blocks_is_the_weighted_sum_of_their_shifts(tmp_path):
    one, two = (read(tmp_path, file_of(weights(form, seed=i)), f"{form}.pth") for i, form in enumerate(FORMS))
    h, emb = h_and_emb()
    mix = mixed([one, mixed([two, table()], [1.0, 2.0])], [0.5, -1.0])
    expected = 0.5 * one.shift(h, 3.0, emb) - two.shift(h, 3.0, emb) - 2 * table().shift(h, 3.0)
    torch.testing.assert_close(mix.shift(h, 3.0, emb), expected)
    assert (mix.family, mix.embedded) == (table().family, EMBEDDED)
    assert mix.notes == {"parts": "0.5 x DDPM + -1 x combination"}
    rest = mixed([table(), one], [0.0, 1.0], orthogonalise=True).shift(h, 3.0, emb).flatten(1)
    shared = table().shift(h, 3.0).expand(h.shape).flatten(1)
    assert ((rest * shared).sum(1).abs() < 1e-5 * rest.norm(dim=1) * shared.norm(dim=1)).all()


def test_a_mix_belongs_to_the_one_checkpoint_that_it_names(tmp_path):
    block = read(tmp_path, file_of(weights("DDPM")))
    trained = TrainedDirection(network(1), Direction(some(1, 6, 4, 4), (1.0,), Family("Pixel", "EPS", 6), "training"))
    for parts in ([block, table(), table("Pixel other")], [table(), block, table("Pixel other")], [block, trained], [block, table("SD15")]):
        with pytest.raises(ValueError, match="directions: found on .* needed here for"):
            MixedDirection(tuple(parts), (1.0,) * len(parts), False, False)
    wider = read(tmp_path, file_of(weights("DDPM", embedded=64)))
    with pytest.raises(ValueError, match=r"directions: they look at time embeddings of different widths"):
        mixed([block, wider], [1.0, 1.0])


def test_a_block_has_no_mean(tmp_path):
    block = read(tmp_path, file_of(weights("ADM")))
    for direction in (block, mixed([table(), block], [1.0, 1.0])):
        assert in_form(direction, "full") is direction
        for other in ("mean", "global"):
            with pytest.raises(ValueError, match="form, average_over_time: this direction is a block"):
                in_form(direction, other)


# --- what is refused


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned_by_a_block",))


def without(key):
    return lambda block: {name: value for name, value in block.items() if name != key}


def with_one(key, change):
    return lambda block: {name: change(value) if name == key else value for name, value in block.items()}


DAMAGE = {
    "a key is missing": (without("norm2.bias"), "a block of the DDPM form lacks or does not have norm2.bias"),
    "a key too many": (lambda block: {**block, "more": torch.ones(2)}, "lacks or does not have more"),
    "a key that is no text": (lambda block: {**block, 3: torch.ones(2)}, "lacks or does not have 3"),
    "no tensor": (with_one("conv2.bias", lambda value: [1.0]), "its weights are no real numbers"),
    "whole numbers": (with_one("conv2.bias", lambda value: value.long()), "its pickle asks for more than tensors"),
    "complex": (with_one("conv2.bias", lambda value: value.cfloat()), "cannot be read as"),
    "convolutions of 3 x 3": (with_one("conv1.weight", lambda value: value.repeat(1, 1, 3, 3)), r"conv1.weight is \(64, 64, 3, 3\)"),
    "a bias of another length": (with_one("temb_proj.bias", lambda value: value[:32]), r"temb_proj.bias is \(32,\), not \(64,\)"),
    "no matrix of time": (with_one("temb_proj.weight", lambda value: value[0]), r"time embedding has the shape \(128,\)"),
    "nothing of time": (with_one("temb_proj.weight", lambda value: value[:, :0]), r"time embedding has the shape \(64, 0\)"),
    "NaN": (with_one("conv1.weight", lambda value: value * float("nan")), "is damaged: its conv1.weight contain NaN or Inf"),
    "code": (with_one("conv1.bias", lambda value: Evil()), "its pickle asks for more than tensors"),
    "a sparse one": (with_one("conv1.bias", lambda value: value.to_sparse()), "cannot be read as a published direction"),
    "one without values": (with_one("conv1.bias", lambda value: value.to("meta")), "cannot be read as a published direction"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_block_is_refused_by_name(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    change, message = DAMAGE[kind]
    for value in (file_of(change(weights("DDPM"))), change(weights("DDPM"))):
        with pytest.raises(ValueError, match=f"(?s)file: {NAME} .*{message}"):
            read(tmp_path, value)
    assert not (tmp_path / "pwned_by_a_block").exists()


def test_channels_that_have_no_32_groups_are_refused(tmp_path, form):
    with pytest.raises(ValueError, match=r"time embedding has the shape \(48, 128\); \(c, e\) with c a multiple of 32"):
        read(tmp_path, file_of(weights(form, channels=48)))


def test_several_blocks_are_refused(tmp_path, form):
    with pytest.raises(ValueError, match="it has several blocks in it"):
        read(tmp_path, file_of(weights(form), **{"1": weights(form)}))


@pytest.mark.parametrize(
    "value", [{}, [], None, {"0": None}, {"0": torch.ones(2)}, {"0": {"a": torch.ones(2)}}, torch.ones(3)], ids=range(7)
)
def test_a_pickle_of_something_else_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match=f"file: {NAME} holds neither the published h-space vectors .* nor a block of Asyrp"):
        read(tmp_path, value)


def test_a_plain_pickle_and_a_cut_file_are_refused(tmp_path):
    path = tmp_path / NAME
    torch.save(file_of(weights("DDPM")), path)
    whole = path.read_bytes()
    for blob in (whole[: len(whole) // 2], whole[:10], b"", pickle.dumps(Evil()), os.urandom(500)):
        path.write_bytes(blob)
        with pytest.raises(ValueError, match=f"file: {NAME} cannot be read as a published direction"):
            load_published(path, "female")


def test_weights_that_are_larger_than_their_file_are_refused_before_they_are_allocated(tmp_path, monkeypatch):
    """Views that repeat a few numbers: a block of 4096 channels in some thousand bytes."""
    block = {key: torch.ones(1).expand([4096 if side > 1 else 1 for side in value.shape]) for key, value in weights("DDPM").items()}
    monkeypatch.setattr(DeltaBlock, "of", lambda *args: pytest.fail("it was allocated"))
    with pytest.raises(ValueError, match=f"file: {NAME} claims weights that are larger than the file"):
        read(tmp_path, file_of(block))


def test_a_file_that_is_larger_than_any_block_is_not_opened(tmp_path):
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ValueError, match="16777217 bytes; the published vectors have 2.6 million, and Asyrp's blocks 3.2"):
        load_published(tmp_path / NAME, "female")
