"""The published vectors, and pickles that are none."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from pack.core.hspace.direction import Family

PUBLISHED = Path(__file__).resolve().parents[4] / "shared/data/interpretdiffusion_sd14_h.pth"


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published vectors are not at hand")
def test_the_published_vectors_are_read():
    from pack.core.hspace.published import PUBLISHED_CONCEPTS, load_published

    found = [load_published(PUBLISHED, concept) for concept in PUBLISHED_CONCEPTS]
    assert {(d.family, d.size, d.sigmas) for d in found} == {(Family("SD15", "EPS", 1280), (8, 8), (1.0,))}
    assert len({round(d.norm, 4) for d in found}) == 8
    with pytest.raises(ValueError, match="concept: got 'tall'"):
        load_published(PUBLISHED, "tall")


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/pwned_by_a_pickle",))


def test_a_pickle_cannot_run_code(tmp_path):
    from pack.core.hspace.published import load_published

    path = tmp_path / "unet.pth"
    for content in ({"controlnet.fc1.weight": Evil()}, {"other": torch.zeros(3)}, [1, 2]):
        torch.save(content, path) if not isinstance(content, list) else path.write_bytes(pickle.dumps(Evil()))
        with pytest.raises(ValueError, match="file: unet.pth"):
            load_published(path, "young")
    assert not Path("/tmp/pwned_by_a_pickle").exists()


def test_a_published_file_that_is_too_large_is_not_opened(tmp_path):
    from pack.core.hspace.published import load_published

    with (tmp_path / "unet.pth").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(ValueError, match="1000000000 bytes"):
        load_published(tmp_path / "unet.pth", "young")
