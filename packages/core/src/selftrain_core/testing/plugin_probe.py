"""Run as a script by `check_plugin`: loads one plugin step by step and prints, as JSON, what is wrong with it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any

KINDS = ("tasks", "backbones", "augmentations", "policies", "data_sources", "accelerators")
HEAVY = ("torch", "pydantic", "kornia")


def main(module_name: str) -> list[str]:
    """Return what is wrong with the plugin in `module_name`."""
    before = set(sys.modules)
    module = importlib.import_module(module_name)
    problems = [f"the plugin module imports {name}" for name in _strangers(set(sys.modules) - before, module_name)]
    specs = [(kind, spec) for kind in KINDS for spec in getattr(module, f"selftrain_{kind}", list)()]
    # Lightest first: what is imported stays imported.
    for _, spec in specs:
        problems += _config_problems(spec)
    for kind, spec in specs:
        if kind == "data_sources":
            problems += _load_problems(kind, spec, light=True)
    for kind, spec in specs:
        if kind != "data_sources":
            problems += _load_problems(kind, spec, light=False)
    return problems


def _strangers(imported: set[str], module_name: str) -> list[str]:
    own = module_name.partition(".")[0]
    allowed = {*sys.stdlib_module_names, "pluggy", own}
    core = {"selftrain_core", "selftrain_core.hookspecs", "selftrain_core.errors"}
    from_others = {name for name in imported if name.partition(".")[0] not in allowed}
    return sorted(
        {name if name.startswith("selftrain_core") else name.partition(".")[0] for name in from_others - core}
    )


def _config_problems(spec: Any) -> Iterator[str]:
    try:
        model = _resolve(spec.config)
    except Exception as error:  # whatever it is, it goes into the list
        yield f"the config of '{spec.name}', {spec.config}, cannot be imported: {type(error).__name__}: {error}"
        return
    if "torch" in sys.modules:
        yield f"the config of '{spec.name}', {spec.config}, imports torch"
    from pydantic import BaseModel

    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        yield f"the config of '{spec.name}', {spec.config}, is no pydantic model"


def _load_problems(kind: str, spec: Any, *, light: bool) -> Iterator[str]:
    try:
        loaded = _resolve(spec.load)
    except Exception as error:  # as above
        yield f"'{spec.name}', {spec.load}, cannot be imported: {type(error).__name__}: {error}"
        return
    if light and "torch" in sys.modules:
        yield f"the data source '{spec.name}', {spec.load}, imports torch"
    expected = _interface(kind)
    if not (isinstance(loaded, type) and issubclass(loaded, expected)):
        yield f"'{spec.name}', {spec.load}, is no {expected.__name__}"


def _interface(kind: str) -> type:
    if kind == "data_sources":
        from selftrain_core.data_source import DataSource

        return DataSource
    from selftrain_core import interfaces

    return {
        "tasks": interfaces.Task,
        "backbones": interfaces.Backbone,
        "augmentations": interfaces.Augmentation,
        "policies": interfaces.PseudoLabelPolicy,
        "accelerators": interfaces.Accelerator,
    }[kind]


def _resolve(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))  # noqa: T201  # what the parent reads
