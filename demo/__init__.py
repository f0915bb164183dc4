"""The demo models: drawn faces, the small models trained on them, and their place in the host."""

import logging
import os
import shutil
from pathlib import Path

WEIGHTS, JUDGES, SLIDERS, PICTURES = (Path(__file__).parent / name for name in ("weights", "judges", "sliders", "pictures"))


def install() -> None:
    """Offer the demo checkpoints in Load Checkpoint and pictures in Load Image, and teach the host the checkpoints' families."""
    import folder_paths

    from . import family

    family.register()
    folder_paths.add_model_folder_path("checkpoints", str(WEIGHTS))
    try:
        offer_pictures(Path(folder_paths.get_input_directory()))
    except OSError as error:
        logging.warning("Semantic Latents: the example pictures could not be put into the input folder (%s)", error)


def offer_pictures(folder: Path) -> None:
    """Copy the example pictures to a folder, those that are not there yet; each appears when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES.glob("*.png"):
        if not (folder / picture.name).exists():
            partial = folder / f".{picture.name}.{os.getpid()}"
            shutil.copyfile(picture, partial)
            partial.replace(folder / picture.name)
