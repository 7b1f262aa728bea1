"""Building components from the choices in a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selftrain_core.config_model import AugmentationChoice, BackboneChoice, PolicyChoice, TaskChoice
from selftrain_core.interfaces import Augmentation, Backbone, PseudoLabelPolicy, Task
from selftrain_core.plugins import load_component, registry


def build_backbone(choice: BackboneChoice, strides: Sequence[int]) -> Backbone:
    """Return the backbone at random weights; `Backbone.initialise` gives it its init."""
    found = registry().find(choice.kind, choice.name)
    backbone: Backbone = load_component(found)(choice.options, found.member, strides)
    return backbone


def build_task(choice: TaskChoice, classes: Sequence[str]) -> Task[Any, Any]:
    """Return the task."""
    task: Task[Any, Any] = load_component(registry().find(choice.kind, choice.name))(choice.options, classes)
    return task


def build_augmentation(choice: AugmentationChoice) -> Augmentation:
    """Return the augmentation."""
    augmentation: Augmentation = load_component(registry().find(choice.kind, choice.name))(choice.options)
    return augmentation


def build_policy(choice: PolicyChoice) -> PseudoLabelPolicy:
    """Return the policy, not yet fitted."""
    policy: PseudoLabelPolicy = load_component(registry().find(choice.kind, choice.name))(choice.options)
    return policy
