"""The options that several commands share, each with the same words everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from selftrain.lazy import WANTS_JSON

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]

config_argument = click.argument("config", type=click.Path(path_type=Path))

set_option = click.option(
    "--set",
    "overrides",
    metavar="A.B=VALUE",
    multiple=True,
    help="A setting that replaces that of the file, such as student.steps=500; may be given again.",
)


def json_option(text: str) -> Decorator[Any]:
    """Return the option ``--json``, with which errors too are JSON on stdout.

    Args:
        text: Its line in the help.
    """

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:  # click's signature
        ctx.meta[WANTS_JSON] = value
        return value

    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=remember, help=text)


def run_options(function: Function) -> Function:
    """Give a command what every command has that works in a run's folder."""
    options: list[Decorator[Any]] = [
        config_argument,
        click.option(
            "-o",
            "--output",
            "folder",
            metavar="RUN",
            required=True,
            type=click.Path(path_type=Path),
            help="The run's folder.",
        ),
        set_option,
        click.option(
            "--start-over", is_flag=True, help="Remove and make again the stages whose settings or data have changed."
        ),
        click.option("--dry-run", is_flag=True, help="Say what would be done with each stage, and do nothing."),
        json_option("Print the result, or the error, as JSON on stdout; progress goes to stderr."),
        click.option("--in-process", is_flag=True, help="Run the stages in this process, for debuggers."),
    ]
    return reduce(lambda wrapped, option: option(wrapped), reversed(options), function)
