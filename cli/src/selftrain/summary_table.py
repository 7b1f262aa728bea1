"""The measured table at the end of a run, and where everything lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from selftrain_core.report import model_name, notes

_HEADER = ("model", "weights", "validation", "test", "gain", "images seen", "time")
_STAGE_HEADER = ("stage", "", "validation", "images", "time")


def show_summary(summary: dict[str, Any], folder: Path) -> None:
    """Print a run's table, what must be known beside it, and the paths of its pictures.

    Args:
        summary: What `selftrain_core.rounds.self_train` returned.
        folder: The run's folder.
    """
    click.echo(f"\n{summary['metric']} ({summary['unit']})\n")
    click.echo(format_table([_HEADER, *map(_row, summary["models"])], right=(2, 3, 4, 5, 6)))
    click.echo()
    for note in notes(summary):
        click.echo(f"- {note}")
    click.echo()
    for name in ("summary.md", "summary.json", "pictures/validation.png", "pictures/curves.png"):
        if (folder / name).is_file():
            click.echo(f"  {folder / name}")


def show_stages(stages: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Print what each stage of a command came to, and where the last of them lies.

    Args:
        stages: What `selftrain_core.rounds.self_train` returned of them.
        folder: The run's folder.
    """
    click.echo()
    click.echo(format_table([_STAGE_HEADER, *map(_stage_row, stages)], right=(2, 3, 4)))
    click.echo()
    last = stages[-1]
    said = [
        f"{stage['name']}: beside its own {count:,} images of joint.{stream}"
        for stage in stages
        for stream, count in stage["result"].get("joint_images_seen", {}).items()
    ]
    if "states" in last["result"]:
        said.append(", ".join(f"{count:,} {state}" for state, count in last["result"]["states"].items()))
    for line in said:
        click.echo(f"- {line}")
    if said:
        click.echo()
    click.echo(f"  {folder / last['name']}")


def format_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Return `rows` in aligned columns, the first as a header with a rule below.

    Args:
        rows: Cells; all rows are of one length.
        right: Numbers of the columns that are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def format_seconds(seconds: float) -> str:
    """Return a duration as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        model_name(model),
        str(model["checkpoint"]),
        _score(model["val"]),
        _score(model["test"]),
        _score(model.get("gain"), sign=True),
        f"{model['images_seen']:,}",
        format_seconds(model["seconds"]),
    )


def _stage_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    result = stage["result"]
    return (
        stage["name"],
        "made" if stage["made"] else "was there",
        _score(stage.get("validation")),
        f"{result.get('images_seen', result.get('images', 0)):,}",
        format_seconds(result.get("training_seconds", result["seconds"])),
    )


def _score(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.2f}" if sign else f"{value:.2f}"
