"""Files of pixel-space checkpoints: what is read, as it was, and what is refused by name before its weights are."""

import collections
import os
import pickle
import random
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from pack.core.pixel.file import load_checkpoint
from pack.tests.pixel import Reference, filled

SMALL = dict(width=32, multipliers=(1, 2), blocks=1, attention=(1,))


def weights(layout="DDPM", seed=0, **more):
    return filled(Reference(layout=layout, **SMALL, **more), seed).state_dict()


def saved(path, value, **how):
    torch.save(value, path, **how)
    return path


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def plain(tmp_path):
    """The checkpoint of weights() and what it holds."""
    save_file(weights(), tmp_path / "plain.safetensors")
    return load_checkpoint(tmp_path / "plain.safetensors")


WRAPPED = {
    "as they are": lambda w: w,
    "of DataParallel": lambda w: {f"module.{key}": value for key, value in w.items()},
    "twice wrapped": lambda w: {f"module.model.{key}": value for key, value in w.items()},
    "a state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "an average": lambda w: {"model": weights(seed=1), "ema": w, "step": 7},
    "the same twice": lambda w: {"model": w, "ema": w},
    "DDIM's list": lambda w: [
        {f"module.{key}": value for key, value in weights(seed=1).items()},
        {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
        3,
        4,
        w,
    ],
}


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_pickles_give_what_safetensors_give(tmp_path, plain, wrap, legacy, suffix):
    path = saved(tmp_path / f"net{suffix}", WRAPPED[wrap](weights()), _use_new_zipfile_serialization=not legacy)
    read = load_checkpoint(path)
    assert same(read.weights, plain.weights)
    assert (read.identity, read.configuration) == (plain.identity, plain.configuration)


def test_a_network_is_the_same_in_each_layout(tmp_path, plain):
    """The weights of DDPM's layout under diffusers' names."""
    own, other = Reference(layout="DDPM", **SMALL), Reference(layout="diffusers", **SMALL)
    filled(own)
    pairs = list(zip(own.modules_by_name.values(), other.modules_by_name.values(), strict=True))
    for one, copy in pairs:
        copy.load_state_dict({key: value.reshape(vars(copy)["_parameters"][key].shape) for key, value in one.state_dict().items()})
    save_file(other.state_dict(), tmp_path / "d.safetensors")
    read = load_checkpoint(tmp_path / "d.safetensors")
    assert same(read.weights, plain.weights)
    assert read.identity == plain.identity


def test_an_identity_is_that_of_the_weights(tmp_path, plain):
    for name, tensors in {"half": {k: v.half() for k, v in weights().items()}, "other": weights(seed=1)}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    assert load_checkpoint(tmp_path / "half.safetensors").identity == plain.identity
    assert load_checkpoint(tmp_path / "other.safetensors").identity != plain.identity


def test_of_a_predicted_variance_the_noise_is_kept(tmp_path):
    whole = weights("guided diffusion", outputs=6)
    save_file(whole, tmp_path / "v.safetensors")
    read = load_checkpoint(tmp_path / "v.safetensors")
    assert torch.equal(read.weights["out.2.weight"], whole["out.2.weight"][:3])
    assert torch.equal(read.weights["out.2.bias"], whole["out.2.bias"][:3])


class Runs:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "made"),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(tmp_path, legacy):
    path = saved(tmp_path / "evil.pt", {"state_dict": weights(), "more": Runs(tmp_path)}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"file: evil\.pt is no file of weights alone .* No code in it was run"):
        load_checkpoint(path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Runs(tmp_path)))
    with pytest.raises(ValueError, match=r"file: plain\.pt"):
        load_checkpoint(tmp_path / "plain.pt")
    assert not (tmp_path / "made").exists()


