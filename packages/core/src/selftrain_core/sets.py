"""Set expressions over named data sources: ``train - labelled + photos``, read from left to right."""

from __future__ import annotations

import re
from collections.abc import Collection

from selftrain_core.errors import ConfigError, did_you_mean

_PART = re.compile(r"\s*([+\-−]|[^\s+\-−][^\s+−]*)")


def parse(expression: str, known: Collection[str]) -> list[tuple[int, str]]:
    """Return the terms of `expression` as (+1 or -1, source name), in order.

    A name may contain a hyphen; a minus sign therefore stands between spaces.

    Raises:
        ConfigError: The expression is malformed or names a source that is not in `known`.
    """
    parts = _PART.findall(expression)
    if not parts or len(parts) % 2 == 0:
        raise ConfigError(f"'{expression}' is no set expression; an example: 'train - labelled + photos'")
    terms: list[tuple[int, str]] = []
    for position, part in enumerate(parts):
        is_sign = part in "+-−"
        if is_sign != (position % 2 == 1):
            raise ConfigError(f"'{expression}' is no set expression; an example: 'train - labelled + photos'")
        if is_sign:
            continue
        if part not in known:
            raise ConfigError(
                f"'{expression}' names the source '{part}', which is not under data.sources"
                f"{did_you_mean(part, known)}; sources: {', '.join(sorted(known)) or 'none'}"
            )
        sign = -1 if position and parts[position - 1] in "-−" else 1
        terms.append((sign, part))
    return terms
