"""The summary of a run: ``summary.json`` for machines, ``summary.md`` for people. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selftrain_core.config import RunConfig
from selftrain_core.errors import RunError
from selftrain_core.files import write_json, write_text
from selftrain_core.run_folder import RunFolder, Stage
from selftrain_core.workshop import PRETRAINING

SCHEMA = 1
CONVERGED_WITHIN = 0.5
"""Points by which a validation score may still rise in the last third of a training that counts as converged."""


def write_summary(run: RunFolder, config: RunConfig, names: list[str]) -> dict[str, Any]:
    """Return the summary of the models `names`, and write both its forms.

    Args:
        run: The run's folder.
        config: Its configuration.
        names: The models that are trained and evaluated: the teacher first, then what there is of the others.

    Raises:
        RunError: A stage is not finished, or the folder cannot be written to.
    """
    metric, unit = _headline(run, names[0])
    curves = {name: validation_curve(run.path / name, metric) for name in names}
    target_model, target = _target(curves)
    models = [
        {
            **_model(run, name, checkpoint, metric),
            "images_to_reach": _images_to_reach(target, curves[name], _images_before(run, name, names)),
            "gain": None,
        }
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
        "images_to_reach_score": target,
        "images_to_reach_model": target_model.rpartition("/")[2],
        "teacher_converged": rise <= CONVERGED_WITHIN,
        "teacher_late_rise": rise,
        "labelling": {**_labelling(run, names), "views": len(config.labelling.views)},
        "pretraining": _pretraining(run, config),
    }
    write_json(run.path / "summary.json", summary)
    write_text(run.path / "summary.md", to_markdown(summary))
    return summary


def to_markdown(summary: dict[str, Any]) -> str:
    """Return the summary as a table and the sentences that belong to it."""
    last = [model for model in summary["models"] if model["checkpoint"] == "last"]
    unit, target = summary["unit"], summary["images_to_reach_score"]
    lines = [
        f"| model | round | validation {unit} | test {unit} | images seen | images to {target:.2f} | seconds | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model in last:
        gain = "" if model["gain"] is None else f"{model['gain']:+.2f}"
        reached = count_or_dash(model["images_to_reach"])
        lines.append(
            f"| {model['name']} | {model['round']} | {model['val']:.2f} | {model['test']:.2f} "
            f"| {model['images_seen']:,} | {reached} | {model['seconds']:.0f} | {gain} |"
        )
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(summary)), ""])


def notes(summary: dict[str, Any]) -> list[str]:
    """Return what a careful reader must know beside the table."""
    names = {model["name"] for model in summary["models"]}
    result = _notes_on_gain(summary, names)
    if not summary["teacher_converged"]:
        rise = summary["teacher_late_rise"]
        result.append(
            f"Teacher not converged: its validation score still rose by {rise:.2f} in the last third of its training. "
            + ("This gain is no evidence; train the teacher longer." if "student" in names else "Train it longer.")
        )
    result += _notes_on_other_images(summary)
    labelling = summary["labelling"]
    if labelling["nothing_kept"]:
        result.append(_note_on_what_was_not_taught(labelling["nothing_kept"], summary["classes"]))
    if labelling["images"]:
        views = f", {labelling['views']} times each" if labelling["views"] > 1 else ""
        result.append(
            f"Labelling: the teacher looked at {labelling['images']:,} images{views}, in {labelling['seconds']:.0f} s, "
            "beside the images above. "
            f"States: {', '.join(f'{count:,} {state}' for state, count in labelling['states'].items())}."
        )
    if set(labelling["states"]) - {"labelled", "empty"}:
        result.append("Images that were not used, with the reason for each: round-1/pseudo-labels/manifest.json.")
    return result


def _notes_on_other_images(summary: dict[str, Any]) -> list[str]:
    """Return what was looked at beside the images of the table."""
    result = []
    if pretraining := summary["pretraining"]:
        result.append(
            f"Pre-training: the backbone looked at {pretraining['images_seen']:,} images without labels, in two views "
            f"each, in {pretraining['seconds']:.0f} s, beside the images above; all models start from that."
        )
    joint = {
        model_name(model): sum(model["joint_images_seen"].values())
        for model in summary["models"]
        if model["checkpoint"] == "last" and model["joint_images_seen"]
    }
    if joint:
        counted = ", ".join(f"{name} {count:,}" for name, count in joint.items())
        result.append(f"Joint training: images of other tasks, beside those above: {counted}.")
    return result


def _note_on_what_was_not_taught(nothing_kept: Sequence[str], classes: Sequence[str]) -> str:
    advice = "Train the teacher for longer, or lower the policy's thresholds: `selftrain labels stats RUN` shows them."
    if len(nothing_kept) == len(classes):
        return f"The policy kept nothing that the teacher saw: the student was taught no pseudo label. {advice}"
    return f"Of {', '.join(nothing_kept)} the policy kept nothing that the teacher saw. {advice}"


def _notes_on_gain(summary: dict[str, Any], names: set[str]) -> list[str]:
    if "student" not in names:
        return ["There is no student yet, so there is no gain. Test was read once for each model."]
    explained = (
        "`gain` is the student's test score less that of the better, on validation, of teacher and baseline. The "
        "baseline is supervised and saw as many images as teacher and students together. Test was read once."
    )
    result = [explained]
    if "baseline" not in names:
        result.append("There is no compute-matched baseline: the gain may be nothing but longer training.")
    reached = ", ".join(
        f"{model_name(model)} {count_or_dash(model['images_to_reach'])}"
        for model in summary["models"]
        if model["checkpoint"] == "last"
    )
    result.append(
        f"Training images until the validation score was {summary['images_to_reach_score']:.2f}, the "
        f"{summary['images_to_reach_model']}'s last: {reached}. A student's count holds those of the models before it."
    )
    return result


def model_name(model: Mapping[str, Any]) -> str:
    """Return what a model of the summary is called; only a later round's needs its number."""
    return f"{model['name']} (round {model['round']})" if model["round"] > 1 else str(model["name"])


