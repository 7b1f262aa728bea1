"""``selftrain demo``: the whole method in minutes, on scenes made on the spot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

from selftrain.demo_config import RECIPES, SUFFIXES, demo_config
from selftrain.demo_data import write_scenes
from selftrain.progress_display import progress_display
from selftrain.scenes import SceneSettings
from selftrain.summary_table import show_summary
from selftrain_core.config import load_config
from selftrain_core.errors import RunError, SelftrainError
from selftrain_core.files import write_text
from selftrain_core.progress import Event, Observer
from selftrain_core.rounds import self_train


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Where everything is left.",
)
@click.option(
    "--task", type=click.Choice(list(RECIPES)), default="segmentation", show_default=True, help="What is predicted."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of scenes and training.")
def demo(folder: Path, task: str, seed: int) -> None:
    """Teach, label and learn on handwritten digits over photographs, made on the spot.

    80 labelled scenes, 1,000 unlabelled ones. The score of segmentation is the mean IoU over the ten digits and the
    background, that of detection COCO's average precision. Needs no data, no download and no GPU, and some minutes of
    one processor core. What is printed is what was measured, whether it speaks for self-training or not.
    """
    if find_spec("sklearn") is None:
        raise SelftrainError("the demo needs scikit-learn, which is not installed: pip install 'selftrain[demo]'")
    settings = SceneSettings(seed=seed)
    with progress_display() as observer:
        _make_scenes(folder / "data", settings, observer)
        path = write_config(folder, settings, task)
        run = folder / f"run{SUFFIXES[task]}"
        summary = self_train(load_config(path), run, observer)
    show_summary(summary, run)
    click.echo(f"  {path}: the configuration, to copy and change")


def write_config(folder: Path, settings: SceneSettings, task: str = "segmentation") -> Path:
    """Write the demo's configuration and return its path.

    Args:
        folder: The demo's folder, with the scenes in ``data``.
        settings: Of the scenes.
        task: A key of `RECIPES`.

    Raises:
        RunError: The file is there with other content.
    """
    path = folder / f"demo{SUFFIXES[task]}.yaml"
    text = demo_config(task, settings)
    if not path.exists():
        write_text(path, text)
    elif path.read_text(encoding="utf-8") != text:
        raise RunError(
            f"{path} is not what the demo writes; it is left as it is\n"
            f"  to run it: selftrain run {path} -o {folder / 'my-run'}\n"
            "  to run the demo: give another folder with -o"
        )
    return path


def _make_scenes(folder: Path, settings: SceneSettings, observer: Observer) -> None:
    name = "demo/scenes"
    observer(Event("started", name))
    made = write_scenes(
        folder, settings, lambda done, total: observer(Event("progress", name, done, total, unit="scenes"))
    )
    observer(Event("finished" if made else "skipped", name, text="" if made else "made before", unit="scenes"))
