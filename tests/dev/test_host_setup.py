"""A set-up that is damaged, unfinished or made from other versions is noticed and built again."""

import json

import pytest

from pack.dev.host import own_requirements
from pack.dev.parts import STAMP, Part, changed_file, digest, manifest

FILES = {"bin/python": "#!", "lib/torch/__init__.py": "import this", "lib/torch/big.so": "x" * 100}


def write_files(folder):
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


class Builder:
    """A recipe that counts how often it is followed."""

    def __init__(self):
        self.builds = 0

    def __call__(self, folder):
        self.builds += 1
        write_files(folder)


@pytest.fixture
def builder():
    return Builder()


@pytest.fixture
def part(tmp_path, builder):
    built = Part(tmp_path / "venv", digest("torch==1"), builder)
    built.ensure()
    return built


def test_a_whole_part_is_left_alone(part, builder):
    part.ensure()
    assert part.damage() is None
    assert builder.builds == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_text("")], ids=["deleted", "truncated"])
def test_a_damaged_file_is_noticed_and_restored(part, builder, name, harm):
    harm(part.folder / name)
    assert name in part.damage()
    part.ensure()
    assert part.damage() is None
    assert builder.builds == 2
    assert (part.folder / name).read_text() == FILES[name]


def test_other_inputs_are_noticed(part, builder):
    newer = Part(part.folder, digest("torch==2"), builder)
    assert newer.damage() == "made from other versions"
    newer.ensure()
    assert newer.damage() is None
    assert builder.builds == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"inputs": 1}'])
def test_an_unreadable_stamp_is_no_stamp(part, text):
    part.stamp.write_text(text)
    assert part.damage() == "its stamp cannot be read"


def test_a_missing_stamp_means_unfinished(part):
    part.stamp.unlink()
    assert part.damage() == "unfinished"


def test_a_failed_build_is_not_taken_for_whole(tmp_path, builder):
    def stops_half_way(folder):
        write_files(folder)
        raise KeyboardInterrupt

    broken = Part(tmp_path / "venv", digest("torch==1"), stops_half_way)
    with pytest.raises(KeyboardInterrupt):
        broken.ensure()
    mended = Part(tmp_path / "venv", digest("torch==1"), builder)
    assert mended.damage() == "unfinished"
    mended.ensure()
    assert mended.damage() is None


def test_files_of_an_older_build_do_not_stay(part, builder):
    stray = part.folder / "lib" / "old.py"
    stray.write_text("")
    Part(part.folder, digest("torch==2"), builder).ensure()
    assert not stray.exists()


def test_a_dead_interpreter_is_noticed(part, builder):
    assert Part(part.folder, part.inputs, builder, lambda folder: False).damage() == "its interpreter does not run"


def test_the_manifest_leaves_out_what_changes_by_itself(part):
    (part.folder / "lib" / "__pycache__").mkdir()
    (part.folder / "lib" / "__pycache__" / "torch.pyc").write_text("")
    assert manifest(part.folder) == {name: len(text) for name, text in FILES.items()}
    assert STAMP not in json.loads(part.stamp.read_text())["files"]


def test_additional_files_are_no_damage(part):
    (part.folder / "output.png").write_text("picture")
    assert part.damage() is None


def test_a_dangling_link_counts_as_present_by_its_own_size(tmp_path):
    (tmp_path / "python").symlink_to("/nowhere/python")
    assert changed_file(tmp_path, manifest(tmp_path)) is None
    (tmp_path / "python").unlink()
    assert changed_file(tmp_path, {"python": 15}) == "python"


def test_the_recipe_is_among_the_inputs(monkeypatch):
    before = digest("torch==1")
    monkeypatch.setattr("pack.dev.parts.RECIPE", "another")
    assert digest("torch==1") != before


def test_a_hosts_requirements_lose_torch_and_the_templates():
    text = "comfyui-frontend-package==1\ncomfyui-workflow-templates==2\ntorch\ntorchsde\n\n#optional:\nav>=14\npydantic~=2.0\n"
    assert own_requirements(text) == "comfyui-frontend-package==1\ntorchsde\nav>=14\npydantic~=2.0\n"