def count_or_dash(count: int | None) -> str:
    """Return a number of images, or a dash where there is none."""
    return "–" if count is None else f"{count:,}"


def stage_report(run: RunFolder, stage: Stage, *, made: bool) -> dict[str, Any]:
    """Return what a finished stage came to, as JSON values.

    Args:
        run: The run's folder.
        stage: The stage.
        made: Whether this command made it; otherwise it was there.

    Raises:
        RunError: It is not finished.
    """
    result = run.result(stage.name)
    report = {"name": stage.name, "kind": stage.kind, "digest": stage.digest, "made": made, "result": result}
    if "metric" in result:
        metric = str(result["metric"]["name"])
        report["validation"] = validation_curve(run.path / stage.name, metric)[-1][1]
    return report


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


def validation_curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (images seen, score) of each validation of a training, ascending.

    Raises:
        RunError: Its log is damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(line["images_seen"], line["validation"][metric]) for line in lines if "validation" in line]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} is damaged: {error}\n  delete {folder} and run the same command: the stage is done again"
        ) from error


def _target(curves: Mapping[str, list[tuple[int, float]]]) -> tuple[str, float]:
    """Return the model that a student is held to and its last validation score: the better of teacher and baseline.

    "So many images until a score" is what the paper compares (§1, 1.3 to 8 times), and a score that the better rival
    ends with is the one worth asking for.
    """
    best = max((name for name in curves if not name.endswith("/student")), key=lambda name: curves[name][-1][1])
    return best, curves[best][-1][1]


def _images_before(run: RunFolder, name: str, names: list[str]) -> int:
    """Return the training images without which there would be no such model: a student needs its teachers'."""
    if not name.endswith("/student"):
        return 0
    return sum(run.result(other)["images_seen"] for other in names[: names.index(name)])


def _images_to_reach(target: float, curve: list[tuple[int, float]], before: int) -> int | None:
    return next((before + seen for seen, score in curve if score >= target), None)


def _model(run: RunFolder, name: str, checkpoint: str, metric: str) -> dict[str, Any]:
    trained, scores = run.result(name), run.result(f"{name}/evaluation")[checkpoint]
    return {
        "name": name.rpartition("/")[2],
        "round": int(name.partition("/")[0].removeprefix("round-")),
        "checkpoint": checkpoint,
        "val": scores["validation"][metric],
        "test": scores["test"][metric],
        "images_seen": scores["images_seen"],
        "joint_images_seen": trained.get("joint_images_seen", {}),
        "seconds": trained["training_seconds"],
        "scores": scores["test"],
    }


def _add_gains(models: list[dict[str, Any]]) -> None:
    for student in models:
        if student["name"] != "student":
            continue
        rivals = [m for m in models if m["name"] != "student" and m["checkpoint"] == student["checkpoint"]]
        student["gain"] = student["test"] - max(rivals, key=lambda model: model["val"])["test"]


def _pretraining(run: RunFolder, config: RunConfig) -> dict[str, Any] | None:
    if config.pretraining is None:
        return None
    result = run.result(PRETRAINING)
    return {"images_seen": result["images_seen"], "seconds": result["training_seconds"]}


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
        "nothing_kept": run.result(f"{rounds[-1]}/student")["nothing_kept"] if rounds else [],
    }
