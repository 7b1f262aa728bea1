"""Weights from checkpoint files: reading them without running anything in them, and finding the backbone's tensors.

A file's tensors are looked at as one flat table: a tensor in a dictionary within a dictionary has both keys in its
name, ``state_dict.module.conv1.weight``. Whatever wraps a model's weights is then a prefix of the names, and one rule
finds it: the prefix under which most of the backbone's tensors are there in their own shapes. Two prefixes are never
mixed.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from selftrain_core.backbones.inits import CheckpointInit, Init
from selftrain_core.errors import ConfigError

AVERAGES = ("ema", "teacher", "averaged", "average")
"""Words of a prefix that say weight average: of two prefixes that fit equally well, this one is taken."""
MAX_DEPTH = 8
SHOWN = 3

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Match:
    """What of a checkpoint belongs to a backbone.

    Attributes:
        prefix: What the names in the file begin with.
        found: The file's tensors by the backbone's names, where the shapes are equal.
        wrong: The shapes in the file by the backbone's names, where they are not.
        missing: The backbone's names that the file lacks.
        left_over: The file's names that begin so and were not taken, without the beginning: a classifier's, mostly.
        elsewhere: The file's names that do not begin so.
    """

    prefix: str
    found: Mapping[str, Tensor]
    wrong: Mapping[str, tuple[int, ...]]
    missing: Sequence[str]
    left_over: Sequence[str]
    elsewhere: Sequence[str]

    @property
    def is_complete(self) -> bool:
        """Whether every tensor that matters is there."""
        return not self.wrong and all(is_counter(name) for name in self.missing)

    @property
    def rank(self) -> tuple[int, int]:
        """How well it fits: tensors of equal shape, then tensors by name."""
        return len(self.found), len(self.wrong)

    def summary(self) -> str:
        """Return in one line what was loaded and what was not."""
        parts = [f"{len(self.found)} tensors loaded"]
        parts += [f"prefix '{self.prefix}' stripped"] if self.prefix else []
        parts.append(f"missing: {_some(self.missing)}")
        parts.append(f"left over: {_some(self.left_over)}")
        parts += [f"not looked at: {_some(self.elsewhere)}"] if self.elsewhere else []
        return "; ".join(parts)


def is_counter(name: str) -> bool:
    """Return whether a tensor only counts batches, which no result depends on."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a checkpoint file by name; keys of nested dictionaries are joined with dots.

    Nothing in the file is run: of a pickle only tensors and plain containers are taken.

    Raises:
        ConfigError: The file is missing, damaged, no checkpoint, or holds anything that would have to be run.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ConfigError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
    if head[:2] == b"PK" or head[:1] == b"\x80":
        content = _read_pickled(path)
    elif head[8:9] == b"{":
        content = _read_safetensors(path)
    else:
        raise ConfigError(
            f"{path} is no checkpoint: it is {_what_it_is(head)}\n"
            "  expected: a file written by torch.save or in the safetensors format"
        )
    state = dict(_tensors(content))
    if not state:
        raise ConfigError(f"{path} holds no named tensors; expected a model's state_dict, alone or in a dictionary")
    return state


def match(own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str | None = None) -> Match:
    """Return what of `state` belongs to the tensors `own`, under one prefix.

    Args:
        own: The backbone's tensors by name.
        state: A checkpoint's.
        prefix: What the names begin with; by default what fits best: first by equal shapes, then by names, then what
            is called a weight average, then what comes first in the file.
    """
    if prefix is None:
        shapes, names = Counter[str](), Counter[str]()
        for key, tensor in state.items():
            for start, name in _endings(key):
                if name in own:
                    names[start] += 1
                    shapes[start] += tensor.shape == own[name].shape
        prefix = max(names, key=lambda p: (shapes[p], names[p], _is_average(p)), default="")
    there = {name: state[prefix + name] for name in own if prefix + name in state}
    return Match(
        prefix,
        found={name: tensor for name, tensor in there.items() if tensor.shape == own[name].shape},
        wrong={name: tuple(tensor.shape) for name, tensor in there.items() if tensor.shape != own[name].shape},
        missing=[name for name in own if name not in there],
        left_over=[rest for key in state if key.startswith(prefix) and (rest := key.removeprefix(prefix)) not in there],
        elsewhere=[key for key in state if not key.startswith(prefix)],
    )


def load_checkpoint(
    checkpoint: CheckpointInit,
    namings: Sequence[Mapping[str, Tensor]],
    converted: Callable[[Mapping[str, Tensor]], Iterator[Mapping[str, Tensor]]],
    inits: Sequence[Init],
    what: str,
) -> Init:
    """Load a file into a backbone's tensors, and return what normalisation the weights expect.

    Args:
        checkpoint: What the user says of it.
        namings: The backbone's tensors, under each set of names that checkpoints use for them.
        converted: Yields a checkpoint under other names, for files that fit none of `namings`.
        inits: The backbone's named inits, for the normalisation.
        what: The backbone, for messages.

    Raises:
        ConfigError: The file cannot be read, or its weights are not this backbone's; nothing was loaded.
    """
    path = checkpoint.checkpoint
    state = read_checkpoint(path)
    matches = ((match(own, s, checkpoint.prefix), own) for s in chain([state], converted(state)) for own in namings)
    best, filled = next(matches)
    while not best.is_complete and (other := next(matches, None)):
        if other[0].rank > best.rank:
            best, filled = other
    fill(filled, best, what, str(path))
    mean, std = _normalisation(checkpoint, state, best.prefix, inits)
    note = f"{path.name}: {best.summary()}; mean {_numbers(mean)}, std {_numbers(std)}"
    return Init(checkpoint.name, mean, std, origin=str(path), licence="the file's own", note=note)


