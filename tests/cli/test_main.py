from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

import selftrain
from selftrain.lazy import LazyCommand, LazyGroup
from selftrain.main import COMMANDS, EXIT_CODES, main
from selftrain_core import errors, plugins
from selftrain_core.hookspecs import ENTRY_POINT_GROUP, hookimpl

HEAVY = ("torch", "pydantic", "kornia", "timm", "sklearn", "rich", "matplotlib", "pyarrow")


def heavy_imports(arguments: list[str], before: str = "") -> list[str]:
    """Return which heavy packages a fresh process has imported after `selftrain ARGUMENTS`."""
    code = f"""
import json, sys
{before}
from selftrain.main import main
main({arguments!r}, standalone_mode=False)
print("\\n" + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(option: str) -> None:
    assert heavy_imports([option]) == []


def test_the_check_for_heavy_imports_can_fail() -> None:
    assert heavy_imports(["--help"], before="import pydantic") == ["pydantic"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugins"],
        ["config", "schema"],
        *([name, "--help"] for name in ("run", "demo", "predict", "labels", "init", "augment", "recipes", "plan")),
    ],
)
def test_no_command_imports_torch_to_start(arguments: list[str]) -> None:
    assert "torch" not in heavy_imports(arguments)


def test_help_lists_every_command_and_the_exit_codes() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name, command in COMMANDS.items():
        assert f"  {name}" in shown.output
        assert command.summary in shown.output
    assert "Exit codes:" in shown.output
    assert "  3    a run folder or a pseudo-label store cannot be used" in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.startswith(f"Usage: main {name}")


RUN_OPTIONS = ["--dry-run", "--in-process", "--json", "--output", "--set", "--start-over", "-o", "config"]


def test_options_are_few_and_known() -> None:
    """The command line is frozen here: an option is added on purpose, with its row in the README."""
    options = {
        name: sorted(opt for parameter in command.load().params for opt in parameter.opts)
        for name, command in COMMANDS.items()
    }
    assert options == {
        "run": RUN_OPTIONS,
        "pretrain": RUN_OPTIONS,
        "teach": RUN_OPTIONS,
        "label": sorted([*RUN_OPTIONS, "--round"]),
        "learn": sorted([*RUN_OPTIONS, "--round"]),
        "evaluate": RUN_OPTIONS,
        "split": [
            "--count",
            "--force",
            "--fraction",
            "--output",
            "--seed",
            "--set",
            "--source",
            "--test",
            "--validation",
            "-o",
            "config",
        ],
        "predict": [
            "--batch",
            "--device",
            "--flip",
            "--json",
            "--model",
            "--no-overlays",
            "--output",
            "--overwrite",
            "--scales",
            "--threshold",
            "--weights",
            "-o",
            "paths",
        ],
        "labels": [],
        "init": ["--force", "--format", "--images", "--json", "--masks", "--minutes", "--output", "-o", "folder"],
        "demo": ["--output", "--seed", "--task", "-o"],
        "augment": [],
        "recipes": [],
        "plan": ["--activation-checkpointing", "--gpu-memory", "--json", "--set", "recipe"],
        "plugins": ["--json", "name"],
        "config": [],
    }


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"selftrain, version {selftrain.__version__}\n"


def test_unknown_command_says_what_exists() -> None:
    result = CliRunner().invoke(main, ["plugin"])
    assert result.exit_code == 2
    assert (
        "no command is called 'plugin' (did you mean 'plugins'?); commands: run, pretrain, teach, label, learn, "
        in (result.output)
    )


def group_with(function: Callable[[], None]) -> LazyGroup:
    """Return a group with the exit codes of the real one, and one command."""
    return LazyGroup(
        "selftrain",
        lazy={"work": LazyCommand(f"{register(function)}:command", "Work.")},
        exit_codes=EXIT_CODES,
    )


def register(function: Callable[[], None]) -> str:
    module = ModuleType("selftrain_test_command")
    module.command = click.command("work")(function)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return module.__name__


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.UnknownComponentError, 2),
        (errors.PluginError, 2),
        (errors.DataError, 2),
        (errors.RunError, 3),
        (errors.StoreError, 3),
        (errors.StageFailedError, 4),
    ],
)
def test_what_users_can_mend_is_a_message_and_an_exit_code(error: type[Exception], code: int) -> None:
    def work() -> None:
        raise error("first line\n  second line")

    result = CliRunner().invoke(group_with(work), ["work"])
    assert result.exit_code == code
    assert result.stderr == "error: first line\n  second line\n"
    assert result.stdout == ""


def test_every_user_error_has_an_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for kind in kinds:
        handled = any(issubclass(kind, known) for known in EXIT_CODES)
        assert handled == issubclass(kind, errors.SelftrainError), kind


@pytest.mark.parametrize("error", [errors.ContractError("bug"), ZeroDivisionError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    def work() -> None:
        raise error

    result = CliRunner().invoke(group_with(work), ["work"])
    assert result.exit_code == 1
    assert result.exception is error


def test_interrupt_is_130() -> None:
    def work() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(group_with(work), ["work"])
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_sigterm_is_143() -> None:
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    result = CliRunner().invoke(group_with(work), ["work"])
    assert result.exit_code == 143
    assert result.stderr == "\nterminated; the same command goes on where it stopped\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_every_exit_code_is_in_the_help() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    for code in (0, 1, *EXIT_CODES.values(), 130, 143):
        assert re.search(rf"^ +{code} +\w", shown, re.MULTILINE), code


def test_a_missing_configuration_in_a_real_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from selftrain.main import main; main()", "run", "nowhere.yaml", "-o", "out"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == "error: the configuration nowhere.yaml cannot be read: No such file or directory\n"


def test_lazy_commands_are_imported_when_used_alone() -> None:
    group = LazyGroup("g", lazy={"gone": LazyCommand("selftrain_no_such_module:command", "Not there.")})
    assert "Not there." in CliRunner().invoke(group, ["--help"]).output
    assert isinstance(CliRunner().invoke(group, ["gone"]).exception, ModuleNotFoundError)


def plugin(monkeypatch: pytest.MonkeyPatch, **implementations: Callable[..., None]) -> LazyGroup:
    """Return a group that finds the given plugins: by name, the implementation of `selftrain_commands`."""
    entries = []
    for name, implementation in implementations.items():
        module = ModuleType(f"selftrain_test_{name}")
        module.selftrain_commands = hookimpl(implementation)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entries.append(EntryPoint(name, module.__name__, ENTRY_POINT_GROUP))
    found = plugins.load_registry(entries, installed=False)
    monkeypatch.setattr(plugins, "registry", lambda: found)
    return LazyGroup("selftrain", lazy=COMMANDS, exit_codes=EXIT_CODES, plugins=True)


def greeting(group: click.Group) -> None:
    @group.command()
    def greet() -> None:
        """Greet somebody."""
        click.echo("hello")


def test_plugins_add_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    group = plugin(monkeypatch, polite=greeting)
    assert re.search(r"^  greet +Greet somebody\.$", CliRunner().invoke(group, ["--help"]).output, re.MULTILINE)
    assert CliRunner().invoke(group, ["greet"]).output == "hello\n"


def test_a_plugin_that_fails_is_reported_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def halfway(group: click.Group) -> None:
        group.add_command(click.Command("half"))
        raise ValueError("out of ideas")

    group = plugin(monkeypatch, halfway=halfway, polite=greeting)
    shown = CliRunner().invoke(group, ["--help"])
    assert shown.exit_code == 0
    assert shown.stderr == "warning: the commands of plugin 'halfway' failed: ValueError: out of ideas\n"
    assert "greet" in shown.stdout
    assert "half" not in shown.stdout


def test_a_plugin_cannot_take_the_place_of_another_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def taker(group: click.Group) -> None:
        group.add_command(click.Command("run"))
        greeting(group)

    group = plugin(monkeypatch, polite=greeting, taker=taker)
    shown = CliRunner().invoke(group, ["--help"])
    assert "warning: the command 'run' of plugin 'taker' is left out: it exists" in shown.stderr
    assert "warning: the command 'greet' of plugin 'taker' is left out: it exists" in shown.stderr
    assert COMMANDS["run"].summary in shown.stdout


def test_contradicting_plugins_do_not_kill_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def contradiction() -> plugins.Registry:
        raise errors.PluginError("two plugins are called 'x'")

    monkeypatch.setattr(plugins, "registry", contradiction)
    shown = CliRunner().invoke(LazyGroup("g", lazy=COMMANDS, plugins=True), ["--help"])
    assert shown.exit_code == 0
    assert "no command of a plugin is available: two plugins are called 'x'" in shown.stderr
    assert "demo" in shown.stdout


def test_plugins_are_not_asked_for_a_command_that_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    group = plugin(monkeypatch, curious=lambda group: asked.append(group.name))
    assert CliRunner().invoke(group, ["run", "--help"]).exit_code == 0
    assert asked == []
