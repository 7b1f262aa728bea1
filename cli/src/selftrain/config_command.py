"""``selftrain config``: a configuration with its defaults filled in, and the JSON schema of all configurations."""

from __future__ import annotations

import json
from pathlib import Path

import click

from selftrain.schema import run_schema
from selftrain_core.config import dump_config, load_config


@click.group()
def config() -> None:
    """Show a resolved configuration, or the schema of all."""


@config.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set", "overrides", metavar="A.B=VALUE", multiple=True, help="A setting that replaces that of the file."
)
def show(config: Path, overrides: tuple[str, ...]) -> None:
    """Print the YAML file CONFIG with every default filled in and every path made absolute."""
    click.echo(dump_config(load_config(config, overrides)), nl=False)


@config.command()
def schema() -> None:
    """Print a JSON schema of configurations, with the settings of every installed component.

    Editors use it to complete and check a configuration while it is typed.
    """
    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))
