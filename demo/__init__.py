"""The demo model: drawn faces, the small model trained on them, and its place in the host."""

from pathlib import Path

WEIGHTS, DIRECTIONS = (Path(__file__).parent / name for name in ("weights", "directions"))


def install() -> None:
    """Offer the demo checkpoint in Load Checkpoint, and teach the host its model family."""
    import folder_paths

    from . import family

    family.register()
    folder_paths.add_model_folder_path("checkpoints", str(WEIGHTS))
