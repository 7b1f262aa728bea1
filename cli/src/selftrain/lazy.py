"""A click group that imports a command's module only when the command is used, and takes commands from plugins.

``selftrain --help`` must answer at once: the built-in commands' help lines stand in a table, and plugins are asked only
for a name that is not built in, or when everything is listed.
"""

from __future__ import annotations

import importlib
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from selftrain_core.errors import PluginError, SelftrainError, did_you_mean

if TYPE_CHECKING:
    from selftrain_core.plugins import Registry

Context = click.Context


WANTS_JSON = "selftrain.json"
"""Set in a context's `meta` by a command whose result, and error, is to be JSON on stdout."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system or ``kill`` sends it."""


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command that is not imported yet.

    Attributes:
        reference: ``"module:name"`` of the click command.
        summary: Its line in the list of commands.
    """

    reference: str
    summary: str

    def load(self) -> click.Command:
        """Return the command."""
        module, _, name = self.reference.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group of lazily imported commands, of which more may come from plugins.

    Args:
        lazy: The built-in commands by name, in the order of the help.
        exit_codes: The exit code of each kind of user error; the first that matches counts.
        plugins: Whether plugins may add commands.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, LazyCommand],
        exit_codes: Mapping[type[SelftrainError], int] | None = None,
        plugins: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lazy, self.exit_codes, self.plugins = dict(lazy), dict(exit_codes or {}), plugins
        self._from_plugins: dict[str, click.Command] | None = None

    def list_commands(self, ctx: Context) -> list[str]:
        """Return the names of the built-in commands, then those of plugins."""
        return [*self.lazy, *sorted(self.from_plugins())]

    def get_command(self, ctx: Context, cmd_name: str) -> click.Command | None:
        """Return the command called `cmd_name`, imported now; None where there is none."""
        if cmd_name in self.lazy:
            return self.lazy[cmd_name].load()
        return self.from_plugins().get(cmd_name)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with.

        Raises:
            click.UsageError: There is none of that name; the message lists what exists.
        """
        name = args[0]
        is_option = name.startswith("-")
        if not is_option and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            known = self.list_commands(ctx)
            ctx.fail(f"no command is called '{name}'{did_you_mean(name, known)}; commands: {', '.join(known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the built-in ones."""
        rows = [(name, command.summary) for name, command in self.lazy.items()]
        rows += [
            (name, command.get_short_help_str(formatter.width))
            for name, command in sorted(self.from_plugins().items())
            if not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: Context) -> Any:
        """Run the command; what users can mend ends in a message and an exit code, not in a traceback."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except SelftrainError as error:
            for kind, code in self.exit_codes.items():
                if isinstance(error, kind):
                    click.echo(f"error: {error}", err=True)
                    _as_json(ctx, type(error).__name__, str(error))
                    ctx.exit(code)
            raise
        except KeyboardInterrupt as error:
            is_terminated = isinstance(error, Terminated)
            message = f"{'terminated' if is_terminated else 'interrupted'}; the same command goes on where it stopped"
            click.echo(f"\n{message}", err=True)
            _as_json(ctx, "Terminated" if is_terminated else "Interrupted", message)
            ctx.exit(143 if is_terminated else 130)

    def from_plugins(self) -> dict[str, click.Command]:
        """Return the commands of plugins by name; plugins are asked once.

        A plugin that fails is reported on stderr and left out, with all its commands.
        """
        if self._from_plugins is None:
            self._from_plugins = {}
            if self.plugins:
                for plugin, command in self._ask_plugins():
                    self._add(plugin, command)
        return self._from_plugins

    def _ask_plugins(self) -> Iterator[tuple[str, click.Command]]:
        from selftrain_core.plugins import registry

        try:
            found: Registry = registry()
        except PluginError as error:
            click.echo(f"warning: no command of a plugin is available: {error}", err=True)
            return
        for implementation in found.manager.hook.selftrain_commands.get_hookimpls():
            # A group of its own for each plugin: one that fails half-way leaves nothing behind.
            group = click.Group(self.name)
            try:
                implementation.function(*[{"group": group}[name] for name in implementation.argnames])
            except Exception as error:  # a plugin may fail in any way; what it does must not stop the others
                reason = f"{type(error).__name__}: {error}"
                click.echo(f"warning: the commands of plugin '{implementation.plugin_name}' failed: {reason}", err=True)
                continue
            for command_name, command in group.commands.items():
                command.name = command_name
                yield implementation.plugin_name, command

    def _add(self, plugin: str, command: click.Command) -> None:
        assert self._from_plugins is not None and command.name is not None
        if command.name in self.lazy or command.name in self._from_plugins:
            click.echo(f"warning: the command '{command.name}' of plugin '{plugin}' is left out: it exists", err=True)
            return
        self._from_plugins[command.name] = command


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: what it started is ended too, and the user is told how to go on."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _as_json(ctx: Context, kind: str, message: str) -> None:
    if ctx.meta.get(WANTS_JSON):
        click.echo(json.dumps({"error": {"type": kind, "message": message}}, indent=2, ensure_ascii=False))
