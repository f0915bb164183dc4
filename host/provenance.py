"""What the running graph says of where an input comes from, for the notes in files."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

HIDDEN = (io.Hidden.prompt, io.Hidden.unique_id)  # in the schema of a node that asks
TEXTS, PASSED_ON = ("text", "text_g"), ("conditioning", "conditioning_to")


def prompt_notes(node: type[io.ComfyNode], *inputs: str) -> dict[str, str]:
    """The text of the prompt behind each of a node's CONDITIONING inputs, for those where it can be found."""
    hidden = getattr(node, "hidden", None)
    if hidden is None or not isinstance(hidden.prompt, dict):
        return {}
    found = {name: _text(hidden.prompt, hidden.prompt.get(hidden.unique_id, {}).get("inputs", {}).get(name)) for name in inputs}
    return {name: text for name, text in found.items() if text}


def _text(graph: dict[str, Any], link: object) -> str | None:
    seen: set[str] = set()
    while isinstance(link, list) and link and link[0] in graph and link[0] not in seen:
        seen.add(link[0])
        inputs = graph[link[0]].get("inputs", {})
        texts = [inputs[name] for name in TEXTS if isinstance(inputs.get(name), str)]
        if texts:
            return texts[0]
        link = next((inputs[name] for name in PASSED_ON if name in inputs), None)
    return None
