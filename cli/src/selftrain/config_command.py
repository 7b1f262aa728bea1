"""``selftrain config``: a configuration with its defaults filled in, how two differ, and the JSON schema of all."""

from __future__ import annotations

import json
from pathlib import Path

import click

from selftrain.options import json_option, set_option
from selftrain.reference import reference as reference_text
from selftrain.schema import run_schema
from selftrain.summary_table import format_table
from selftrain_core.comparison import compare
from selftrain_core.config import RunConfig, dump_config, load_config
from selftrain_core.errors import ConfigError

_EFFECTS = {
    "result": "changes results",
    "data": "changes results if other images or labels lie there",
    "place": "changes only where or how it runs",
}


@click.group()
def config() -> None:
    """Show a resolved configuration, how two of them differ, or the schema of all."""


@config.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
def show(config: Path, overrides: tuple[str, ...]) -> None:
    """Print the YAML file CONFIG with every default filled in and every path made absolute."""
    click.echo(dump_config(load_config(config, overrides)), nl=False)


@config.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@json_option("Print JSON.")
def diff(first: Path, second: Path, *, as_json: bool) -> None:
    """Print the settings that differ between A and B, each a YAML file or the folder of a run.

    Defaults are filled in before. What changes a result is told from what only changes where or how it runs, and the
    stages that B would make again in a folder that A has finished are named. The exit code is 0 whether they differ or
    not: 1 would mean a bug.
    """
    compared = compare(_load(first), _load(second))
    if as_json:
        click.echo(json.dumps(compared, indent=2, ensure_ascii=False))
        return
    if not compared["settings"]:
        click.echo("no setting differs")
        return
    rows = [
        (each["key"], str(each["first"]), str(each["second"]), _EFFECTS[each["changes"]])
        for each in compared["settings"]
    ]
    click.echo(format_table([("setting", str(first), str(second), ""), *rows]))
    click.echo(f"\nIn a run that {first} has finished, {second}")
    click.echo(f"  makes again: {', '.join(compared['made_again']) or 'nothing'}")
    for key, words in (
        ("made_again_if_data_differs", "makes again if other images or labels lie there"),
        ("added", "adds"),
        ("dropped", "has no use for"),
    ):
        if compared[key]:
            click.echo(f"  {words}: {', '.join(compared[key])}")


def _load(path: Path) -> RunConfig:
    if not path.is_dir():
        return load_config(path)
    written = path / "config.yaml"
    if not written.is_file():
        raise ConfigError(f"{path} is a folder without a config.yaml; give a YAML file, or the folder of a run")
    return load_config(written)


@config.command()
def schema() -> None:
    """Print a JSON schema of configurations, with the settings of every installed component.

    Editors use it to complete and check a configuration while it is typed.
    """
    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


@config.command()
def reference() -> None:
    """Print every setting there is, with the settings of every installed component, as Markdown."""
    click.echo(reference_text(), nl=False)