def test_a_network_without_all_its_weights_is_refused_by_their_names(tmp_path):
    some = weights()
    some.pop("mid.block_1.conv1.weight")
    with pytest.raises(ValueError, match=r"file: some\.pt .*lacks.*mid\.block_1\.conv1\.weight"):
        load_checkpoint(saved(tmp_path / "some.pt", some))
    with pytest.raises(ValueError, match=r"file: more\.pt .*no part.*alpha"):
        load_checkpoint(saved(tmp_path / "more.pt", {**weights(), "alpha": torch.ones(1)}))


@pytest.mark.parametrize(
    "value", [{}, [], 3, "text", {"a": 3}, {"a": {"b": torch.ones(1)}}, torch.ones(3), [[[[[[weights()]]]]]], {"w": torch.ones(3)}]
)
def test_other_pickles_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match=r"file: other\.pt"):
        load_checkpoint(saved(tmp_path / "other.pt", value))


def test_damaged_files_are_refused(tmp_path):
    good = {".pt": saved(tmp_path / "good.pt", weights()).read_bytes()}
    save_file(weights(), tmp_path / "good.safetensors")
    good[".safetensors"] = (tmp_path / "good.safetensors").read_bytes()
    for suffix, data in good.items():
        for name, bytes_ in {"empty": b"", "cut": data[: len(data) // 2], "text": b"hello", "head": data[:20]}.items():
            path = tmp_path / f"{name}{suffix}"
            path.write_bytes(bytes_)
            with pytest.raises(ValueError, match=f"file: {name}{suffix}"):
                load_checkpoint(path)


def test_values_that_are_no_numbers_are_refused(tmp_path):
    spoilt = weights()
    spoilt["conv_in.bias"][0] = float("nan")
    with pytest.raises(ValueError, match=r"conv_in\.bias contain NaN"):
        load_checkpoint(saved(tmp_path / "nan.pt", spoilt))
    with pytest.raises(ValueError, match=r"16 bits or more: conv_in\.bias"):
        load_checkpoint(saved(tmp_path / "int.pt", {**weights(), "conv_in.bias": torch.ones(32, dtype=torch.int64)}))


def test_files_that_claim_more_than_they_hold_are_refused(tmp_path):
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(saved(tmp_path / "good.pt", weights())) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(ValueError, match=r"packed\.pt is packed"):
        load_checkpoint(packed)
    wide = {**weights(), "mid.block_1.conv1.weight": torch.ones(1).expand(2**20, 2**20, 3, 3)}
    with pytest.raises(ValueError, match=r"claims tensors that are larger|do not fit each other"):
        load_checkpoint(saved(tmp_path / "wide.pt", wide))
    with pytest.raises(ValueError, match=r"claims tensors that are larger"):  # of a network that would fit itself
        load_checkpoint(saved(tmp_path / "virtual.pt", {key: torch.ones(1).expand(value.shape) for key, value in weights().items()}))


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_with_changed_bytes_is_read_or_refused_by_its_name(tmp_path, kind):
    """In the description of the tensors, where most of the damage lies: at both ends of the file."""
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    if kind == "safetensors":
        save_file(weights(), path)
    else:
        saved(path, weights(), _use_new_zipfile_serialization=kind == "zip")
    good, dice = path.read_bytes(), random.Random(5)
    for _ in range(80):
        data = bytearray(good)
        for _ in range(dice.choice((1, 4, 32))):
            data[dice.choice((dice.randrange(9000), -1 - dice.randrange(9000)))] = dice.randrange(256)
        path.write_bytes(data)
        try:
            load_checkpoint(path)
        except ValueError as error:
            assert str(error).startswith(f"file: {path.name}")
            assert len(str(error)) <= 600


def test_lists_in_each_other_do_not_take_for_ever(tmp_path):
    nest = [torch.ones(1)]
    for _ in range(60):
        nest = [nest] * 3000
    with pytest.raises(ValueError, match=r"file: nest\.pt"):
        load_checkpoint(saved(tmp_path / "nest.pt", collections.OrderedDict(model=nest)))
