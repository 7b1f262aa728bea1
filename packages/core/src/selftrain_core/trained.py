"""Models that are finished, to be used without the run that made them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from torch import nn

from selftrain_core.accelerators import prepare_model, select_accelerator
from selftrain_core.components import build_model, build_task
from selftrain_core.config import DeviceConfig
from selftrain_core.config_model import BackboneChoice, TaskChoice
from selftrain_core.errors import RunError
from selftrain_core.interfaces import Task
from selftrain_core.plugins import registry
from selftrain_core.weights import load_weights, read_description

WeightsName = Literal["last", "selected"]
FILES: dict[WeightsName, str] = {"last": "model", "selected": "selected"}
"""What the files of each kind of weights are called, without their endings."""

_SCHEMA = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model, ready to predict.

    Attributes:
        folder: Where it lies.
        weights: Which of its weights these are.
        description: What stands beside the weights.
        task: Interprets its outputs.
        module: On the device.
        canvas: (height, width) it sees.
    """

    folder: Path
    weights: WeightsName
    description: dict[str, Any]
    task: Task[Any, Any]
    module: nn.Module
    canvas: tuple[int, int]


def find_model(path: Path, weights: WeightsName = "last") -> Path:
    """Return the folder of a model: `path`, or of a run the newest student, else the teacher.

    Raises:
        RunError: There is none.
    """
    name = f"{FILES[weights]}.safetensors"
    if (path / name).is_file():
        return path
    students = sorted(path.glob("round-*/student"), key=_round)
    found = [folder for folder in (path / "round-0/teacher", *students) if (folder / name).is_file()]
    if found:
        return found[-1]
    if not path.exists():
        raise RunError(f"there is no model at {path}: no such folder")
    if path.is_file():
        raise RunError(f"{path} is a file; give the folder it lies in, or the folder of a run")
    raise RunError(
        f"{path} holds no model: neither {name} nor, as a run does, round-0/teacher/{name}\n"
        "  give the folder of a run that `selftrain run` has begun, or a folder that holds the two files "
        f"{name} and {FILES[weights]}.json"
    )


def _round(student: Path) -> int:
    number = student.parent.name.removeprefix("round-")
    return int(number) if number.isdecimal() else 0


def load_model(folder: Path, weights: WeightsName = "last", accelerator: str = "auto") -> TrainedModel:
    """Return the model in a folder. Nothing in its files is executed, whoever wrote them.

    Args:
        folder: What `find_model` returned.
        weights: Those at the end of training, or those that scored best on validation.
        accelerator: A name from `selftrain plugins`, or auto.

    Raises:
        RunError: A file is missing, damaged, or not what selftrain writes.
        UnknownComponentError: The model is made of components that no plugin offers.
        ConfigError: There is no such device.
    """
    name = FILES[weights]
    description = read_description(folder, name)
    path = folder / f"{name}.json"
    if not isinstance(description, dict) or description.get("schema") != _SCHEMA:
        found = description.get("schema") if isinstance(description, dict) else None
        raise RunError(f"{path} has schema {found}, this version of selftrain reads {_SCHEMA}; it describes no model")
    try:
        task = build_task(TaskChoice.model_validate(description["task"]), _names(description["classes"]))
        backbone = BackboneChoice.model_validate(description["backbone"])
        height, width = map(int, description["canvas"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} does not describe a model of selftrain: {_reason(error)}") from error
    device = select_accelerator(accelerator, registry())
    module, _ = build_model(task, backbone)
    module = prepare_model(module, device, DeviceConfig())
    load_weights(module, folder / f"{name}.safetensors")
    return TrainedModel(folder, weights, description, task, module.to(device.device()), (height, width))


def _names(classes: Any) -> tuple[str, ...]:
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise TypeError("'classes' is no list of names")
    return tuple(classes)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, ValidationError):
        return "; ".join(": ".join([*map(str, each["loc"]), each["msg"]]) for each in error.errors())
    return str(error)
