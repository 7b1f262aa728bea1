"""``selftrain run``: everything a configuration says, from the labelled images to the table."""

from __future__ import annotations

from typing import Any

import click

from selftrain.going import go
from selftrain.options import run_options
from selftrain_core.goals import EVERYTHING


@click.command()
@run_options
def run(**options: Any) -> None:
    """Teach, label, learn and evaluate as the YAML file CONFIG says, and leave everything in the folder RUN.

    Given again, the command skips what is finished and goes on where it was interrupted.
    """
    go(EVERYTHING, **options)
