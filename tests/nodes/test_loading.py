"""The pack beside a loaded host: what it imports, and what it does where matplotlib is missing.

In a Python of its own, as other tests draw plots.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADING = """
import asyncio, importlib.util, json, sys
host, pack, without = sys.argv[1:4]
sys.argv = sys.argv[:1]
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
import latent_preview, nodes, comfy_api.latest, comfy.k_diffusion.sampling
import torch
sys.modules.update(dict.fromkeys(without.split()))
before = set(sys.modules)

async def load():
    spec = importlib.util.spec_from_file_location("pack", pack + "/__init__.py")
    sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    return {node.GET_SCHEMA().node_id.removeprefix("SemanticLatents_"): node for node in await extension.get_node_list()}

found = asyncio.run(load())
imported = sorted({name.split(".")[0] for name in set(sys.modules) - before})
with torch.inference_mode():
    svd, plot = found["Decompose"].execute(samples={"samples": torch.randn(1, 4, 16, 16)}, layout="channel").args
    back = found["Compose"].execute(svd=svd).args[0]["samples"]
sizes = {"size": list(plot.shape), "composed": list(back.shape)}
print(json.dumps({"nodes": len(found), "imported": imported, "plot": plot.mean().item(), **sizes}))
"""


def loaded(*without):
    """What a fresh Python says that imports the host, then the pack, and decomposes a latent; modules that are missing there."""
    command = [sys.executable, "-P", "-c", LOADING, os.environ["COMFYUI"], str(ROOT), " ".join(without)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def with_all():
    return loaded()


def test_loading_imports_the_pack_and_what_python_has(with_all):
    foreign = set(with_all["imported"]) - set(sys.stdlib_module_names) - {"pack", "comfy", "comfy_api"}
    assert foreign == set()
    assert "pack" in with_all["imported"]


def test_without_matplotlib_all_nodes_load_and_a_plot_says_what_is_missing(with_all):
    found = loaded("matplotlib")
    assert found["nodes"] == with_all["nodes"] > 20
    assert found["composed"] == [1, 4, 16, 16]
    assert found["size"] == with_all["size"]
    assert found["plot"] != with_all["plot"]
