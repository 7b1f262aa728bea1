"""Which versions a result was made with. No torch here: versions come from the packages' metadata."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

RECORDED = (
    "selftrain-core",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "segmentation-models-pytorch",
    "kornia",
)
ABSENT = "(not installed)"


def environment() -> dict[str, str]:
    """Return the versions of Python and of the packages whose numbers end up in a result."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ABSENT
    return versions


def other_versions(recorded: Mapping[str, str]) -> str:
    """Return how this process's versions differ from those recorded, empty where they do not.

    They are no part of a stage's identity: a new release of a library makes no result worthless, but is worth a word.
    """
    now = environment()
    changes = [f"{name} {then} → {now.get(name, ABSENT)}" for name, then in recorded.items() if now.get(name) != then]
    return ", ".join(changes)
