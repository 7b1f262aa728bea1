"""Checkpoint files: what is read, what is refused, and which of its tensors are taken."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from selftrain_core.backbones.checkpoints import fill, match, read_checkpoint
from selftrain_core.errors import ConfigError


def weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "stem.weight": torch.randn(4, 3, generator=generator),
        "norm.weight": torch.randn(4, generator=generator),
        "norm.num_batches_tracked": torch.tensor(5),
    }


def prefixed(prefix: str, seed: int = 0) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in {**weights(seed), "fc.weight": torch.zeros(2)}.items()}


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.touched}",)


@pytest.mark.parametrize(
    ("content", "prefix"),
    [
        (prefixed(""), ""),
        ({"state_dict": prefixed("module."), "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}}},
         "state_dict.module."),
        ({"model": prefixed("backbone."), "args": argparse.Namespace(lr=0.1)}, "model.backbone."),
        ({"model_state_dict": prefixed("_orig_mod.")}, "model_state_dict._orig_mod."),
        ({"net": prefixed("encoder.")}, "net.encoder."),
        ({"state_dict": prefixed("module.encoder_q.")}, "state_dict.module.encoder_q."),
        (prefixed("backbone.body."), "backbone.body."),
    ],
)  # fmt: skip
def test_wrappers_and_prefixes_are_found(tmp_path: Path, content: Any, prefix: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    own = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    found = match(own, read_checkpoint(tmp_path / "x.pth"))
    assert (found.prefix, found.missing, found.left_over) == (prefix, [], ["fc.weight"])
    fill(own, found, "m", "x.pth")
    for name, tensor in weights().items():
        assert torch.equal(own[name], tensor), name


@pytest.mark.parametrize(
    ("file", "taken"),
    [
        ({"state_dict": weights(1), "state_dict_ema": weights(2)}, 2),
        ({"model": weights(1), "model_ema": weights(2)}, 2),
        ({"student": weights(1), "teacher": weights(2)}, 2),
        ({**prefixed("encoder_q.", 1), **prefixed("encoder_k.", 2)}, 1),
        ({"a": {"stem.weight": torch.zeros(4, 3), "norm.weight": torch.zeros(9)}, "b": weights(2)}, 2),
    ],
)
def test_of_two_models_in_a_file_one_is_taken_whole(tmp_path: Path, file: Any, taken: int) -> None:
    """What fits more tensors; of equals what is called an average; of equals again the first."""
    torch.save(file, tmp_path / "x.pth")
    own = {name: torch.zeros_like(tensor) for name, tensor in weights().items()}
    fill(own, match(own, read_checkpoint(tmp_path / "x.pth")), "m", "x.pth")
    assert all(torch.equal(own[name], tensor) for name, tensor in weights(taken).items())


def test_a_prefix_can_be_said(tmp_path: Path) -> None:
    torch.save({"student": weights(1), "teacher": weights(2)}, tmp_path / "x.pth")
    state, own = read_checkpoint(tmp_path / "x.pth"), weights()
    found = match(own, state, "student.")
    assert torch.equal(found.found["stem.weight"], weights(1)["stem.weight"])
    assert found.summary() == (
        "3 tensors loaded; prefix 'student.' stripped; missing: none; left over: none; "
        "not looked at: teacher.stem.weight, teacher.norm.weight, teacher.norm.num_batches_tracked"
    )
    message = (
        r"x\.pth holds nothing of m under the prefix 'pupil\.'\n"
        r"  its tensors: student\.stem\.weight, student\.norm\.weight, student\.norm\.num_batches_tracked and 3 more\n"
        r"  the backbone's: stem\.weight, norm\.weight, norm\.num_batches_tracked\n"
        r"  is it another model's, or another library's names\?"
    )
    with pytest.raises(ConfigError, match=message):
        fill(own, match(own, state, "pupil."), "m", "x.pth")


def test_counters_may_be_missing_and_types_may_differ() -> None:
    own = weights(1)
    state = {name: tensor.half() for name, tensor in weights(2).items() if tensor.is_floating_point()}
    found = match(own, state)
    assert found.is_complete
    assert found.summary() == "2 tensors loaded; missing: norm.num_batches_tracked; left over: none"
    fill(own, found, "m", "x.pth")
    assert own["stem.weight"].dtype == torch.float32
    assert torch.equal(own["stem.weight"], weights(2)["stem.weight"].half().float())
    assert int(own["norm.num_batches_tracked"]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm.weight": None},
            (
                "x.pth lacks 1 of the 3 tensors of m: norm.weight\n  left over in the file: none\n"
                "  is it another model's, or another library's names?"
            ),
        ),
        (
            {"norm.weight": torch.zeros(5)},
            (
                "x.pth does not fit m: norm.weight is [5] there, [4] was expected (1 of 3 tensors differ in shape)\n"
                "  is it another model's?"
            ),
        ),
        (
            {"norm.weight": torch.full((4,), float("nan"))},
            "x.pth is damaged: norm.weight holds values that are not finite",
        ),
    ],
)
def test_what_does_not_fit_is_explained_and_changes_nothing(change: dict[str, Tensor | None], message: str) -> None:
    own, before = weights(1), weights(1)
    state = {name: tensor for name, tensor in {**weights(2), **change}.items() if tensor is not None}
    with pytest.raises(ConfigError) as error:
        fill(own, match(own, state), "m", "x.pth")
    assert str(error.value) == message
    assert all(torch.equal(own[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("form", ["beside weights", "alone", "old format", "text"])
def test_a_hostile_file_executes_nothing(tmp_path: Path, form: str) -> None:
    touched, path = tmp_path / "touched", tmp_path / "x.pth"
    hostile = Hostile(touched)
    if form == "beside weights":
        torch.save({"state_dict": weights(), "extra": hostile}, path)
    elif form == "old format":
        torch.save({"state_dict": weights(), "extra": hostile}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(hostile, protocol=2 if form == "alone" else 0))
    with pytest.raises(ConfigError) as error:
        read_checkpoint(path)
    assert not touched.exists()
    if form == "beside weights":
        assert str(error.value) == (
            f"the checkpoint {path} holds more than weights (posix.system); nothing in it was run\n"
            "  expected: a model's state_dict, alone or in dictionaries\n"
            "  if you trust where it comes from, write its weights to a safetensors file, once, in Python:\n"
            f"    content = torch.load('{path}', map_location='cpu', weights_only=False)\n"
            "    safetensors.torch.save_file(content['state_dict'], 'weights.safetensors')  # or where they lie"
        )
    # The payload is a real one: who unpickles it is hit.
    if form == "alone":
        pickle.loads(path.read_bytes())
        assert touched.exists()


def test_numbers_of_numpy_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": weights(), "best": np.float64(1)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"holds more than weights \(numpy\S+scalar\); nothing in it was run"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "a web page; the download went wrong"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS, not the file itself"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file, as Keras writes; convert it"),
        (b"weights", "of an unknown format"),
    ],
)
def test_what_is_no_checkpoint_is_told_apart(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"x\.pth is no checkpoint: it is {what}(.|\n)*expected: a file written by"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "old.pth"])
def test_a_cut_file_is_explained(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=name == "x.pth")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=rf"the checkpoint .*{name} is damaged or no \w+ file: .*\n  get it anew"):
        read_checkpoint(path)


def test_missing_files_and_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pth cannot be read: No such file or directory"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_checkpoint(tmp_path)


def test_files_without_named_tensors_are_explained(tmp_path: Path) -> None:
    ring: dict[str, Any] = {"epoch": 1}
    ring["again"] = ring
    for number, content in enumerate([[1, 2], {"epoch": 3}, ring]):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(ConfigError, match=r"\d\.pth holds no named tensors; expected a model's state_dict"):
            read_checkpoint(tmp_path / f"{number}.pth")


def test_the_ending_of_the_name_does_not_matter(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "x.bin")
    assert set(read_checkpoint(tmp_path / "x.bin")) == set(weights())


def test_a_mapping_in_many_places_is_read_once(tmp_path: Path) -> None:
    """A file of two kilobytes can hold one mapping in 12⁸ places."""
    content: dict[str, Any] = {"stem.weight": torch.ones(4, 3)}
    for _ in range(8):
        content = {f"key{number}": content for number in range(12)}
    torch.save(content, tmp_path / "x.pt")
    assert len(read_checkpoint(tmp_path / "x.pt")) == 1
