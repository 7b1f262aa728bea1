"""What identifies a stage's result, and how two such identities differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def digest(identity: Mapping[str, Any]) -> str:
    """Return 16 hex digits for a JSON-like document; the order of keys does not matter."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return one line per setting that differs: ``a.b: old → new``."""
    old, new = dict(_flatten(before)), dict(_flatten(after))
    absent = "(absent)"
    return [
        f"{key}: {old.get(key, absent)} → {new.get(key, absent)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key, absent) != new.get(key, absent)
    ]


def _flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
