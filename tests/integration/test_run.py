"""A whole run, in this process: what it leaves, what it skips, what it refuses, how it resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from selftrain_core import hookimpl, labelling, launch, run_folder, stages
from selftrain_core.checking import check_labels
from selftrain_core.config import RunConfig, dump_config, parse_config
from selftrain_core.errors import DataError, RunError, StageFailedError
from selftrain_core.index import Index
from selftrain_core.plugins import load_registry
from selftrain_core.progress import Event
from selftrain_core.rounds import self_train
from selftrain_core.run_folder import RunFolder
from selftrain_core.store import PseudoLabelStore

MakeConfig = Callable[..., RunConfig]
CLASSES = ("ground", "red", "green")
TRAININGS = ("round-0/teacher", "round-0/baseline", "round-1/student")
STAGES = (
    "round-0/teacher",
    "round-0/teacher/evaluation",
    "round-1/pseudo-labels",
    "round-1/student",
    "round-1/student/evaluation",
    "round-0/baseline",
    "round-0/baseline/evaluation",
    "pictures",
)


class Recording:
    """An observer that remembers, and may stop the run at an event."""

    def __init__(self, stop_at: tuple[str, str, int] | None = None) -> None:
        self.events: list[Event] = []
        self.stop_at = stop_at

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if self.stop_at and (event.kind, event.stage) == self.stop_at[:2] and event.done >= self.stop_at[2]:
            raise InterruptedHereError

    def stages(self, kind: str) -> list[str]:
        return [event.stage for event in self.events if event.kind == kind]


class InterruptedHereError(Exception):
    """Stands for whatever ends a process in the middle."""


def weights(run: Path) -> dict[str, bytes]:
    return {name: (run / name / "model.safetensors").read_bytes() for name in TRAININGS}


def test_a_run_leaves_everything_the_design_promises(undisturbed: Path) -> None:
    run = undisturbed
    summary = json.loads((run / "summary.json").read_text())
    for name in TRAININGS:
        files = ("model.safetensors", "model.json", "selected.safetensors", "metrics.jsonl", "last.ckpt", "stage.json")
        assert all((run / name / file).is_file() for file in files)
    for picture in ("pictures/validation.png", "pictures/curves.png", "config.yaml", "summary.md"):
        assert (run / picture).stat().st_size > 0
    models = {(model["name"], model["checkpoint"]): model for model in summary["models"]}
    assert set(models) == {(n, c) for n in ("teacher", "student", "baseline") for c in ("last", "selected")}
    # Compute-matched: the baseline saw what teacher (8 × 3) and student (6 × 4) saw together.
    assert models["baseline", "last"]["images_seen"] == 8 * 3 + 6 * 4
    rivals = [models["teacher", "last"], models["baseline", "last"]]
    best = max(rivals, key=lambda model: model["val"])
    student = models["student", "last"]
    assert student["gain"] == pytest.approx(student["test"] - best["test"])
    assert "Teacher not converged" in (run / "summary.md").read_text() or summary["teacher_converged"]


def test_metrics_are_logged_at_fixed_numbers_of_images(undisturbed: Path) -> None:
    lines = [json.loads(line) for line in (undisturbed / "round-1/student/metrics.jsonl").read_text().splitlines()]
    assert [line["images_seen"] for line in lines if "validation" in line] == [12, 20, 24]
    logged = [line["train"] for line in lines if "train" in line]
    assert all({"ratio", "human_average", "pseudo_average", "skipped_steps"} <= set(train) for train in logged)
    assert logged[-1]["pseudo_loss"] > 0


def test_the_same_command_again_does_nothing(make_config: MakeConfig, finished: Path) -> None:
    again = Recording()
    before = json.loads((finished / "summary.json").read_text())
    assert self_train(make_config(), finished, again, in_process=True) == before
    assert tuple(again.stages("skipped")) == STAGES
    assert not again.stages("started")


def test_a_changed_setting_is_refused_with_what_changed(make_config: MakeConfig, finished: Path) -> None:
    before = (finished / "config.yaml").read_text()
    with pytest.raises(RunError, match=r"teacher\.steps: 8 → 9\n.*another folder with -o\n.*--start-over"):
        self_train(make_config(teacher={"steps": 9}), finished, in_process=True)
    assert (finished / "config.yaml").read_text() == before


def test_a_skipped_stage_says_which_versions_it_was_made_with(make_config: MakeConfig, finished: Path) -> None:
    path = finished / "round-0/teacher/stage.json"
    record = json.loads(path.read_text())
    record["environment"]["torch"] = "1.0.0"
    path.write_text(json.dumps(record))
    again = Recording()
    self_train(make_config(), finished, again, in_process=True)
    texts = {event.stage: event.text for event in again.events if event.kind == "skipped"}
    assert texts.pop("round-0/teacher").startswith("made with other versions: torch 1.0.0 → ")
    assert set(texts.values()) == {""}


def test_a_changed_student_keeps_the_teacher(make_config: MakeConfig, finished: Path) -> None:
    with pytest.raises(
        RunError, match=r"round-1/student was made with other settings.*\n.*objective\.alpha: 1\.0 → 2\.0"
    ):
        self_train(make_config(objective={"alpha": 2.0}), finished, in_process=True)
    again = Recording()
    self_train(make_config(objective={"alpha": 2.0}), finished, again, in_process=True, start_over=True)
    assert again.stages("started") == ["round-1/student", "round-1/student/evaluation", "pictures"]


def test_a_device_setting_is_no_part_of_the_identity(make_config: MakeConfig, finished: Path) -> None:
    again = Recording()
    self_train(make_config(device={"workers": 1, "predict_batch": 3}), finished, again, in_process=True)
    assert not again.stages("started")


@pytest.mark.parametrize(
    "stop_at",
    [
        ("score", "round-0/teacher", 12),
        ("progress", "round-1/pseudo-labels", 4),
        ("score", "round-1/student", 12),
        ("progress", "round-1/student/evaluation", 4),
        ("score", "round-0/baseline", 12),
    ],
    ids=lambda stop: stop[1],
)
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    make_config: MakeConfig, undisturbed: Path, tmp_path: Path, stop_at: tuple[str, str, int]
) -> None:
    run, seen = tmp_path / "run", Recording()
    with pytest.raises(InterruptedHereError):
        self_train(make_config(), run, Recording(stop_at), in_process=True)
    resumed = self_train(make_config(), run, seen, in_process=True)
    done = STAGES[: STAGES.index(stop_at[1])]
    assert (tuple(seen.stages("skipped")), tuple(seen.stages("started"))) == (done, STAGES[len(done) :])
    assert weights(run) == weights(undisturbed)
    expected = json.loads((undisturbed / "summary.json").read_text())
    for model, undisturbed_model in zip(resumed["models"], expected["models"], strict=True):
        assert {**model, "seconds": 0} == {**undisturbed_model, "seconds": 0}
    for name in TRAININGS:
        assert (run / name / "metrics.jsonl").read_text() == (undisturbed / name / "metrics.jsonl").read_text()


def test_finished_shards_are_kept_when_labelling_resumes(
    make_config: MakeConfig, finished: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 2)
    store = finished / "round-1/pseudo-labels"
    shutil.rmtree(store)
    with pytest.raises(InterruptedHereError):
        self_train(make_config(), finished, Recording(("progress", "round-1/pseudo-labels", 4)), in_process=True)
    kept = {path.name: path.stat().st_mtime_ns for path in store.glob("shard-*")}
    assert {"shard-00000.arrow", "shard-00001.arrow"} <= set(kept)
    assert len(kept) < 5, "it was interrupted"
    self_train(make_config(), finished, in_process=True)
    assert {name: (store / name).stat().st_mtime_ns for name in kept} == kept
    whole = PseudoLabelStore(undisturbed / "round-1/pseudo-labels", CLASSES)
    resumed = PseudoLabelStore(store, CLASSES)
    assert (resumed.manifest["shards"], whole.manifest["shards"]) == ([2] * 5, [10])
    assert resumed.manifest["statistics"] == whole.manifest["statistics"]
    assert all(resumed.row(f"pool-{n}") == whole.row(f"pool-{n}") for n in range(10))


def test_bad_pool_images_are_recorded_and_never_used(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    images = squares / "images"
    (images / "pool-1.png").write_bytes((images / "pool-1.png").read_bytes()[:60])
    (images / "pool-2.png").write_bytes(b"")
    shutil.copy(images / "test-3.png", images / "pool-3.png")
    run = tmp_path / "run"
    self_train(configure(squares, baseline=False, teacher={"steps": 2}), run, in_process=True)
    store = PseudoLabelStore(run / "round-1/pseudo-labels", CLASSES)
    failures = {failure["id"]: failure for failure in store.manifest["failures"]}
    assert {id_: failure["state"] for id_, failure in failures.items()} == {
        "pool-1": "unreadable",
        "pool-2": "unreadable",
        "pool-3": "leak",
    }
    assert "it is empty" in failures["pool-2"]["reason"]
    assert "test-3" in failures["pool-3"]["reason"]
    assert store.usable_ids() == {f"pool-{n}" for n in (0, *range(4, 10))}
    assert "1 leak" in (run / "summary.md").read_text()


def test_a_broken_labelled_image_stops_the_run_and_is_named(
    configure: MakeConfig, squares: Path, tmp_path: Path
) -> None:
    path = squares / "images" / "labelled-2.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(DataError, match=r"labelled-2\.png cannot be read.*\n.*take it out of its list, or mend it"):
        self_train(configure(squares), tmp_path / "run", in_process=True)


def test_a_class_that_no_label_shows_is_an_error(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    more = config.data.model_copy(update={"classes": (*CLASSES, "blue")})
    with pytest.raises(
        DataError, match=r"no labelled image shows: blue\n.*ground, red, green\n.*allow_missing_classes"
    ):
        self_train(config.model_copy(update={"data": more}), tmp_path / "run", in_process=True)


def test_two_rounds_take_the_student_as_the_next_teacher(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    summary = self_train(make_config(rounds=2, teacher={"steps": 2}), run, in_process=True)
    second = json.loads((run / "round-2/pseudo-labels/manifest.json").read_text())
    student = json.loads((run / "round-1/student/model.json").read_text())
    assert second["teacher"]["digest"] == student["digest"]
    seen = {(model["name"], model["round"]): model["images_seen"] for model in summary["models"]}
    assert seen["baseline", 0] == 2 * 3 + 2 * 6 * 4 + 2  # 54 images in steps of 4


def test_a_second_run_on_the_same_folder_is_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "LOCK_PATIENCE_SECONDS", 0.2)
    with RunFolder(tmp_path / "run"):
        with pytest.raises(RunError, match=r"in use by process \d+; wait for it to end, or give another folder"):
            self_train(make_config(), tmp_path / "run", in_process=True)


def test_the_loop_sees_one_index_of_disjoint_images(undisturbed: Path) -> None:
    index = Index(undisturbed / "index.arrow")
    assert index.counts() == {"labelled": 6, "unlabelled": 10, "validation": 4, "test": 5}


def test_a_loss_that_stays_infinite_stops_the_run_with_the_batch(make_config: MakeConfig, tmp_path: Path) -> None:
    optimizer = {"lr": 1e30, "warmup_steps": 0, "gradient_clip": None}
    teacher = {"steps": 40, "ema_decay": None, "max_skipped_steps": 3, "optimizer": optimizer}
    with pytest.raises(StageFailedError, match=r"not finite for 3 steps in a row.*\n.*the batch is in .*\.pt\n.*lower"):
        self_train(make_config(teacher=teacher), tmp_path / "run", in_process=True)
    assert list((tmp_path / "run/round-0/teacher").glob("nonfinite-step-*.pt"))


def test_a_stage_that_saved_nothing_yields_to_a_changed_setting(make_config: MakeConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedHereError):
        self_train(make_config(), run, Recording(("started", "round-0/teacher", 0)), in_process=True)
    again = Recording(("started", "round-0/teacher/evaluation", 0))
    with pytest.raises(InterruptedHereError):
        self_train(make_config(teacher={"steps": 2}), run, again, in_process=True)
    assert json.loads((run / "round-0/teacher/stage.json").read_text())["settings"]["steps"] == 2


def test_a_broken_test_image_is_found_before_the_first_step(
    configure: MakeConfig, squares: Path, tmp_path: Path
) -> None:
    path = squares / "images" / "test-1.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(DataError, match=r"test-1\.png cannot be read.*\n.*'test-1' of data\.test, .*mend it"):
        self_train(configure(squares), tmp_path / "run", in_process=True)
    assert not (tmp_path / "run/round-0/teacher/metrics.jsonl").exists()


def test_images_are_looked_at_again_once_some_are_others(
    configure: MakeConfig, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes on has looked at all of them, but not at what they are by now."""
    config, run, checks = configure(squares, device={"checkpoint_seconds": 0}), tmp_path / "run", []

    def check(*args: Any, **settings: Any) -> Any:
        checks.append(args)
        return check_labels(*args, **settings)

    monkeypatch.setattr(stages, "check_labels", check)
    for images_seen in (12, 21):
        with pytest.raises(InterruptedHereError):
            self_train(config, run, Recording(("score", "round-0/teacher", images_seen)), in_process=True)
    assert len(checks) == 1
    path = squares / "images" / "test-1.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(DataError, match=r"test-1\.png cannot be read"):
        self_train(config, run, in_process=True)


