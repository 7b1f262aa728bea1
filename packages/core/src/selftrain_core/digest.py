"""What identifies a stage's result, and how two such identities differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def digest(identity: Mapping[str, Any]) -> str:
    """Return 16 hex digits for a JSON-like document; the order of keys does not matter."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


ABSENT = "(absent)"


def difference(before: Mapping[str, Any], after: Mapping[str, Any], spoken: Callable[[str], str] = str) -> list[str]:
    """Return one line per setting that differs: ``a.b: old → new``.

    Args:
        before: The earlier document.
        after: The later one.
        spoken: Gives a key the name that people know it by.
    """
    return [f"{spoken(key)}: {old} → {new}" for key, old, new in changes(before, after)]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, earlier value, later value) of each setting that differs."""
    old, new = flatten(before), flatten(after)
    return [
        (key, old.get(key, ABSENT), new.get(key, ABSENT))
        for key in dict.fromkeys([*old, *new])
        if old.get(key, ABSENT) != new.get(key, ABSENT)
    ]


def flatten(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document's values by their dotted keys."""
    return dict(_flatten(document))


def _flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
