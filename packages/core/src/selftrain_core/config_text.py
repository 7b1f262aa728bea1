"""Between a configuration's text and its models: reading YAML, and saying in plain words what is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import IO, Any

import yaml

from selftrain_core.errors import ConfigError

_LONGEST_SHOWN = 100

# What pydantic calls by Python's types, in the words of who writes YAML. Its sentences on ranges are kept.
_TEXT = "expected a text; a number, or a word such as yes or null, needs quotes to be one"
_SETTINGS = "expected settings, each as `key: value`"
_LIST = "expected a list, such as [first, second]"
_EXPECTED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": _SETTINGS,
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "list_type": _LIST,
    "mapping_type": _SETTINGS,
    "model_attributes_type": _SETTINGS,
    "model_type": _SETTINGS,
    "path_type": "expected a path",
    "string_type": _TEXT,
    "tuple_type": _LIST,
}
_BRANCH_OF_A_UNION = re.compile(r"(function-(after|before|wrap|plain)|lax-or-strict|json-or-python|tuple|list|dict)\[")
_A_KEY = "[key]"  # what pydantic writes behind a key that is wrong itself


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"the key '{key.value}' is given twice, in the lines {lines[key.value]} and {line}; take one out"
                )
            lines[key.value] = line
        return node


def read_yaml(text: IO[bytes] | str) -> Any:
    """Return what a YAML text holds; nothing in it is run.

    Raises:
        ConfigError: It is no valid YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not, bytes
        hint = "\n  YAML is indented with spaces, not with tabs" if r"'\t'" in str(error) else ""
        raise ConfigError(f"no valid YAML: {error}{hint}") from error


def explain_errors(errors: Iterable[Any]) -> list[str]:
    """Return a line for each thing that is wrong: where, what was expected, what was given.

    Args:
        errors: What pydantic's `ValidationError.errors` returned.
    """
    found = list(errors)
    wrong_within = {error["loc"][:-1] for error in found}
    # Of a list whose elements are wrong pydantic also says that it is too short.
    meant = [error for error in found if error["type"] != "too_short" or error["loc"] not in wrong_within]
    return list(dict.fromkeys(map(_explain, meant)))


def _explain(error: Any) -> str:
    parts = [str(part) for part in error["loc"] if part != _A_KEY and not _BRANCH_OF_A_UNION.match(str(part))]
    return f"  {'.'.join(parts) or '(top level)'}: {_expected(error)}{_given(error)}"


def _expected(error: Any) -> str:
    kind, bounds = error["type"], error.get("ctx", {})
    if kind == "missing":
        is_element = isinstance(error["loc"][-1], int)
        return "is missing: another value is expected" if is_element else "is missing, and has no default"
    if kind == "too_short":
        return f"expected {bounds['min_length']} or more values"
    if kind == "too_long":
        return f"expected {bounds['max_length']} values at most"
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    return _EXPECTED.get(kind, message)


def _given(error: Any) -> str:
    given = error["input"]
    if given is None:
        return " (given nothing)"
    if isinstance(given, Mapping):
        return ""  # a whole section says nothing; a value does
    text = repr(given)
    return f" (given {text if len(text) <= _LONGEST_SHOWN else f'{text[:_LONGEST_SHOWN]}…'})"
