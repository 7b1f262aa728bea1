"""A store of pseudo labels as people meet it: with the run around it, its policy, and what people labelled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from selftrain_core.components import build_policy, build_task
from selftrain_core.config import RunConfig, load_config
from selftrain_core.config_model import PolicyChoice, TaskChoice
from selftrain_core.errors import ConfigError, SelftrainError, StoreError
from selftrain_core.index import Index
from selftrain_core.interfaces import Policy, Task
from selftrain_core.labelling import kept_shares
from selftrain_core.labels import HISTOGRAM_BINS, ScoreStatistics
from selftrain_core.stages import STATISTICS
from selftrain_core.store import PseudoLabelStore

MANIFEST = "manifest.json"
QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class StoredLabels:
    """A sealed store and what belongs to it.

    Attributes:
        folder: The store.
        run: The folder of its run, or None where the store has been moved out of one.
    """

    folder: Path
    run: Path | None

    @classmethod
    def find(cls, path: Path) -> StoredLabels:
        """Return the store in `path`, or of a run that of its newest round.

        Raises:
            StoreError: There is none, or it is not sealed.
        """
        path = path.resolve()
        folder = path
        if not (path / MANIFEST).is_file():
            stores = sorted(path.glob("round-*/pseudo-labels"), key=lambda each: (len(each.parent.name), each))
            sealed = [each for each in stores if (each / MANIFEST).is_file()]
            if not sealed:
                raise StoreError(_no_store(path, begun=bool(stores) or any(path.glob("shard-*.arrow"))))
            folder = sealed[-1]
        run = folder.parent.parent
        return cls(folder, run if (run / "config.yaml").is_file() else None)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The store's manifest.

        Raises:
            StoreError: It is damaged.
        """
        path = self.folder / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            manifest["teacher"]["task"], manifest["classes"][0], manifest["statistics"]["exposure"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreError(f"{path} is damaged ({error!r}); delete its folder, and label again") from error
        return manifest

    @cached_property
    def config(self) -> RunConfig | None:
        """The configuration of the run."""
        return None if self.run is None else load_config(self.run / "config.yaml")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The ordered class names."""
        return tuple(self.manifest["classes"])

    @cached_property
    def task(self) -> Task[Any, Any]:
        """The task of the teacher."""
        return build_task(TaskChoice.model_validate(self.manifest["teacher"]["task"]), self.classes)

    @cached_property
    def store(self) -> PseudoLabelStore:
        """The store, opened."""
        return PseudoLabelStore(self.folder, self.classes)

    @cached_property
    def labelled(self) -> ScoreStatistics | None:
        """What people labelled, if the run says it."""
        path = None if self.run is None else self.run / "round-0/teacher" / STATISTICS
        if path is None or not path.is_file():
            return None
        return ScoreStatistics.from_json(json.loads(path.read_text(encoding="utf-8")))

    @property
    def index(self) -> Index | None:
        """The images of the run."""
        path = None if self.run is None else self.run / "index.arrow"
        return Index(path) if path is not None and path.is_file() else None

    def policy_choice(self, given: str | None) -> PolicyChoice | None:
        """Return the policy that a person asks for, else that of the run; None where there is neither.

        Args:
            given: A name, or a mapping in YAML as it stands in a configuration.

        Raises:
            ConfigError: What is given is no policy.
        """
        if given is None:
            return None if self.config is None else self.config.policy
        try:
            return PolicyChoice.model_validate(yaml.safe_load(given))
        except (yaml.YAMLError, ValidationError, SelftrainError) as error:
            reason = "; ".join(each["msg"] for each in error.errors()) if isinstance(error, ValidationError) else error
            raise ConfigError(
                f"--policy {given}: {reason}\n  expected a name, such as core/adaptive, or a mapping, such as "
                "'{name: core/fixed, threshold: 0.7}'"
            ) from error

    def fitted(self, choice: PolicyChoice) -> Policy:
        """Return a policy, fitted as for a student of this store.

        Raises:
            StoreError: It needs to know what people labelled, and the store has been moved out of its run.
        """
        labelled = self.labelled
        if labelled is None:
            raise StoreError(
                f"{self.folder} lies in no run whose teacher has finished, so it is not known what people labelled, "
                f"to which a policy such as '{choice.name}' is fitted; give the folder of the run"
            )
        return build_policy(choice, self.classes).fit(self.store.statistics, labelled)


def _no_store(path: Path, *, begun: bool) -> str:
    if not path.exists():
        return f"there are no labels at {path}: no such folder"
    if begun:
        return f"the labels in {path} are not sealed: labelling has not finished. Run the same command to finish it"
    return (
        f"{path} holds no pseudo labels: neither {MANIFEST} nor, as a run does, round-1/pseudo-labels/{MANIFEST}\n"
        "  give the folder of a run whose labels are made (`selftrain label` makes them), or that of a store"
    )


def label_statistics(labels: StoredLabels, choice: PolicyChoice | None) -> dict[str, Any]:
    """Return what a teacher predicted, class by class, as JSON values. No model is run.

    Args:
        labels: The store.
        choice: A policy, to know what it would keep of each class; None leaves that out.

    Returns:
        ``states`` of the images, ``failures`` with their reasons, and ``classes``: of each the ``images`` that hold it,
        its ``density`` in what was predicted (`quantity` says of what) and in what people ``labelled``, the share
        ``kept``, and ``scores`` at `QUANTILES`. Shares are of 1; scores are exact to a histogram's bin, 1/64.
    """
    statistics = labels.store.statistics
    kept_C = None if choice is None else kept_shares(labels.fitted(choice), statistics)
    labelled_C = None if labels.labelled is None else labels.labelled.density_CS.sum(1)
    predicted_C = statistics.density_CS.sum(1)
    return {
        "schema": 1,
        "store": str(labels.folder),
        "quantity": labels.task.quantity,
        "policy": None if choice is None else choice.model_dump(mode="json"),
        "states": labels.manifest["states"],
        "classes": [
            {
                "name": name,
                "images": int(statistics.images_C[number]),
                "density": float(predicted_C[number]),
                "labelled": None if labelled_C is None else float(labelled_C[number]),
                "kept": None if kept_C is None or np.isnan(kept_C[number]) else float(kept_C[number]),
                "scores": _quantiles(statistics.histogram_CS[number]),
            }
            for number, name in enumerate(labels.classes)
        ],
        "failures": list(labels.store.failures()),
    }


def _quantiles(histogram_S: NDArray[np.int64]) -> Mapping[str, float] | None:
    if not histogram_S.any():
        return None
    share_S = np.cumsum(histogram_S) / histogram_S.sum()
    return {f"{quantile:g}": int(np.argmax(share_S >= quantile)) / HISTOGRAM_BINS for quantile in QUANTILES}
