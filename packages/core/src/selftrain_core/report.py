"""The summary of a run: ``summary.json`` for machines, ``summary.md`` for people. No torch here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selftrain_core.config import RunConfig
from selftrain_core.files import write_json, write_text
from selftrain_core.run_folder import RunFolder

SCHEMA = 1
CONVERGED_WITHIN = 0.5
"""Points by which a validation score may still rise in the last third of a training that counts as converged."""


def write_summary(run: RunFolder, config: RunConfig, names: list[str]) -> dict[str, Any]:
    """Return the summary of the models `names`, teacher first, and write both its forms.

    Raises:
        RunError: A stage is not finished, or the folder cannot be written to.
    """
    metric, unit = _headline(run, names[0])
    curves = {name: _curve(run.path / name, metric) for name in names}
    teacher_score = curves[names[0]][-1][1]
    models = [
        _model(run, name, checkpoint, metric, curves[name], teacher_score)
        for name in names
        for checkpoint in ("last", "selected")
    ]
    _add_gains(models)
    rise = late_rise(curves[names[0]])
    summary = {
        "schema": SCHEMA,
        "task": config.task.name,
        "metric": metric,
        "unit": unit,
        "seed": config.seed,
        "classes": list(config.data.class_names()),
        "models": models,
        "teacher_converged": rise <= CONVERGED_WITHIN,
        "teacher_late_rise": rise,
        "labelling": _labelling(run, names),
    }
    write_json(run.path / "summary.json", summary)
    write_text(run.path / "summary.md", to_markdown(summary))
    return summary


def to_markdown(summary: dict[str, Any]) -> str:
    """Return the summary as a table and the sentences that belong to it."""
    last = [model for model in summary["models"] if model["checkpoint"] == "last"]
    lines = [
        f"| model | round | validation {summary['unit']} | test {summary['unit']} | images seen | seconds | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in last:
        gain = "" if model["gain"] is None else f"{model['gain']:+.2f}"
        lines.append(
            f"| {model['name']} | {model['round']} | {model['val']:.2f} | {model['test']:.2f} "
            f"| {model['images_seen']:,} | {model['seconds']:.0f} | {gain} |"
        )
    return "\n".join([*lines, "", *notes(summary), ""])


def notes(summary: dict[str, Any]) -> list[str]:
    """Return what a careful reader must know beside the table."""
    explained = (
        "`gain` is the student's test score less that of the better, on validation, of teacher and baseline. The "
        "baseline is supervised and saw as many images as teacher and students together. Test was read once."
    )
    result = [explained]
    if not any(model["name"] == "baseline" for model in summary["models"]):
        result.append("There is no compute-matched baseline: the gain may be nothing but longer training.")
    if not summary["teacher_converged"]:
        result.append(
            f"Teacher not converged: its validation score still rose by {summary['teacher_late_rise']:.2f} in the last "
            "third of its training. This gain is no evidence; train the teacher longer."
        )
    labelling = summary["labelling"]
    result.append(
        f"Labelling: {labelling['images']:,} forward passes in {labelling['seconds']:.0f} s, beside the images above. "
        f"States: {', '.join(f'{count:,} {state}' for state, count in labelling['states'].items())}."
    )
    if set(labelling["states"]) - {"labelled", "empty"}:
        result.append("Images that were not used, with the reason for each: round-1/pseudo-labels/manifest.json.")
    return result


def late_rise(curve: list[tuple[int, float]]) -> float:
    """Return by how much a validation score rose in the last third of the images seen.

    Args:
        curve: (images seen, score), ascending, at least one point.
    """
    start = curve[-1][0] * 2 / 3
    earlier = [score for seen, score in curve if seen <= start]
    # Without a point in the first two thirds nothing shows that the training had settled.
    return curve[-1][1] - (max(earlier) if earlier else 0.0)


def _headline(run: RunFolder, teacher: str) -> tuple[str, str]:
    description = run.result(teacher)["metric"]
    return str(description["name"]), str(description["unit"])


def _curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["images_seen"], line["validation"][metric]) for line in lines if "validation" in line]


def _model(
    run: RunFolder,
    name: str,
    checkpoint: str,
    metric: str,
    curve: list[tuple[int, float]],
    teacher_score: float,
) -> dict[str, Any]:
    trained, scores = run.result(name), run.result(f"{name}/evaluation")[checkpoint]
    return {
        "name": name.rpartition("/")[2],
        "round": int(name.partition("/")[0].removeprefix("round-")),
        "checkpoint": checkpoint,
        "val": scores["validation"][metric],
        "test": scores["test"][metric],
        "images_seen": scores["images_seen"],
        "seconds": trained["training_seconds"],
        "images_to_reach": next((seen for seen, score in curve if score >= teacher_score), None),
        "gain": None,
        "scores": scores["test"],
    }


def _add_gains(models: list[dict[str, Any]]) -> None:
    for student in models:
        if student["name"] != "student":
            continue
        rivals = [m for m in models if m["name"] != "student" and m["checkpoint"] == student["checkpoint"]]
        student["gain"] = student["test"] - max(rivals, key=lambda model: model["val"])["test"]


def _labelling(run: RunFolder, names: list[str]) -> dict[str, Any]:
    rounds = [name.partition("/")[0] for name in names if name.endswith("/student")]
    results = [run.result(f"{number}/pseudo-labels") for number in rounds]
    states: dict[str, int] = {}
    for result in results:
        for state, count in result["states"].items():
            states[state] = states.get(state, 0) + count
    return {
        "images": sum(result["images"] for result in results),
        "seconds": sum(result["seconds"] for result in results),
        "states": states,
    }
