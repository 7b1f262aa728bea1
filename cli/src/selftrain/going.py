"""Going as far as a command goes, or saying what would be done, for people or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from selftrain.forecast_table import show_forecast
from selftrain.progress_display import progress_display
from selftrain.summary_table import show_stages, show_summary
from selftrain_core.config import load_config
from selftrain_core.errors import RunError
from selftrain_core.forecast import forecast
from selftrain_core.goals import Goal
from selftrain_core.rounds import self_train


def go(
    goal: Goal,
    config: Path,
    folder: Path,
    overrides: tuple[str, ...],
    *,
    start_over: bool,
    dry_run: bool,
    as_json: bool,
    in_process: bool,
) -> None:
    """Do what a command of the run family does.

    Args:
        goal: How far it goes.
        config: The YAML file.
        folder: The run's folder.
        overrides: Settings that replace those of the file.
        start_over: Make changed stages again.
        dry_run: Only say what would be done.
        as_json: Print JSON.
        in_process: Run the stages in this process.

    Raises:
        SelftrainError: Something is wrong with the configuration, the data, the folder, or a stage failed.
    """
    loaded = load_config(config, overrides)
    if dry_run:
        outlook = forecast(loaded, folder, goal, start_over=start_over)
        if not as_json:
            show_forecast(outlook)
        elif not outlook["refusal"]:
            print_json(outlook)
        if outlook["refusal"]:
            raise RunError(outlook["refusal"])
        return
    with progress_display() as observer:
        result = self_train(loaded, folder, observer, goal=goal, in_process=in_process, start_over=start_over)
    if as_json:
        print_json(result)
    elif goal.has_summary:
        show_summary(result, folder)
    else:
        show_stages(result["stages"], folder)


def print_json(value: Any) -> None:
    """Print a result for machines."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
