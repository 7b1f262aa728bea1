"""What the contract suites of all kinds of components share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ValidationError

from selftrain_core.plugins import Found, Kind, config_model, load_component, registry


class ComponentContract:
    """Checks that hold for every component. Inherit from the suite of its kind, not from this one.

    A check is a method whose name starts with ``test_``; pytest runs those of every subclass called ``Test…``.
    """

    kind: ClassVar[Kind]
    interface: ClassVar[type]
    """The abstract class that the component fulfils."""
    spec_name: ClassVar[str] = ""
    """The component's name, as in a configuration."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Settings beside the name."""

    def found(self) -> Found:
        """Return the component's spec."""
        return registry().find(self.kind, self.spec_name)

    def load(self) -> Any:
        """Return the component's class."""
        return load_component(self.found())

    def settings_model(self) -> type[BaseModel]:
        """Return the model of the component's settings."""
        return config_model(self.found())

    def settings(self) -> BaseModel:
        """Return the settings that `options` gives."""
        return self.settings_model().model_validate(dict(self.options))

    def test_class_fulfils_the_interface(self) -> None:
        """The class is a subclass of its interface, and leaves nothing abstract."""
        loaded = self.load()
        assert isinstance(loaded, type), f"{loaded!r} is no class"
        assert issubclass(loaded, self.interface), f"{loaded} is no subclass of {self.interface}"
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        assert not missing, f"{loaded} does not implement {missing}"

    def test_settings_round_trip(self) -> None:
        """Settings written as YAML or JSON and read back are the same settings."""
        settings = self.settings()
        dumped = settings.model_dump(mode="json")
        for name, copy in (("YAML", yaml.safe_load(yaml.safe_dump(dumped))), ("JSON", json.loads(json.dumps(dumped)))):
            again = self.settings_model().model_validate(copy)
            assert again == settings, f"settings change on their way through {name}: {settings!r} → {again!r}"

    def test_settings_refuse_unknown_keys(self) -> None:
        """A key that does not exist is an error, not a silence."""
        dumped = self.settings().model_dump(mode="json")
        with raises(ValidationError, "settings with the unknown key 'no_such_key'"):
            self.settings_model().model_validate({**dumped, "no_such_key": 1})

    def test_settings_are_frozen(self) -> None:
        """Settings cannot be changed after they were read: the configuration on disk is what ran."""
        assert self.settings_model().model_config.get("frozen"), "the settings' model is not frozen"


@contextmanager
def raises(expected: type[Exception], what: str) -> Iterator[list[str]]:
    """Assert that the block raises `expected`; the list then holds the error's text.

    Raises:
        AssertionError: It raised nothing.
    """
    text: list[str] = []
    try:
        yield text
    except expected as error:
        text.append(str(error))
        return
    raise AssertionError(f"{what}: {expected.__name__} was expected, nothing was raised")


def run_check(suite: type[ComponentContract], check: str, component: type, settings: type[BaseModel]) -> None:
    """Run one check of a suite on a class that no plugin offers.

    Args:
        suite: The suite.
        check: The check's name.
        component: What the suite's `load` returns.
        settings: The model of its settings.

    Raises:
        AssertionError: The component breaks what is checked.
    """
    overrides = {"load": lambda _: component, "settings_model": lambda _: settings}
    getattr(type(suite.__name__, (suite,), overrides)(), check)()


def checks(suite: type[ComponentContract]) -> list[str]:
    """Return the names of a suite's checks."""
    return [name for name in dir(suite) if name.startswith("test_")]


def assert_equal(actual: Any, expected: Any, what: str, *, atol: float = 0.0) -> None:
    """Assert that two trees of tensors, arrays, dataclasses, mappings and sequences are equal, or close to `atol`.

    Raises:
        AssertionError: They differ; the message says where.
    """
    if isinstance(expected, (torch.Tensor, np.ndarray)):
        _assert_arrays(_array(actual), _array(expected), what, atol)
    elif isinstance(expected, Mapping):
        assert set(actual) == set(expected), f"{what}: keys {sorted(actual)}, expected {sorted(expected)}"
        for key, value in expected.items():
            assert_equal(actual[key], value, f"{what}[{key!r}]", atol=atol)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), f"{what}: {len(actual)} items, expected {len(expected)}"
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(one, other, f"{what}[{number}]", atol=atol)
    elif hasattr(expected, "__dataclass_fields__"):
        for name in expected.__dataclass_fields__:
            assert_equal(getattr(actual, name), getattr(expected, name), f"{what}.{name}", atol=atol)
    else:
        assert actual == expected, f"{what}: {actual!r}, expected {expected!r}"


def is_equal(actual: Any, expected: Any) -> bool:
    """Return whether `assert_equal` would pass."""
    try:
        assert_equal(actual, expected, "")
    except AssertionError:
        return False
    return True


def _array(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _assert_arrays(actual: Any, expected: Any, what: str, atol: float) -> None:
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    close = np.isclose(actual, expected, rtol=0, atol=atol, equal_nan=True) if atol else actual == expected
    if not np.all(close):
        worst = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max()
        raise AssertionError(f"{what}: {np.sum(~close)} of {close.size} values differ, by up to {worst:g}")
