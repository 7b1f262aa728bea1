"""JSON that is read one element after the other."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core import json_stream
from selftrain_core.json_stream import JsonStream


class Dripping(io.StringIO):
    """Gives a character at a time."""

    def read(self, size: int | None = -1) -> str:
        return super().read(min(size or 1, 1))


def everything(stream: JsonStream) -> dict[str, Any]:
    return {key: list(stream.items()) if stream.peek() == "[" else stream.value() for key in stream.members()}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", [io.StringIO, Dripping])
@given(value=st.dictionaries(st.text(max_size=3), VALUES, max_size=4), indent=st.none() | st.just(2))
def test_json_is_read_as_json_does(kind: Any, value: dict[str, Any], indent: int | None) -> None:
    assert everything(JsonStream(kind(json.dumps(value, indent=indent) + " \n"))) == value


def test_no_more_is_held_than_an_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", 64)
    stream = JsonStream(io.StringIO(json.dumps({"a": [[n] * 5 for n in range(10_000)]})))
    assert next(stream.members()) == "a"
    longest = max(len(stream._text) for _ in stream.items())
    assert longest < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"Expecting '\{', at character 1$"),
        ("[1]", r"Expecting '\{', at character 1$"),
        ('{"a": [1, 2', r"Expecting ',', at character 12$"),
        ('{"a": [1 2]}', r"Expecting ',', at character 10$"),
        ('{"a": [1, }]}', r"Expecting value, at character 11$"),
        ('{"a": "x', r"Unterminated string starting at, at character 7$"),
        ('{"a": 1} 2', r"there is more behind the end, at character 10$"),
        ('{"a" 1}', r"Expecting ':', at character 6$"),
        ("{a: 1}", r"Expecting property name enclosed in double quotes, at character 2$"),
        ('{"a": ' + "[" * 100_000, r"at character \d+$"),
        ('{"a": {"b": ' + "9" * 5000 + "}}", r"Exceeds the limit .*, at character 7$"),
    ],
    ids=range(11),
)
@pytest.mark.parametrize("kind", [io.StringIO, Dripping])
def test_what_is_no_json_is_explained(kind: Any, text: str, message: str) -> None:
    if kind is Dripping and len(text) > 1000:
        text = text[:6] + text[6:].replace("[" * 1000, "[")  # a character at a time takes its time
    with pytest.raises(ValueError, match=message):
        everything(JsonStream(kind(text)))
