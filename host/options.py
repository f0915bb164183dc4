"""The pack's own keys in the host's options, and what is read from those options."""

from __future__ import annotations

from typing import Any

EDITING = "semantic_latents"
TOLD = EDITS, PLAN, ASKED, PARTS, EDITED_PASS, SIGMA_DOWN = tuple(
    f"{EDITING}_{name}" for name in ("edits", "plan", "asked", "parts", "edited_pass", "sigma_down")
)


def sigma_of(options: dict[str, Any]) -> float:
    """The noise level of a model call."""
    return float(options["sigmas"].flatten()[0])


UNCOMPILED = "semantic_latents_uncompiled"
PROBING = "semantic_latents_probing"  # in the transformer options of calls that are no part of the run itself
SHIFTED = f"{EDITING}_shifted"  # in the transformer options of calls whose h the network shifts
CONTRASTS, CONTRAST_PLAN, NETWORK = (f"{EDITING}_{name}" for name in ("contrasts", "contrast_plan", "network"))
USES = f"{EDITING}_attributes"
UNEDITED = f"{EDITING}_unedited"  # in those of a model whose run without edits is shared with others
ONE_PASS = f"{EDITING}_one_pass"  # in those of a model whose runs are looked into, and so are made once
GUIDANCES, GUIDANCE_PLAN = (f"{EDITING}_{name}" for name in ("guidances", "guidance_plan"))