def test_a_stage_folder_without_its_record_lends_nothing(
    make_config: MakeConfig, finished: Path, undisturbed: Path
) -> None:
    """Half removed, a folder keeps shards and checkpoints that belong to other settings."""
    (finished / "round-1/student/stage.json").unlink()
    shutil.rmtree(finished / "round-1/student/evaluation")
    shutil.rmtree(finished / "pictures")
    self_train(make_config(objective={"alpha": 0.1}), finished, in_process=True)
    assert weights(finished)["round-0/teacher"] == weights(undisturbed)["round-0/teacher"]
    assert weights(finished)["round-1/student"] != weights(undisturbed)["round-1/student"]


def test_a_copy_of_a_test_image_among_the_labelled_is_refused(
    configure: MakeConfig, squares: Path, tmp_path: Path
) -> None:
    for folder in ("images", "masks"):
        shutil.copy(squares / folder / "test-2.png", squares / folder / "labelled-4.png")
    with pytest.raises(DataError, match=r"'test-2' of data\.test and 'labelled-4' of data\.labelled are the same"):
        self_train(configure(squares), tmp_path / "run", in_process=True)


def test_one_file_under_two_names_is_refused(configure: MakeConfig, squares: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load(dump_config(configure(squares)))
    raw["data"]["sources"]["again"] = {"name": "core/images", "images": str(squares)}
    raw["data"]["unlabelled"] = "again"
    with pytest.raises(DataError, match=r"is two images, 'labelled-0' and 'images/labelled-0' of data\.unlabelled"):
        self_train(parse_config(raw, squares), tmp_path / "run", in_process=True)


def test_a_plugin_that_fails_to_observe_does_not_end_the_run(
    make_config: MakeConfig, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @hookimpl
        def selftrain_stage_finished(self, stage: str) -> None:
            raise ZeroDivisionError(stage)

    loaded = load_registry()
    loaded.manager.register(Broken(), name="broken")
    monkeypatch.setattr(launch, "registry", lambda: loaded)
    shutil.rmtree(finished / "pictures")
    seen = Recording()
    self_train(make_config(), finished, seen, in_process=True)
    assert seen.stages("finished") == ["pictures"]
    notes = [event.text for event in seen.events if event.kind == "note"]
    assert notes == ["plugin 'broken' failed to observe: ZeroDivisionError: pictures"]
