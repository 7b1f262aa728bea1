"""``selftrain predict``: a finished model on any images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from selftrain.options import json_option
from selftrain.progress_display import progress_display
from selftrain_core.config import DeviceConfig, PredictionConfig
from selftrain_core.errors import ConfigError
from selftrain_core.inputs import find_inputs

SHOWN_FAILURES = 10


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "folder", metavar="DIR", required=True, type=click.Path(path_type=Path), help="For the results."
)
@click.option(
    "--model",
    "model_folder",
    metavar="FOLDER",
    required=True,
    type=click.Path(path_type=Path),
    help="A run, of which the newest student is taken, else the teacher; or a folder with model.safetensors and "
    "model.json.",
)
@click.option(
    "--weights",
    type=click.Choice(["last", "selected"]),
    default="last",
    show_default=True,
    help="Those at the end of training, or those that scored best on validation.",
)
@click.option("--scales", default="1", show_default=True, help="Sizes at which it looks at each image: 0.5,1,1.5.")
@click.option("--flip", is_flag=True, help="Let it look at the mirror image too.")
@click.option(
    "--threshold",
    metavar="S",
    type=click.FloatRange(0, 1),
    help="Leave out what scores less, 0 to 1; by default nothing.",
)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Images in a forward pass.")
@click.option("--device", metavar="NAME", default="auto", help="An accelerator from `selftrain plugins`.")
@click.option("--no-overlays", is_flag=True, help="Draw nothing.")
@click.option("--overwrite", is_flag=True, help="Remove the predictions that are in DIR.")
@json_option("Print what came of it, or the error, as JSON on stdout; progress goes to stderr.")
def predict(
    *,
    paths: tuple[Path, ...],
    folder: Path,
    model_folder: Path,
    weights: Any,
    scales: str,
    flip: bool,
    threshold: float | None,
    batch: int,
    device: str,
    no_overlays: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Predict on PATHS: images, folders of images, or .txt files with the path of an image in each line.

    DIR gets masks/ID.png at the size of the image, or boxes/instances.json and boxes/results.json in COCO's form;
    overlays/ID.jpg to look at; and predictions.json, which says what was found in each image. The ID is the path of
    the image below the folder that all PATHS lie in.

    An image that cannot be read is passed over, told and listed in predictions.json; only if no image can be read is
    the exit code 2. Interrupted, the same command begins anew.
    """
    pictures = find_inputs(paths, folder)
    views = _prediction_config(scales, flip=flip).views
    # Torch takes seconds to import; whatever is wrong with the command line is said before.
    from selftrain_core.inference import RESULT, predict_images
    from selftrain_core.trained import find_model, load_model
    from selftrain_core.views import View

    model = load_model(find_model(model_folder, weights), weights, device)
    click.echo(f"model: {model.folder}, {weights} weights", err=True)
    workers = DeviceConfig().workers if len(pictures) > batch else 0
    with progress_display() as observer:
        result = predict_images(
            model,
            pictures,
            folder,
            views=[View(scale, is_flipped) for scale, is_flipped in views],
            batch=batch,
            workers=workers,
            threshold=threshold,
            overlays=not no_overlays,
            overwrite=overwrite,
            observer=observer,
        )
    failures = result["failures"]
    if failures:
        click.echo(f"warning: {len(failures):,} of {len(pictures):,} images could not be read:", err=True)
        for failure in failures[:SHOWN_FAILURES]:
            click.echo(f"  {failure['reason']}", err=True)
        if len(failures) > SHOWN_FAILURES:
            click.echo(f"  and {len(failures) - SHOWN_FAILURES:,} more: see {folder / RESULT}", err=True)
    if as_json:
        click.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    click.echo(f"{result['predicted']:,} images:")
    for name in (model.task.label_files, *(() if no_overlays else ("overlays",)), RESULT):
        click.echo(f"  {folder / name}")


def _prediction_config(scales: str, *, flip: bool) -> PredictionConfig:
    try:
        numbers = [float(scale) for scale in scales.split(",")]
        return PredictionConfig(scales=tuple(numbers), flip=flip)
    except ValueError as error:
        raise ConfigError(
            f"--scales {scales}: expected numbers above 0 with commas between them, such as 0.5,1,1.5"
        ) from error
