"""The model card says what the figures say."""

import json
from pathlib import Path

DEMO = Path(__file__).resolve().parents[2] / "demo"


def test_the_tables_of_the_card_are_those_of_the_figures():
    from pack.demo.evaluate import card

    page = (DEMO / "MODEL_CARD.md").read_text()
    assert card(json.loads((DEMO / "figures.json").read_text())) in page
