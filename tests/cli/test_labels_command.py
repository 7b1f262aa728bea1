from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from selftrain.main import main
from selftrain_core.config import load_config
from selftrain_core.index import Index, build_sources, write_index
from selftrain_core.labels import HISTOGRAM_BINS
from selftrain_core.store import PseudoLabelStore

POOL = [f"deep/pool-{number}" for number in range(5)]


def labels(*arguments: Any, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["labels", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def repaint(path: Path, value: int = 1) -> None:
    mask = Image.open(path)
    mask.paste(value, (0, 0, 9, 9))
    mask.save(path)


@pytest.fixture
def exported(finished_run: Path, tmp_path: Path) -> Path:
    labels("export", finished_run, "-o", tmp_path / "exported")
    return tmp_path / "exported"


def test_stats_count_what_the_store_holds(finished_run: Path) -> None:
    found = json.loads(labels("stats", finished_run, "--json").stdout)
    store = PseudoLabelStore(finished_run / "round-1/pseudo-labels", ("ground", "thing"))
    assert found["store"] == str(store.folder)
    assert found["states"] == {"labelled": 5, "unreadable": 1}
    assert [failure["id"] for failure in found["failures"]] == ["deep/broken"]
    assert found["policy"]["name"] == "core/fixed"
    statistics = store.statistics
    for number, each in enumerate(found["classes"]):
        histogram = statistics.histogram_CS[number]
        assert each["images"] == statistics.images_C[number]
        assert each["density"] == pytest.approx(histogram.sum() / statistics.histogram_CS.sum())
        if histogram.any():
            assert each["kept"] == pytest.approx(histogram[HISTOGRAM_BINS // 2 :].sum() / histogram.sum())
            scores = np.repeat(np.arange(HISTOGRAM_BINS), histogram) / HISTOGRAM_BINS
            assert each["scores"]["0.5"] == pytest.approx(np.quantile(scores, 0.5, method="inverted_cdf"))
    assert found["classes"][1]["labelled"] == pytest.approx(16 * 16 / (40 * 48 - 1), rel=1e-2), "on the canvas"


def test_stats_for_people(finished_run: Path) -> None:
    shown = labels("stats", finished_run / "round-1/pseudo-labels").stdout
    assert "1 unreadable, 5 labelled\npolicy core/fixed (threshold 0.5)" in shown
    assert "share of pixels: predicted" in shown
    assert "not used:\n  deep/broken (unreadable): " in shown and "broken.png cannot be read" in shown


def test_another_policy_can_be_asked_for(finished_run: Path) -> None:
    def kept(policy: str) -> list[float]:
        found = json.loads(labels("stats", finished_run, "--json", "--policy", policy).stdout)
        return [each["kept"] for each in found["classes"] if each["kept"] is not None]

    assert set(kept("{name: core/fixed, threshold: 0}")) == {1.0}
    assert set(kept("{name: core/fixed, threshold: 1}")) == {0.0}
    assert kept("core/adaptive")
    said = labels("stats", finished_run, "--policy", "core/adaptiv", code=2).stderr
    assert "--policy core/adaptiv: no policy is called 'core/adaptiv' (did you mean 'core/adaptive'?)" in said
    assert "'{name: core/fixed, threshold: 0.7}'" in said
    assert "threshold" in labels("stats", finished_run, "--policy", "{name: core/fixed, threshold: 2}", code=2).stderr


def test_what_holds_no_labels_is_explained(finished_run: Path, tmp_path: Path) -> None:
    def said(where: Path) -> str:
        return labels("stats", where, code=3).stderr

    assert "no such folder" in said(tmp_path / "gone")
    assert "holds no pseudo labels: neither manifest.json nor, as a run does," in said(tmp_path)
    store = tmp_path / "moved"
    shutil.copytree(finished_run / "round-1/pseudo-labels", store)
    shown = labels("stats", store).stdout
    assert "policy" not in shown, "the run says which it is"
    assert (
        "lies in no run whose teacher has finished" in labels("stats", store, "--policy", "core/fixed", code=3).stderr
    )
    assert "lies in no run whose policy could be taken" in labels("export", store, "-o", tmp_path / "x", code=2).stderr
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text()[:50])
    assert "manifest.json is damaged" in said(store)
    manifest.unlink()
    assert "are not sealed: labelling has not finished" in said(store)


def test_export_writes_what_the_policy_keeps(finished_run: Path, exported: Path) -> None:
    assert (exported / "list.txt").read_text().split() == POOL
    assert json.loads((exported / "classes.json").read_text()) == {"classes": ["ground", "thing"]}
    assert f"selftrain labels import {exported} -o corrected" in (exported / "README.txt").read_text()
    store = PseudoLabelStore(finished_run / "round-1/pseudo-labels", ("ground", "thing"))
    row = store.row(POOL[0])
    mask = np.array(Image.open(exported / "masks" / f"{POOL[0]}.png"))
    assert mask.shape == (40, 48) and set(np.unique(mask)) <= {0, 1, 255}
    assert row["state"] == "labelled"


def test_export_can_keep_all_or_nothing(finished_run: Path, tmp_path: Path) -> None:
    for threshold, is_open in ((0, False), (1, True)):
        out = tmp_path / str(threshold)
        policy = f"{{name: core/fixed, threshold: {threshold}}}"
        labels("export", finished_run, "-o", out, "--policy", policy, "--limit", 2)
        assert (out / "list.txt").read_text().split() == POOL[:2]
        for id_ in POOL[:2]:
            assert ((np.array(Image.open(out / f"masks/{id_}.png")) == 255).all()) == is_open


def test_export_of_listed_images(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(f"{POOL[3]}\n{POOL[1]}\n")
    written = labels("export", finished_run, "-o", tmp_path / "a", "--ids", tmp_path / "ids", "--json")
    assert json.loads(written.stdout)["images"] == 2
    assert (tmp_path / "a/list.txt").read_text().split() == [POOL[3], POOL[1]]
    (tmp_path / "ids").write_text(f"{POOL[3]}\ndeep/broken\nnobody\n")
    said = labels("export", finished_run, "-o", tmp_path / "b", "--ids", tmp_path / "ids", code=2).stderr
    assert "holds no usable image 'deep/broken', 'nobody'; `selftrain labels stats` shows" in said
    assert not (tmp_path / "b").exists()


def test_export_as_a_table(finished_run: Path, tmp_path: Path) -> None:
    labels("export", finished_run / "round-1/pseudo-labels", "-o", tmp_path / "a", "--format", "parquet")
    table = pq.read_table(tmp_path / "a/labels.parquet")
    assert table.column("id").to_pylist() == ["deep/broken", *POOL]
    assert table.column("scores_png")[1].as_py()
    assert json.loads(table.schema.metadata[b"selftrain"])["classes"] == ["ground", "thing"]
    (tmp_path / "ids").write_text(f"{POOL[3]}\n{POOL[1]}\n")
    arguments = ["--format", "parquet", "--ids", tmp_path / "ids", "--limit", 1]
    labels("export", finished_run, "-o", tmp_path / "b", *arguments)
    assert pq.read_table(tmp_path / "b/labels.parquet").column("id").to_pylist() == [POOL[1]]
    said = labels("export", finished_run, "-o", tmp_path / "c", *arguments, "--policy", "core/fixed", code=2).stderr
    assert "--policy has no use with --format parquet" in said


def test_nothing_is_written_among_other_files(finished_run: Path, exported: Path) -> None:
    for arguments in (("export", finished_run), ("import", exported)):
        said = labels(*arguments, "-o", exported, code=3).stderr
        assert f"the folder {exported} is not empty; nothing was written there" in said
    assert "is a file" in labels("export", finished_run, "-o", exported / "list.txt", code=3).stderr


def test_corrected_labels_become_a_labelled_set(finished_run: Path, exported: Path, tmp_path: Path) -> None:
    repaint(exported / f"masks/{POOL[2]}.png")
    (exported / f"masks/{POOL[0]}.png").unlink()
    same = exported / f"masks/{POOL[1]}.png"
    Image.fromarray(np.array(Image.open(same))).save(same, compress_level=1)  # other bytes, the same classes
    manifest = finished_run / "round-1/pseudo-labels/manifest.json"
    sealed = manifest.read_bytes()
    out = tmp_path / "set"
    shown = labels("import", exported, "-o", out).stdout
    assert f"# 1 imported into {out}, 3 not changed, 1 deleted" in shown
    assert (out / "list.txt").read_text().split() == [POOL[2]]
    assert sorted(path.name for path in out.rglob("*.png")) == ["pool-2.png"]
    written = np.array(Image.open(out / f"masks/{POOL[2]}.png"))
    np.testing.assert_array_equal(written, np.array(Image.open(exported / f"masks/{POOL[2]}.png")))
    assert manifest.read_bytes() == sealed

    changed = yaml.safe_load(shown)["data"]
    raw = yaml.safe_load((finished_run / "config.yaml").read_text())
    raw["data"] = {**raw["data"], **changed, "sources": {**raw["data"]["sources"], **changed["sources"]}}
    (tmp_path / "next.yaml").write_text(yaml.safe_dump(raw))
    data = load_config(tmp_path / "next.yaml").data
    write_index(tmp_path / "index", data, sources := build_sources(data, data.class_names()))
    index = Index(tmp_path / "index")
    assert index.counts() == {"labelled": 5, "unlabelled": 5, "validation": 2, "test": 2}
    entry = next(index.entry(row)[1] for row in index.rows("labelled") if index.entry(row)[1].id == POOL[2])
    found: Any = sources["corrected"].read_labels(entry)
    np.testing.assert_array_equal(found.classes_HW, written)


def test_all_labels_can_be_imported(exported: Path, tmp_path: Path) -> None:
    said = labels("import", exported, "-o", tmp_path / "set", code=2).stderr
    assert "has been changed since it was exported (5 labels); --all imports them as they are" in said
    found = json.loads(labels("import", exported, "-o", tmp_path / "set", "--all", "--json").stdout)
    assert (found["imported"], found["unchanged"], found["deleted"]) == (5, 0, 0)


def test_every_problem_is_listed_and_nothing_is_written(finished_run: Path, exported: Path, tmp_path: Path) -> None:
    masks = exported / "masks"
    repaint(masks / f"{POOL[0]}.png", 7)
    Image.new("L", (10, 10)).save(masks / f"{POOL[1]}.png")
    Image.new("RGB", (48, 40), "red").save(masks / f"{POOL[2]}.png")
    repaint(masks / f"{POOL[3]}.png")
    Image.new("L", (48, 40)).save(masks / "deep/pool-33.png")
    record = json.loads((exported / "export.json").read_text())
    record["images"][POOL[3]]["image"] = str(tmp_path / "deep/gone.png")
    (exported / "export.json").write_text(json.dumps(record))
    said = labels("import", exported, "-o", tmp_path / "set", code=2).stderr
    assert f"5 labels in {exported} cannot be imported; nothing was written. Mend or delete:" in said
    for message in (
        "pool-33.png belongs to no image that was exported (did you mean 'masks/deep/pool-3.png'?)",
        "pool-0.png holds the value 7; with 2 classes values are 0 to 1",
        "pool-1.png: the mask is 10×10 pixels, its image 48×40 pixels",
        "pool-2.png holds colours",
        "gone.png does not exist",
    ):
        assert message in said
    assert not (tmp_path / "set").exists()


def test_what_was_not_exported_is_explained(exported: Path, tmp_path: Path) -> None:
    said = labels("import", tmp_path, "-o", tmp_path / "set", code=3).stderr
    assert "holds no export.json: it was not written by `selftrain labels export`" in said
    (exported / "export.json").write_text("{}")
    assert "export.json is damaged" in labels("import", exported, "-o", tmp_path / "set", code=3).stderr


@pytest.mark.parametrize("id_", ["../../victim", "/absolute", "a//b", "deep/../x"])
def test_an_id_that_leads_out_of_the_folder_is_refused(exported: Path, tmp_path: Path, id_: str) -> None:
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    record = json.loads((exported / "export.json").read_text())
    record["images"][id_] = record["images"].pop(POOL[0])
    (exported / "export.json").write_text(json.dumps(record))
    said = labels("import", exported, "-o", tmp_path / "a" / "set", "--all", code=3).stderr
    assert "export.json is damaged" in said
    assert f"'{id_}' is no name below a folder" in said
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "a").exists()


def test_an_image_without_its_facts_is_explained(exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / "export.json").read_text())
    del record["images"][POOL[0]]["said"]
    (exported / "export.json").write_text(json.dumps(record))
    assert "export.json is damaged" in labels("import", exported, "-o", tmp_path / "set", code=3).stderr
