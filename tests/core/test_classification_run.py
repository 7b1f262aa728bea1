"""A classifier that trains itself: from class folders to labels that a person corrected."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from selftrain_core.config import RunConfig, parse_config
from selftrain_core.config_model import DataSourceChoice, PolicyChoice
from selftrain_core.errors import DataError
from selftrain_core.index import build_source
from selftrain_core.inference import predict_images
from selftrain_core.label_export import export_labels
from selftrain_core.label_import import import_labels
from selftrain_core.labels import ClassLabels
from selftrain_core.rounds import self_train
from selftrain_core.stored_labels import StoredLabels
from selftrain_core.trained import load_model
from selftrain_core.views import PLAIN_VIEW

CLASSES = ["red", "green"]
PARTS = {"labelled": 3, "val": 2, "test": 2}
POOL = [f"pool-{number}" for number in range(4)]


def write_photo(path: Path, seed: int, channel: int) -> None:
    image = np.random.default_rng(seed).integers(0, 90, (40, 48, 3), dtype=np.uint8)
    image[..., channel] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def config_of(folder: Path) -> RunConfig:
    seed, sources = 0, {"pool": {"name": "core/images", "images": "pool"}}
    for part, count in PARTS.items():
        sources[part] = {"name": "core/class-folders", "images": part}
        for channel, name in enumerate(CLASSES):
            for number in range(count):
                seed += 1
                write_photo(folder / part / name / f"{part}-{number}.png", seed, channel)
    for number, id_ in enumerate(POOL):
        write_photo(folder / f"pool/{id_}.png", 100 + number, number % 2)
    raw: dict[str, Any] = {
        "canvas": [64, 64],
        "task": "core/classification",
        "backbone": {"name": "timm/test_resnet", "init": "random"},
        "policy": {"name": "core/fixed", "threshold": 0.5},
        "device": {"accelerator": "core/cpu", "workers": 0, "predict_batch": 4},
        "data": {
            "sources": sources,
            "classes": CLASSES,
            "labelled": "labelled",
            "unlabelled": "pool",
            "validation": "val",
            "test": "test",
        },
        "teacher": {"steps": 2, "human": 2},
        "student": {"steps": 2, "human": 1, "pseudo": 1},
    }
    return parse_config(raw, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that no test changes; its models are as good as random."""
    folder = tmp_path_factory.mktemp("classes")
    self_train(config_of(folder), folder / "run", in_process=True)
    return folder / "run"


def correct(folder: Path, lines: dict[str, str]) -> None:
    """Give images another class; an empty line takes the image out."""
    path = folder / "classes/labels.csv"
    old = path.read_text().splitlines()
    new = [old[0], *(lines.get(line.partition(",")[0], line) for line in old[1:])]
    path.write_text("".join(f"{line}\n" for line in new if line))


def test_labels_go_out_and_come_back_corrected(run: Path, tmp_path: Path) -> None:
    stored, exported = StoredLabels.find(run), tmp_path / "exported"
    export_labels(stored, exported, PolicyChoice.of("core/fixed", threshold=0.0), None, None)
    before = dict(line.split(",")[:2] for line in (exported / "classes/labels.csv").read_text().splitlines()[1:])
    assert set(before) == set(POOL) and set(before.values()) <= set(CLASSES)
    with pytest.raises(DataError, match=r"nothing in .* has been changed since it was exported"):
        import_labels(exported, tmp_path / "set", everything=False)
    other = CLASSES[before["pool-1"] == CLASSES[0]]
    correct(exported, {"pool-1": f"pool-1,{other},", "pool-2": ""})
    told = import_labels(exported, tmp_path / "set", everything=False)
    assert (told["imported"], told["unchanged"], told["deleted"]) == (1, 2, 1)
    settings = yaml.safe_load(told["config"])["data"]["sources"]["corrected"]
    source = build_source(DataSourceChoice.model_validate(settings), tuple(CLASSES))
    (entry,) = source.scan()
    labels = source.read_labels(entry)
    assert entry.id == "pool-1" and isinstance(labels, ClassLabels)
    assert labels.class_1.tolist() == [CLASSES.index(other)]
    correct(exported, {"pool-0": "pool-0,blue,"})
    with pytest.raises(DataError, match=r"labels\.csv, line 2: 'blue' is no class"):
        import_labels(exported, tmp_path / "other", everything=False)


def test_what_the_policy_does_not_keep_is_left_open(run: Path, tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    export_labels(StoredLabels.find(run), exported, PolicyChoice.of("core/fixed", threshold=1.0), None, None)
    assert (exported / "classes/labels.csv").read_text() == "id,class,score\n" + "".join(f"{id_},,\n" for id_ in POOL)
    assert "the class of such an image is empty" in (exported / "README.txt").read_text()
    correct(exported, {"pool-3": "pool-3,green,"})
    told = import_labels(exported, tmp_path / "set", everything=True)
    assert told["imported"] == 4
    assert "pool-3,green,\n" in (tmp_path / "set/classes/labels.csv").read_text()


def test_the_summary_tells_accuracies(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["metric"], summary["unit"]) == ("top1", "% top-1")
    for model in summary["models"]:
        scores = model["scores"]
        assert scores["top1"] == model["test"] == (scores["top1/red"] + scores["top1/green"]) / 2
    assert {model["name"] for model in summary["models"]} == {"teacher", "student", "baseline"}


def test_predictions_are_written(run: Path, tmp_path: Path) -> None:
    model = load_model(run / "round-1/student", accelerator="core/cpu")
    pictures = [(id_, run.parent / f"pool/{id_}.png") for id_ in POOL]
    predict_images(model, pictures, tmp_path / "out", views=PLAIN_VIEW, batch=3, workers=0)
    lines = (tmp_path / "out/classes/labels.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", *POOL]
    assert all(0.5 <= float(line.split(",")[2]) <= 1 for line in lines[1:]), "the surer of two"
    assert len(list((tmp_path / "out/overlays").iterdir())) == len(POOL)
