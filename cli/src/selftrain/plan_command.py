"""``selftrain plan``: what a model costs, and how a training step fits a device, before anything is trained."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selftrain.options import json_option, set_option
from selftrain.recipes.build import to_count
from selftrain.recipes.cells import all_cells
from selftrain.summary_table import format_table
from selftrain_core.config import RunConfig, load_config
from selftrain_core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from selftrain_core.sizing import ModelSize

_MEGA, _GIGA = 10**6, 10**9
_UNITS = {
    **{letter: 10 ** (3 * power) for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("kmgt", start=1)},
}
_NOTE = (
    "Counted, not measured: what layers keep for the backward pass, weights, gradients and averages; a quarter of "
    "the memory is left for what the loss, the library and fragments take."
)


def _bytes(_: click.Context, __: click.Parameter, text: str) -> int:  # click's signature
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)\s*([kmgt]i?)b?", text.strip().lower())
    if not found or float(found[1]) <= 0:
        raise click.BadParameter(f"'{text}': expected a size with its unit, such as 80GB or 24GiB")
    return int(float(found[1]) * _UNITS[found[2]])


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
    config, steps = _config(recipe, overrides)
    checkpointing = checkpointing or config.device.activation_checkpointing
    click.echo("counting …", err=True)  # a large model takes half a minute
    found = {"schema": 1, "recipe": recipe, **_plan(config, steps, memory, checkpointing=checkpointing)}
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else _as_text(config, found))


def _config(recipe: str, overrides: tuple[str, ...]) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the configuration, and which of its trainings are meant."""
    cells = all_cells()
    if recipe in cells and not Path(recipe).exists():
        if overrides:
            raise ConfigError(f"--set works on a file; write one: selftrain recipes show {recipe} > recipe.yaml")
        return to_count(cells[recipe]), ("teacher", "student") if cells[recipe].unlabelled else ("teacher",)
    if not Path(recipe).exists() and not recipe.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"there is neither a file nor a recipe '{recipe}'{did_you_mean(recipe, cells)}; "
            "list recipes: selftrain recipes list"
        )
    config = load_config(Path(recipe), overrides)
    names = {"pretraining": config.pretraining, "teacher": config.teacher, "student": config.data.unlabelled}
    return config, tuple(name for name, is_there in names.items() if is_there)


def _plan(config: RunConfig, names: Sequence[str], memory: int, *, checkpointing: bool) -> dict[str, Any]:
    from selftrain_core.sizing import plan_memory, size_of_run  # torch takes seconds to import

    size = size_of_run(config, activation_checkpointing=checkpointing)
    student, pretraining = config.student, config.pretraining
    trainings: dict[str, tuple[Any, tuple[int, ...]]] = {
        "pretraining": (pretraining, (pretraining.images_per_step if pretraining else 0,)),
        "teacher": (config.teacher, (config.teacher.human,)),
        "student": (student, (student.human, student.pseudo)),
    }
    steps = {}
    for name in names:
        training, streams = trainings[name]
        is_pretraining = name == "pretraining"
        model = size.pretraining if is_pretraining else size.main
        assert model is not None
        joint = {} if is_pretraining else {each: config.joint[each].images for each in size.joint}
        parts = [(size.joint[each], number) for each, number in joint.items()]
        fit = plan_memory(model, training, streams, memory, config.device.devices, parts)
        steps[name] = {
            "images": sum(streams),
            "joint_images": joint,
            "state_bytes": fit.state_bytes,
            "micro_batch": fit.micro_batch,
            "micro_batches": fit.micro_batches,
            "used_bytes": fit.used_bytes,
        }
    return {
        **_cost(size.main),
        "activation_checkpointing": checkpointing,
        "precision": config.device.precision,
        "joint": {name: _cost(each) for name, each in size.joint.items()},
        "pretraining": None if size.pretraining is None else _cost(size.pretraining),
        "devices": config.device.devices,
        "memory_bytes": memory,
        "steps": steps,
    }


def _cost(size: ModelSize) -> dict[str, int]:
    return {"params": size.parameters, "macs": size.macs, "activation_bytes": size.activation_bytes}


def _as_text(config: RunConfig, found: dict[str, Any]) -> str:
    height, width = config.canvas
    kept = ", blocks' insides computed twice" if found["activation_checkpointing"] else ""
    lines = [
        f"{config.task.name} on {config.backbone.name}, {height} × {width}, {found['precision']}{kept}",
        *_cost_lines(found),
    ]
    for name, cost in found["joint"].items():
        stream = config.joint[name]
        height, width = stream.canvas
        lines += [
            f"joint.{name}, {stream.task.name}, {height} × {width}, beside it; its own parameters",
            *_cost_lines(cost),
        ]
    if found["pretraining"]:
        lines += ["pretraining, two views of each image", *_cost_lines(found["pretraining"])]
    rows = [("", "images a step", "devices", "at once, each", "device.micro_batches", "memory taken, each")]
    for name, step in found["steps"].items():
        images = " + ".join(f"{number:,}" for number in (step["images"], *step["joint_images"].values()))
        at_once, parts = f"{step['micro_batch']:,}", f"{step['micro_batches']:,}"
        if not step["micro_batch"]:
            at_once, parts = "too many", "–"
        elif name == "pretraining":
            parts = "–"
        used = f"{_size(step['used_bytes'])} of {_size(found['memory_bytes'])}"
        rows.append((name, images, str(found["devices"]), at_once, parts, used))
    notes = [_NOTE]
    if found["pretraining"]:
        notes.append("A step of pre-training is never cut: each view is told from all others of its step.")
    return "\n".join([*lines, "", format_table(rows), "", *notes])


def _cost_lines(cost: dict[str, Any]) -> list[str]:
    return [
        f"  {cost['params']:,} parameters",
        f"  {cost['macs'] / _GIGA:,.2f} billion multiply-adds an image, forward",
        f"  {_size(cost['activation_bytes'])} of activations an image in training",
    ]


def _size(number: int) -> str:
    return f"{number / _GIGA:,.2f} GB" if number >= _GIGA else f"{number / _MEGA:,.1f} MB"
