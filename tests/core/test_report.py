"""The summary: which score is asked for, and whose images count."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from selftrain_core.config import RunConfig, parse_config
from selftrain_core.report import write_summary
from selftrain_core.run_folder import RunFolder

SCORES = {
    "round-0/teacher": [(100, 20.0), (200, 31.0)],
    "round-1/student": [(100, 30.0), (200, 34.0), (300, 33.0)],
    "round-2/student": [(100, 35.0), (300, 36.0)],
    "round-0/baseline": [(400, 31.0), (800, 33.0)],
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    source = {"name": "core/images", "images": str(tmp_path)}
    data = {"sources": {"all": source}, "classes": ["a", "b"]}
    data |= dict.fromkeys(("labelled", "unlabelled", "validation", "test"), "all")
    return parse_config({"data": data, "task": "segmentation/semantic"}, tmp_path)


def finish(run: Path, name: str, result: dict[str, Any]) -> None:
    (run / name).mkdir(parents=True, exist_ok=True)
    (run / name / "stage.json").write_text(json.dumps({"state": "finished", "result": result}))


def summary_of(run: Path, config: RunConfig, *names: str, nothing_kept: Sequence[str] = ()) -> dict[str, Any]:
    """Return the summary of models whose validation curves are `SCORES`."""
    for name in names:
        curve = SCORES[name]
        metric = {"name": "miou", "unit": "%"}
        result = {"images_seen": curve[-1][0], "training_seconds": 1.0, "metric": metric, "nothing_kept": nothing_kept}
        finish(run, name, result)
        lines = [
            json.dumps({"step": seen, "images_seen": seen, "validation": {"miou": score}}) for seen, score in curve
        ]
        (run / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        scores = {"images_seen": curve[-1][0], "validation": {"miou": curve[-1][1]}, "test": {"miou": curve[-1][1]}}
        finish(run, f"{name}/evaluation", {"last": scores, "selected": scores})
        if name.endswith("student"):
            labels = {"images": 9, "seconds": 1.0, "states": {"labelled": 9}}
            finish(run, f"{name.partition('/')[0]}/pseudo-labels", labels)
    return write_summary(RunFolder(run), config, list(names))


def reached(summary: dict[str, Any]) -> dict[str, int | None]:
    return {f"{m['name']} {m['round']}": m["images_to_reach"] for m in summary["models"] if m["checkpoint"] == "last"}


def test_the_score_is_that_of_the_better_rival_and_a_student_counts_its_teachers(
    tmp_path: Path, config: RunConfig
) -> None:
    summary = summary_of(tmp_path, config, *SCORES)
    assert (summary["images_to_reach_score"], summary["images_to_reach_model"]) == (33.0, "baseline")
    # Students: 200 images of the teacher and 200 of their own; 200 + 300 before the second, and 100.
    assert reached(summary) == {"teacher 0": None, "student 1": 400, "student 2": 600, "baseline 0": 800}
    text = (tmp_path / "summary.md").read_text()
    assert "| student | 1 | 33.00 | 33.00 | 300 | 400 | 1 | +0.00 |" in text
    assert (
        "- Training images until the validation score was 33.00, the baseline's last: teacher –, student 400, "
        "student (round 2) 600, baseline 800. A student's count holds those of the models before it."
    ) in text


def test_without_a_baseline_the_score_is_the_teachers(tmp_path: Path, config: RunConfig) -> None:
    summary = summary_of(tmp_path, config, "round-0/teacher", "round-1/student")
    assert (summary["images_to_reach_score"], summary["images_to_reach_model"]) == (31.0, "teacher")
    assert reached(summary) == {"teacher 0": 200, "student 1": 400}


def test_a_teacher_alone_has_a_summary(tmp_path: Path, config: RunConfig) -> None:
    summary = summary_of(tmp_path, config, "round-0/teacher")
    assert reached(summary) == {"teacher 0": 200}
    assert summary["labelling"]["images"] == 0
    assert "There is no student yet" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("nothing_kept", "told"),
    [
        ((), None),
        (("b",), "Of b the policy kept nothing that the teacher saw. Train the teacher for longer, or lower"),
        (("a", "b"), "The policy kept nothing that the teacher saw: the student was taught no pseudo label. Train"),
    ],
)
def test_classes_of_which_nothing_was_kept_are_told(
    tmp_path: Path, config: RunConfig, nothing_kept: tuple[str, ...], told: str | None
) -> None:
    summary = summary_of(tmp_path, config, "round-0/teacher", "round-1/student", nothing_kept=nothing_kept)
    assert summary["labelling"]["nothing_kept"] == list(nothing_kept)
    text = (tmp_path / "summary.md").read_text()
    assert ("kept nothing" in text) == (told is not None)
    assert told is None or f"- {told}" in text