def fill(own: Mapping[str, Tensor], found: Match, what: str, path: str) -> None:
    """Copy what was found into the backbone's tensors.

    Args:
        own: The backbone's tensors by name.
        found: Where they are.
        what: The backbone, for messages.
        path: The file, for messages.

    Raises:
        ConfigError: Nothing matches, a shape differs, a tensor is missing, or a value is not finite. Nothing is copied.
    """
    if not found.found and not found.wrong:
        at = f" under the prefix '{found.prefix}'" if found.prefix else ""
        raise ConfigError(
            f"{path} holds nothing of {what}{at}\n  its tensors: {_some([*found.left_over, *found.elsewhere])}\n"
            f"  the backbone's: {_some(list(own))}\n  is it another model's, or another library's names?"
        )
    if found.wrong:
        name, shape = next(iter(found.wrong.items()))
        raise ConfigError(
            f"{path} does not fit {what}: {name} is {list(shape)} there, {list(own[name].shape)} was expected "
            f"({len(found.wrong)} of {len(own)} tensors differ in shape)\n  is it another model's?"
        )
    missing = [name for name in found.missing if not is_counter(name)]
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} of the {len(own)} tensors of {what}: {_some(missing)}\n"
            f"  left over in the file: {_some(found.left_over)}\n  is it another model's, or another library's names?"
        )
    for name, tensor in found.found.items():
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{path} is damaged: {found.prefix}{name} holds values that are not finite")
    with torch.no_grad():
        for name, tensor in found.found.items():
            own[name].copy_(tensor)


def _read_pickled(path: Path) -> Any:
    try:
        # Training scripts keep their arguments beside the weights; a Namespace is a container like a dictionary.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about old ways of writing, which is not the reader's doing
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types on a damaged file
        text = str(error) or type(error).__name__
        if "weights_only" not in text:
            raise ConfigError(
                f"the checkpoint {path} is damaged or no PyTorch file: {text.splitlines()[0]}\n  get it anew"
            ) from error
        # torch's own text advises to run what is in the file.
        named = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"holds more than weights ({named[1]})" if named else "holds more than weights, or is damaged"
        raise ConfigError(
            f"the checkpoint {path} {what}; nothing in it was run\n"
            "  expected: a model's state_dict, alone or in dictionaries\n"
            "  if you trust where it comes from, write its weights to a safetensors file, once, in Python:\n"
            f"    content = torch.load({str(path)!r}, map_location='cpu', weights_only=False)\n"
            "    safetensors.torch.save_file(content['state_dict'], 'weights.safetensors')  # or where they lie"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"the checkpoint {path} is damaged or no safetensors file: {error}\n  get it anew") from error


def _what_it_is(head: bytes) -> str:
    start = head.lstrip().lower()
    if not head:
        return "empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download went wrong"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file itself; run 'git lfs pull' where it comes from"
    if start.startswith(b"\x89hdf"):
        return "an HDF5 file, as Keras writes; convert it to PyTorch's names and format"
    return "of an unknown format"


def _tensors(
    content: Any, prefix: str = "", depth: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    # Each mapping once: a file of a few bytes can hold one in a million places.
    seen = set() if seen is None else seen
    if not isinstance(content, Mapping) or depth > MAX_DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    for key, value in content.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
            yield f"{prefix}{key}", value
        else:
            yield from _tensors(value, f"{prefix}{key}.", depth + 1, seen)


def _endings(key: str) -> Iterator[tuple[str, str]]:
    """Yield (beginning, ending) of a dotted name cut at each dot, and before all of it."""
    position = 0
    while True:
        yield key[:position], key[position:]
        dot = key.find(".", position)
        if dot < 0:
            return
        position = dot + 1


def _is_average(prefix: str) -> bool:
    return any(word in AVERAGES for word in re.split(r"[._]", prefix))


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _normalisation(
    checkpoint: CheckpointInit, state: Mapping[str, Tensor], prefix: str, inits: Sequence[Init]
) -> tuple[Rgb, Rgb]:
    """Return mean and deviation: what the user says, else what a model of selftrain's keeps, else what is usual."""
    known = {init.name: init for init in inits}
    usual = known.get(checkpoint.name) or known.get("imagenet") or known["random"]
    # SimCLR is trained on images in 0..1 as they are.
    mean, std = (usual.mean, usual.std) if checkpoint.name != "simclr" else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for owner in (prefix, prefix.removesuffix("body.")):
        kept = [state.get(f"{owner}{name}") for name in ("mean", "std")]
        if all(tensor is not None and tensor.shape == (3,) for tensor in kept):
            mean, std = (_rgb(tensor) for tensor in kept if tensor is not None)
    return checkpoint.mean or mean, checkpoint.std or std


def _rgb(tensor: Tensor) -> Rgb:
    red, green, blue = (float(f"{value:.6g}") for value in tensor)  # as it was written, not as float32 holds it
    return red, green, blue


def _numbers(values: Rgb) -> str:
    return " ".join(f"{value:g}" for value in values)
