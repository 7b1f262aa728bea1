"""``selftrain recipes``: the paper's experiments as configurations."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import click
import yaml

from selftrain.options import json_option
from selftrain.recipes.build import images_seen, parsed, recipe_config, same_as, to_count, to_make
from selftrain.recipes.cells import Cell, all_cells
from selftrain.recipes.models import MODELS
from selftrain.recipes.remarks import differs, ours
from selftrain.summary_table import format_table
from selftrain_core.errors import ConfigError, did_you_mean

SCHEMA = 1


@click.group()
def recipes() -> None:
    """The experiments of the paper: one configuration for each cell of its tables."""


@recipes.command("list")
@json_option("Print JSON.")
def list_recipes(*, as_json: bool) -> None:
    """List the recipes by table, with the paper's result in percent (AP or mIoU), steps, and α of the objective."""
    cells = list(all_cells().values())
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "recipes": [_facts(cell) for cell in cells]}, ensure_ascii=False))
        return
    for number, (table, group) in enumerate(groupby(cells, key=lambda cell: cell.table)):
        rows = [
            (
                cell.name,
                cell.label,
                f"{cell.result:.2f}".removesuffix("0"),
                f"{cell.steps:,}",
                "" if cell.alpha is None else f"{cell.alpha:g}",
            )
            for cell in group
        ]
        click.echo(("\n" if number else "") + f"Table {table}")
        click.echo(format_table([("recipe", "cell", "paper's %", "steps", "alpha"), *rows]))


_EXAMPLE = """\b
With COCO, say, in the folder coco beside the configuration:
  selftrain recipes show NAME > recipe.yaml
  selftrain run recipe.yaml -o RUN
What has to be made first, such as lists of fractions, stands at its top, with the commands.
"""


@recipes.command(epilog=_EXAMPLE)
@click.argument("name")
@json_option("Print what is known of it, with its size, as JSON.")
def show(name: str, *, as_json: bool) -> None:
    """Print the recipe NAME as a configuration; its paths are those of the sets as they are distributed."""
    cells = all_cells()
    if name not in cells:
        begin = [each for each in cells if each.startswith(name)]
        near = "\n  these begin so: " + ", ".join(begin) if begin else did_you_mean(name, cells)
        raise ConfigError(f"there is no recipe '{name}'{near}\n  list all: selftrain recipes list")
    cell = cells[name]
    if as_json:
        click.echo("counting …", err=True)  # a large model takes half a minute
        click.echo(json.dumps(_with_size(cell), indent=2, ensure_ascii=False))
        return
    click.echo(_as_yaml(cell), nl=False)


def _facts(cell: Cell) -> dict[str, Any]:
    return {
        "name": cell.name,
        "table": cell.table,
        "cell": cell.label,
        "model": cell.model,
        "paper_result": cell.result,
        "paper_test_result": cell.test_result,
        "alpha": cell.alpha,
        "steps": cell.steps,
        "teacher_steps": cell.teacher_steps,
        "images_seen": images_seen(cell),
        "same_as": same_as(cell),
        "to_make": to_make(cell),
        "ours": ours(cell),
        "differs": differs(cell),
    }


def _with_size(cell: Cell) -> dict[str, Any]:
    from selftrain_core.sizing import size_of_run  # torch takes seconds to import

    size = size_of_run(to_count(cell), activation_checkpointing=False).main
    return {
        "schema": SCHEMA,
        **_facts(cell),
        "params": size.parameters,
        "macs": size.macs,
        "config": recipe_config(cell),
    }


def _as_yaml(cell: Cell) -> str:
    model = MODELS[cell.model]
    metric = "mIoU" if model.classes == "voc" else "AP"
    test = f" ({cell.test_result:g} on test-dev)" if cell.test_result else ""
    lines = [
        f"# {cell.name}",
        f"# Zoph et al. 2020, Table {cell.table}: {cell.label}. There {cell.result:g} % {metric}{test}; not run by us.",
        *(f"# The same as {name}." for name in same_as(cell)),
        "#",
        "# To be made first, once for all recipes on the same set, which lies where the paths below say:",
        *(f"#   {line}" for line in to_make(cell)),
        "#",
        "# What the paper does not state:",
        *_by_reason(ours(cell)),
        "#",
        "# What is done otherwise here:",
        *_by_reason(differs(cell)),
    ]
    parsed(cell)
    return "\n".join(lines) + "\n\n" + yaml.safe_dump(_plain(recipe_config(cell)), sort_keys=False, width=120)


def _by_reason(remarks: Mapping[str, str]) -> list[str]:
    """Return lines of comment: keys of the same reason stand together."""
    keys_of: dict[str, list[str]] = {}
    for key, reason in remarks.items():
        keys_of.setdefault(reason, []).append(key)
    texts = (f"{', '.join(keys)}: {reason}" for reason, keys in keys_of.items())
    return [
        line
        for text in texts
        for line in textwrap.wrap(text, 120, initial_indent="#   ", subsequent_indent="#     ", break_on_hyphens=False)
    ]


def _plain(section: Any) -> Any:
    """Return a copy without shared parts, which YAML would write as anchors."""
    if isinstance(section, dict):
        return {key: _plain(value) for key, value in section.items()}
    return [_plain(value) for value in section] if isinstance(section, list) else section
