"""The errors that users meet. Each message says what was given, what was expected, and how to go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class SelftrainError(Exception):
    """Base of every error whose text is written for the user: the CLI prints it without a traceback."""


class ConfigError(SelftrainError):
    """The configuration is wrong: a typo, a wrong type, a value out of range."""


class StridesError(ConfigError):
    """A backbone does not give the feature maps that a task asks for.

    Args:
        text: What was asked for, and what there is.
        offers: The strides the backbone offers at each output stride it can keep; None is its own.
    """

    def __init__(self, text: str, offers: Mapping[int | None, tuple[int, ...]] | None = None) -> None:
        super().__init__(text)
        self.offers = dict(offers or {})


class PluginError(SelftrainError):
    """Plugins contradict each other or the hook specifications."""


class UnknownComponentError(SelftrainError):
    """A component was asked for by a name that no plugin offers."""


class DataError(SelftrainError):
    """An image, a label or a list of them cannot be used."""


class StoreError(SelftrainError):
    """A pseudo-label store is unsealed, damaged, or made for something else."""


class RunError(SelftrainError):
    """A run folder cannot be used: in use, owned by another configuration, or changed underneath."""


class StageFailedError(SelftrainError):
    """A stage process ended without finishing its work."""


class ContractError(Exception):
    """A component broke its contract: a programming error in a plugin, not in the user's input."""


def error_named(name: str) -> type[SelftrainError]:
    """Return the error class of that name, or `StageFailedError`: how an error crosses from one process to another."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, SelftrainError) else StageFailedError


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""
