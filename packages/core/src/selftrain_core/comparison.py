"""How two configurations differ, and what of a run that would make again. No image is looked at, and no torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selftrain_core import sets
from selftrain_core.config import RunConfig
from selftrain_core.config_model import DataSourceChoice, identity
from selftrain_core.digest import changes, flatten
from selftrain_core.rounds import rounds
from selftrain_core.workshop import Workshop, source_identities

RESULT, DATA, PLACE = "result", "data", "place"
"""What a setting can change: a result; a result if other images or labels lie there; only where or how it runs."""


def compare(first: RunConfig, second: RunConfig) -> dict[str, Any]:
    """Return how `second` differs from `first`, as JSON values.

    ``settings`` lists each differing setting with its ``key``, both values and what it ``changes``. Of the stages of a
    run that `first` finished, `second` would make those in ``made_again`` again whatever the data, and those in
    ``made_again_if_data_differs`` if other images or labels lie where it says; it has the ``added`` stages beside them,
    and has no use for those in ``dropped``.
    """
    settings = [
        {"key": key, "first": old, "second": new, "changes": _effect(key, first, second)}
        for key, old, new in changes(first.model_dump(mode="json"), second.model_dump(mode="json"))
    ]
    before, after = _digests(first, with_paths=False), _digests(second, with_paths=False)
    certain = _changed(before, after)
    possible = _changed(_digests(first, with_paths=True), _digests(second, with_paths=True))
    return {
        "schema": 1,
        "settings": settings,
        "made_again": certain,
        "made_again_if_data_differs": [name for name in possible if name not in certain],
        "added": [name for name in after if name not in before],
        "dropped": [name for name in before if name not in after],
    }


def _effect(key: str, first: RunConfig, second: RunConfig) -> str:
    if key == "data.classes":
        return RESULT if first.data.class_names() != second.data.class_names() else PLACE
    if any(key in flatten(identity(config)) for config in (first, second)):
        return RESULT
    return DATA if key.startswith("data.") else PLACE


def _digests(config: RunConfig, *, with_paths: bool) -> dict[str, str]:
    """Return the digest of each stage, as if the data were what the settings say of it."""
    data: dict[str, Any] = {role: _said_of(config, role, with_paths=with_paths) for role in config.data.parts()}
    if config.pretraining is not None:
        data["pretraining"] = _terms(config.pretraining.images, config.data.sources) if with_paths else []
    for name, joint in config.joint.items():
        read_by = [joint.sources[each].identity() for _, each in sets.parse(joint.labelled, joint.sources)]
        data[f"joint.{name}"] = _terms(joint.labelled, joint.sources) if with_paths else read_by
    work = Workshop(config, data)
    rounds(work, config)
    return {stage.name: stage.digest for stage in work.stages}


def _said_of(config: RunConfig, role: str, *, with_paths: bool) -> list[Any]:
    if not with_paths:
        return source_identities(config, role)
    return _terms(config.data.parts()[role], config.data.sources)


def _terms(expression: str, sources: Mapping[str, DataSourceChoice]) -> list[Any]:
    return [(sign, sources[name].model_dump(mode="json")) for sign, name in sets.parse(expression, sources)]


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name, digest in after.items() if before.get(name, digest) != digest]
