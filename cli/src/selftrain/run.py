"""``selftrain run``: everything a configuration says, from the labelled images to the table."""

from __future__ import annotations

from pathlib import Path

import click

from selftrain.progress_display import progress_display
from selftrain.summary_table import show_summary
from selftrain_core.config import load_config
from selftrain_core.rounds import self_train


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "folder", metavar="RUN", required=True, type=click.Path(path_type=Path), help="The run's folder."
)
@click.option(
    "--set",
    "overrides",
    metavar="A.B=VALUE",
    multiple=True,
    help="A setting that replaces that of the file, such as student.steps=500; may be given again.",
)
@click.option(
    "--start-over", is_flag=True, help="Remove and make again the stages whose settings or data have changed."
)
@click.option("--in-process", is_flag=True, help="Run the stages in this process, for debuggers.")
def run(config: Path, folder: Path, overrides: tuple[str, ...], *, start_over: bool, in_process: bool) -> None:
    """Teach, label, learn and evaluate as the YAML file CONFIG says, and leave everything in the folder RUN.

    Given again, the command skips what is finished and goes on where it was interrupted.
    """
    loaded = load_config(config, overrides)
    with progress_display() as observer:
        summary = self_train(loaded, folder, observer, in_process=in_process, start_over=start_over)
    show_summary(summary, folder)
