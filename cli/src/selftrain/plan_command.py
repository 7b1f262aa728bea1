"""``selftrain plan``: what a model costs, and how a training step fits a device, before anything is trained."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from selftrain.options import json_option, set_option
from selftrain.recipes.build import parsed
from selftrain.recipes.cells import all_cells
from selftrain.summary_table import format_table
from selftrain_core.config import RunConfig, load_config
from selftrain_core.errors import ConfigError, did_you_mean

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_GIGA = 10**9
_NOTE = (
    "Counted, not measured: what layers keep for the backward pass, weights, gradients and averages; a quarter of "
    "the memory is left for what the loss, the library and fragments take."
)


def _bytes(_: click.Context, __: click.Parameter, text: str) -> int:  # click's signature
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?)?b?", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise click.BadParameter(f"'{text}': expected a size, such as 80GB or 24GiB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


@click.command()
@click.argument("recipe", metavar="CONFIG|RECIPE")
@set_option
@click.option(
    "--gpu-memory",
    "memory",
    metavar="SIZE",
    callback=_bytes,
    default="80GB",
    show_default=True,
    help="Memory of each device.",
)
@click.option(
    "--activation-checkpointing",
    "checkpointing",
    is_flag=True,
    help="As with device.activation_checkpointing: blocks keep their inputs alone, and are computed twice.",
)
@json_option("Print JSON.")
def plan(recipe: str, *, overrides: tuple[str, ...], memory: int, checkpointing: bool, as_json: bool) -> None:
    """Count parameters, multiplications and memory of CONFIG's model, and say how a training step fits a device.

    CONFIG is a YAML file, or a recipe of `selftrain recipes list`. No data is read and no weights are loaded.
    """
    config = _config(recipe, overrides)
    found = _plan(config, memory, checkpointing=checkpointing or config.device.activation_checkpointing)
    if as_json:
        click.echo(json.dumps({"schema": 1, "recipe": recipe, **found}, indent=2, ensure_ascii=False))
        return
    click.echo(_as_text(config, found, memory))


def _config(recipe: str, overrides: tuple[str, ...]) -> RunConfig:
    cells = all_cells()
    if recipe in cells and not Path(recipe).exists():
        if overrides:
            raise ConfigError(f"--set works on a file; write one: selftrain recipes show {recipe} > recipe.yaml")
        return parsed(cells[recipe])
    if not Path(recipe).exists() and not recipe.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"there is neither a file nor a recipe '{recipe}'{did_you_mean(recipe, cells)}; "
            "list recipes: selftrain recipes list"
        )
    return load_config(Path(recipe), overrides)


def _plan(config: RunConfig, memory: int, *, checkpointing: bool) -> dict[str, Any]:
    from selftrain_core.sizing import plan_memory, size_of_run  # torch takes seconds to import

    size = size_of_run(config, activation_checkpointing=checkpointing)
    steps = {}
    student = config.student
    for name, training, images in (
        ("teacher", config.teacher, config.teacher.human),
        ("student", student, student.human + student.pseudo),
    ):
        fit = plan_memory(size, training, images, memory, config.device.devices)
        steps[name] = {
            "images": images,
            "state_bytes": fit.state_bytes,
            "micro_batch": fit.micro_batch,
            "micro_batches": fit.micro_batches,
            "used_bytes": fit.used_bytes,
        }
    return {
        "params": size.parameters,
        "macs": size.macs,
        "activation_bytes": size.activation_bytes,
        "activation_checkpointing": checkpointing,
        "precision": config.device.precision,
        "devices": config.device.devices,
        "memory_bytes": memory,
        "steps": steps,
    }


def _as_text(config: RunConfig, found: dict[str, Any], memory: int) -> str:
    height, width = config.canvas
    kept = ", blocks' insides computed twice" if found["activation_checkpointing"] else ""
    lines = [
        f"{config.task.name} on {config.backbone.name}, {height} × {width}, {found['precision']}",
        f"  {found['params']:,} parameters",
        f"  {found['macs'] / _GIGA:,.2f} billion multiply-adds an image, forward",
        f"  {found['activation_bytes'] / _GIGA:,.2f} GB of activations an image in training{kept}",
        "",
    ]
    rows = [("", "images a step", "devices", "at once, each", "device.micro_batches", "memory taken, each")]
    for name, step in found["steps"].items():
        used = f"{step['used_bytes'] / _GIGA:,.1f} of {memory / _GIGA:,.1f} GB"
        if step["micro_batch"]:
            at_once, parts = f"{step['micro_batch']:,}", f"{step['micro_batches']:,}"
        else:
            at_once, parts = "not even 1", "–"
        rows.append((name, f"{step['images']:,}", str(found["devices"]), at_once, parts, used))
    return "\n".join([*lines, format_table(rows), "", _NOTE])
