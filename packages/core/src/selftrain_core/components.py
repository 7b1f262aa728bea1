"""Building components from the choices in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from selftrain_core.config_model import AugmentationChoice, BackboneChoice, PolicyChoice, TaskChoice
from selftrain_core.errors import ConfigError, StridesError
from selftrain_core.interfaces import Augmentation, Backbone, PseudoLabelPolicy, Task
from selftrain_core.plugins import load_component, registry


def build_backbone(choice: BackboneChoice, strides: Sequence[int], output_stride: int | None = None) -> Backbone:
    """Return the backbone at random weights; `Backbone.initialise` gives it its init."""
    found = registry().find(choice.kind, choice.name)
    backbone: Backbone = load_component(found)(choice.options, found.member, strides, output_stride)
    return backbone


def build_model(task: Task[Any, Any], choice: BackboneChoice) -> tuple[nn.Module, Backbone]:
    """Return the task's model at random weights, and the backbone in it.

    The backbone is asked for the task's optional strides too, and where it does not offer all of them, for none.

    Raises:
        ConfigError: The backbone cannot give what the task reads; the message names what fits.
    """
    try:
        backbone = _with_optional_strides(task, choice) or build_backbone(choice, task.strides, task.output_stride)
    except StridesError as error:
        advice = task.alternatives(error.offers)
        raise ConfigError(f"{error}\n  {advice}" if advice else str(error)) from error
    return task.build_model(backbone), backbone


def backbone_of(model: nn.Module) -> Backbone:
    """Return the backbone in a task's model, the outermost if it wraps another."""
    return next(part for part in model.modules() if isinstance(part, Backbone))


def body_of(backbone: Backbone) -> Backbone:
    """Return what a pyramid stands on, and any other backbone itself: what inits are for."""
    body = getattr(backbone, "body", None)
    return body_of(body) if isinstance(body, Backbone) else backbone


def _with_optional_strides(task: Task[Any, Any], choice: BackboneChoice) -> Backbone | None:
    """Return the backbone with the task's optional strides; None where there are none, or it does not offer them."""
    if not task.optional_strides:
        return None
    try:
        return build_backbone(choice, (*task.strides, *task.optional_strides), task.output_stride)
    except StridesError:
        return None  # the caller asks again, for what the task cannot do without


def build_task(choice: TaskChoice, classes: Sequence[str]) -> Task[Any, Any]:
    """Return the task."""
    task: Task[Any, Any] = load_component(registry().find(choice.kind, choice.name))(choice.options, classes)
    return task


def build_augmentation(choice: AugmentationChoice) -> Augmentation:
    """Return the augmentation."""
    augmentation: Augmentation = load_component(registry().find(choice.kind, choice.name))(choice.options)
    return augmentation


def build_policy(choice: PolicyChoice, classes: Sequence[str]) -> PseudoLabelPolicy:
    """Return the policy, not yet fitted."""
    policy: PseudoLabelPolicy = load_component(registry().find(choice.kind, choice.name))(choice.options, classes)
    return policy


def build_policy_for(task: Task[Any, Any], choice: PolicyChoice) -> PseudoLabelPolicy:
    """Return the policy, not yet fitted, for the predictions of `task`.

    Raises:
        ConfigError: It decides on scores that the task forgets.
    """
    policy = build_policy(choice, task.classes)
    least = policy.least()
    if 0 < least < task.floor:
        raise ConfigError(
            f"policy {choice.name} decides on scores from {least:g} up, but {task.floor_setting}: {task.floor:g} "
            f"forgets predictions that score {task.floor:g} or less, so that those between the two would be taught as "
            f"background; lower {task.floor_setting} to at most {least:g}, or raise the thresholds under policy"
        )
    return policy
