"""What a plugin author imports: the `hookimpl` marker, the specs, and the hooks themselves.

A plugin is a module that returns specs, registered as an entry point in the group ``selftrain``::

    from selftrain_core.hookspecs import BackboneSpec, hookimpl

    @hookimpl
    def selftrain_backbones():
        return [BackboneSpec(name="swin/tiny", summary="Swin-T, strides 4 to 32",
                             config="selftrain_swin.config:SwinConfig", load="selftrain_swin.model:Swin")]

Specs are light on purpose: `config` and `load` are strings, imported only when the component is used, so that
``selftrain --help`` stays instant. A plugin module imports the standard library and this module, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

PROJECT = "selftrain"
ENTRY_POINT_GROUP = "selftrain"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One component that a plugin offers.

    Attributes:
        name: ``"provider/name"``. A name that ends in ``/*`` is a family: the part behind the slash is handed to the
            component (``timm/*`` is every timm model).
        summary: One line for ``selftrain plugins``.
        config: ``"module:Model"``, the pydantic model that owns the component's settings. Importing it must not
            import torch.
        load: ``"module:Class"``, the component itself.
        numerics: Raised by the author whenever the component's results change; part of every digest that uses it.
        licence: What the user accepts by using it, where that differs from the plugin's own licence.
    """

    name: str
    summary: str
    config: str
    load: str
    numerics: int = 1
    licence: str = ""


class TaskSpec(ComponentSpec):
    """A task: what is predicted, its losses and its metric (`selftrain_core.interfaces.Task`)."""


class BackboneSpec(ComponentSpec):
    """A feature extractor, or a pyramid that wraps one (`selftrain_core.interfaces.Backbone`)."""


class AugmentationSpec(ComponentSpec):
    """A batch augmentation on the device (`selftrain_core.interfaces.Augmentation`)."""


class PolicySpec(ComponentSpec):
    """A rule that turns scores into decisions (`selftrain_core.interfaces.PseudoLabelPolicy`)."""


class DataSourceSpec(ComponentSpec):
    """A way to find and read images and labels (`selftrain_core.data_source.DataSource`); `load` imports no torch."""


class AcceleratorSpec(ComponentSpec):
    """A kind of device to train on (`selftrain_core.interfaces.Accelerator`)."""


@hookspec
def selftrain_tasks() -> Sequence[TaskSpec]:
    """Return the tasks this plugin offers."""
    return ()


@hookspec
def selftrain_backbones() -> Sequence[BackboneSpec]:
    """Return the backbones and pyramids this plugin offers."""
    return ()


@hookspec
def selftrain_augmentations() -> Sequence[AugmentationSpec]:
    """Return the augmentations this plugin offers."""
    return ()


@hookspec
def selftrain_policies() -> Sequence[PolicySpec]:
    """Return the pseudo-label policies this plugin offers."""
    return ()


@hookspec
def selftrain_data_sources() -> Sequence[DataSourceSpec]:
    """Return the data sources this plugin offers."""
    return ()


@hookspec
def selftrain_accelerators() -> Sequence[AcceleratorSpec]:
    """Return the accelerators this plugin offers."""
    return ()


@hookspec
def selftrain_commands(group: click.Group) -> None:
    """Add commands to the ``selftrain`` command line."""


@hookspec
def selftrain_stage_finished(run: Path, stage: str, report: dict[str, Any]) -> None:
    """Observe a stage that has just finished: the run's folder, the stage's name, and what it reported."""
