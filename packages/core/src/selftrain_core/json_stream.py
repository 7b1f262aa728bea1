"""Reading JSON whose arrays are larger than memory should be: one element after the other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 20
"""Characters that are read at once."""
_TAIL = 3
"""Characters behind a number that tell that it ends there: in '1e+' they are not yet enough."""


class JsonStream:
    """An object at the top of a JSON text, read member by member, and arrays in it element by element.

    Args:
        file: The text.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0
        self._decode = json.JSONDecoder().raw_decode

    def members(self) -> Iterator[str]:
        """Yield the keys of the object; before the next, `value` or `items` is to be read to its end.

        Raises:
            ValueError: It is no JSON.
        """
        yield from self._separated("{", "}", self._key)
        if self.peek():
            raise self._wrong("there is more behind the end")

    def items(self) -> Iterator[Any]:
        """Yield the elements of an array.

        Raises:
            ValueError: It is no array, or no JSON.
        """
        return self._separated("[", "]", self.value)

    def peek(self) -> str:
        """Return the next character that is no space, or an empty string at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def value(self) -> Any:
        """Return the next value, whole.

        Raises:
            ValueError: It is no JSON.
        """
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                further = error.pos - self._at
                if self._read():
                    continue  # what looks broken may break off
                raise self._wrong(error.msg, further) from error
            except (ValueError, RecursionError) as error:
                raise self._wrong(str(error)) from error
            if type(value) in (int, float) and len(self._text) - end < _TAIL and self._read():
                continue  # it may go on
            self._at = end
            return value

    def _key(self) -> str:
        if self.peek() != '"':
            raise self._wrong("Expecting property name enclosed in double quotes")
        key = self.value()
        self._take(":")
        return str(key)

    def _separated(self, opening: str, closing: str, element: Any) -> Iterator[Any]:
        self._take(opening)
        if self.peek() == closing:
            self._take(closing)
            return
        while True:
            yield element()
            if self.peek() == closing:
                self._take(closing)
                return
            self._take(",")

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._wrong(f"Expecting '{character}'")
        self._at += 1

    def _read(self) -> bool:
        """Read on, as much as is waiting at least, so that a long value is not begun too often."""
        more = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _wrong(self, what: str, further: int = 0) -> ValueError:
        return ValueError(f"{what}, at character {self._before + self._at + further + 1:,}")
