"""What a command would do, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from selftrain.summary_table import format_table
from selftrain_core.run_folder import MADE_FROM

_HEADER = ("stage", "what would be done", "steps", "images")
_WORDS = {
    "skip": "nothing: it is finished",
    "do": "do",
    "make again": "remove and make again",
    "refuse": "refuse: made otherwise",
    "remove": "remove: made otherwise",
}


def show_forecast(outlook: Mapping[str, Any]) -> None:
    """Print what `selftrain_core.forecast.forecast` returned."""
    click.echo(f"In {outlook['run']}; this only looks, and changes nothing.\n")
    click.echo(format_table([_HEADER, *map(_row, outlook["stages"])], right=(2, 3)))
    click.echo()
    for stage in outlook["stages"]:
        # What follows from a change elsewhere needs no line; a refusal is shown whole by the error.
        changes = [change for change in stage["changes"] if not change.startswith(MADE_FROM)]
        if stage["action"] == "make again" and changes:
            click.echo(f"{stage['name']} was made with other settings or data:")
            click.echo("".join(f"    {change}\n" for change in changes))
    counts = ", ".join(f"{count:,} {part}" for part, count in outlook["images"].items())
    click.echo(f"images: {counts}")
    if outlook["in_use"]:
        click.echo("The folder is in use by another process: until that ends, the command would be refused.")


def _row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    steps = "" if stage["steps"] is None else f"{stage['steps']:,}"
    return (stage["name"], _what(stage), steps, f"{stage['images']:,}" if stage["images"] else "")


def _what(stage: Mapping[str, Any]) -> str:
    if stage["action"] != "go on":
        return _WORDS[stage["action"]]
    if stage["steps"]:
        return f"go on after step {stage['done']:,}"
    return f"go on after {stage['done']:,} images" if stage["done"] else "go on"
