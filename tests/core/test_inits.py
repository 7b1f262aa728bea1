"""What backbones start from: timm's published weights by name, and checkpoint files."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from selftrain_core.backbones.inits import CheckpointInit, Init
from selftrain_core.backbones.listing import inits_of
from selftrain_core.backbones.pretrained import full_names, named_inits, whole_model
from selftrain_core.components import build_backbone
from selftrain_core.config import RunConfig, dump_config, parse_config
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError
from selftrain_core.interfaces import Backbone
from selftrain_core.progress import Event, Reporter
from selftrain_core.stage_context import StageContext

RESNET = "timm/test_resnet"


def build(name: str, strides: tuple[int, ...] = (8, 32), **options: Any) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(BackboneChoice.of(name, **options), strides)


def start(name: str, init: Any, strides: tuple[int, ...] = (8, 32)) -> tuple[Backbone, Init]:
    choice = BackboneChoice.of(name, init=init)
    options: Any = choice.options
    backbone = build(name, strides)
    return backbone, backbone.start(options.init)


def whole(member: str) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return dict(timm.create_model(member).state_dict())


def run_config(folder: Path, init: Any) -> RunConfig:
    images = {"name": "core/images", "images": "x"}
    data = {"sources": {"a": images}, "classes": ["ground", "thing"]} | dict.fromkeys(
        ("labelled", "unlabelled", "validation", "test"), "a"
    )
    backbone = {"name": RESNET, "init": init}
    return parse_config({"data": data, "task": "segmentation/semantic", "backbone": backbone}, base_dir=folder)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("member", "imagenet", "plus"),
    [
        ("resnet50", "a1_in1k", None),
        ("tf_efficientnet_b0", "aa_in1k", "ns_jft_in1k"),
        ("tf_efficientnet_b7", "aa_in1k", "ns_jft_in1k"),
        ("tf_efficientnet_l2", None, "ns_jft_in1k"),
        ("convnext_tiny", "fb_in1k", None),
        ("convnextv2_atto", "fcmae_ft_in1k", None),
        ("vit_small_patch16_224", "augreg_in1k", None),
        ("vit_base_patch16_clip_224", None, None),
        ("vit_small_patch14_dinov2", None, None),
        ("regnety_160", "deit_in1k", None),
    ],
)
def test_names_mean_what_the_weights_were_trained_on(member: str, imagenet: str | None, plus: str | None) -> None:
    """timm's default is no guide: that of EfficientNet-B7 is Noisy Student, others have seen far more than ImageNet."""
    inits = {init.name: init for init in named_inits(member)}
    expected = {"imagenet": imagenet, "imagenet++": plus}
    assert {name: inits[name].origin for name in expected if name in inits} == {
        name: f"timm {tag}" for name, tag in expected.items() if tag
    }


def test_every_tag_is_an_init_with_its_own_licence_and_normalisation() -> None:
    inits = {init.name: init for init in named_inits("tf_efficientnet_b7")}
    assert list(inits) == ["random", "imagenet", "imagenet++", "ns_jft_in1k", "aa_in1k", "ap_in1k", "ra_in1k"]
    assert inits["imagenet++"].licence == "apache-2.0"
    assert inits["imagenet"].mean == (0.485, 0.456, 0.406)
    assert inits["ap_in1k"].mean == (0.5, 0.5, 0.5)
    assert {init.name: init.licence for init in named_inits("resnet18")}["fb_ssl_yfcc100m_ft_in1k"] == "cc-by-nc-4.0"


def test_a_licence_that_timm_does_not_state(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = timm.get_pretrained_cfg("resnet18.a1_in1k")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: replace(known, license=None))
    assert named_inits("resnet18")[1].licence == "not stated"


def test_an_init_that_a_backbone_lacks() -> None:
    message = (
        r"TimmBackbone test_resnet has no init 'imagenet\+\+' \(did you mean 'imagenet'\?\); "
        r"it has: random, imagenet, r160_in1k; or give a checkpoint file: init: FILE"
    )
    with pytest.raises(ConfigError, match=message):
        start(RESNET, "imagenet++")


@pytest.mark.parametrize(("tag", "init"), [("ns_jft_in1k", "imagenet++"), ("ra_in1k", "ra_in1k")])
def test_a_tag_in_the_name_is_refused(tag: str, init: str) -> None:
    message = f"names weights beside the model; the init does that: {{name: timm/tf_efficientnet_b7, init: {init}}}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(f"timm/tf_efficientnet_b7.{tag}")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "init", "bring", "say"),
    [
        ("timm/resnet18", "imagenet", "timm/resnet18.a1_in1k", "imagenet"),
        ("timm/tf_efficientnet_b0", "imagenet++", "timm/tf_efficientnet_b0.ns_jft_in1k", "imagenet++"),
        ("timm/resnet18", "tv_in1k", "timm/resnet18.tv_in1k", "checkpoint"),
    ],
)
def test_weights_that_are_not_here_say_what_to_bring(name: str, init: str, bring: str, say: str) -> None:
    message = (
        rf"the weights of {name} for the init '{re.escape(init)}' are not on this machine and could not be fetched "
        r"\((.|\n)*\)\n  without a network: timm/tf_efficientnet_lite0, (.|\n)*"
        rf"  or bring model\.safetensors of {bring} on the Hugging Face hub, or http\S+, and say "
        rf"init: {{name: {re.escape(say)}, checkpoint: FILE}}"
    )
    with pytest.raises(ConfigError, match=message):
        start(name, init)


def test_a_named_init_is_asked_of_timm_by_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    create, asked = timm.create_model, []

    def stand_in(name: str, *, pretrained: bool = False, **options: Any) -> Any:
        asked.extend([name] if pretrained else [])
        torch.manual_seed(3)
        return create(name, **options)

    backbone = build("timm/tf_efficientnet_b0", (8,))
    monkeypatch.setattr(timm, "create_model", stand_in)
    backbone.initialise("imagenet++")
    assert asked == ["tf_efficientnet_b0.ns_jft_in1k"]
    monkeypatch.undo()
    torch.manual_seed(3)
    expected = create("tf_efficientnet_b0").state_dict()
    names, _ = backbone.namings()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in names.items())


@pytest.mark.parametrize(
    "member",
    [
        "test_resnet", "test_efficientnet", "test_convnext", "test_vit", "convnext_atto", "hrnet_w18_small", "vgg11_bn",
        "mobilenetv3_small_050", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "regnetx_002", "levit_128s",
    ],
)  # fmt: skip
def test_features_have_the_names_of_the_whole_model(member: str) -> None:
    with torch.device("meta"):
        own = timm.create_model(member, features_only=True).state_dict()
    full = whole_model(member).state_dict()
    names = full_names(own, full)
    assert len(set(names.values())) == len(own) > 10
    assert all(full[names[name]].shape == tensor.shape for name, tensor in own.items())


@pytest.mark.parametrize("member", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_whole_model_loads_into_the_features(tmp_path: Path, member: str, form: str) -> None:
    full, path = whole(member), tmp_path / f"x.{form}"
    if form == "pth":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in full.items()}, "epoch": 9}, path)
    else:
        save_file(full, path)
    backbone, init = start(f"timm/{member}", str(path))
    names, own = backbone.namings()
    assert len(names) == len(own) > 10
    assert all(torch.equal(tensor, full[name]) for name, tensor in names.items())
    assert (init.name, init.origin, init.licence) == ("checkpoint", str(path), "the file's own")
    stripped = "prefix 'state_dict.module.' stripped; " if form == "pth" else ""
    assert init.note.startswith(f"x.{form}: {len(own)} tensors loaded; {stripped}missing: none; left over: "), init
    imagenet = named_inits(member)[1]
    assert (init.mean, init.std) == (imagenet.mean, imagenet.std)
    assert f"; mean {imagenet.mean[0]:g} " in init.note


def test_a_backbone_of_ours_loads_with_its_own_normalisation(tmp_path: Path) -> None:
    trained, _ = start("timm/test_convnext", "random")
    trained.get_buffer("mean").copy_(torch.tensor([0.1, 0.2, 0.3]))
    save_file({f"backbone.{name}": tensor for name, tensor in trained.state_dict().items()}, tmp_path / "m.safetensors")
    torch.manual_seed(5)
    backbone = build_backbone(BackboneChoice.of("timm/test_convnext"), (8, 32))
    init = backbone.start(CheckpointInit(checkpoint=tmp_path / "m.safetensors"))
    assert init.mean == (0.1, 0.2, 0.3)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], tensor), name
    said = backbone.start(CheckpointInit(checkpoint=tmp_path / "m.safetensors", mean=(0, 0, 1)))
    assert (said.mean, said.std) == ((0, 0, 1), init.std)
    assert backbone.get_buffer("mean").tolist() == [0, 0, 1]


def test_simclr_takes_images_as_they_are(tmp_path: Path) -> None:
    torch.save(
        {"model": {f"encoder.{name}": tensor for name, tensor in whole("test_resnet").items()}}, tmp_path / "s.pt"
    )
    backbone, init = start(RESNET, {"name": "simclr", "checkpoint": str(tmp_path / "s.pt")})
    assert (init.name, init.mean, init.std) == ("simclr", (0, 0, 0), (1, 1, 1))
    assert (backbone.get_buffer("mean").tolist(), backbone.get_buffer("std").tolist()) == ([0] * 3, [1] * 3)


def test_a_checkpoint_under_its_authors_names_is_converted(tmp_path: Path) -> None:
    """ConvNeXt's authors name things otherwise than timm; timm knows how."""
    full = whole("convnext_atto")
    renamed = {}
    for name, tensor in full.items():
        theirs = re.sub(r"^stem\.", "downsample_layers.0.", name)
        theirs = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", theirs)
        theirs = re.sub(r"\.blocks\.", ".", theirs)
        theirs = theirs.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1").replace("mlp.fc2", "pwconv2")
        renamed[re.sub(r"^head\.(fc\.)?", lambda m: "head." if m[1] else "", theirs)] = tensor
    torch.save({"model": renamed}, tmp_path / "x.pth")
    backbone, _ = start("timm/convnext_atto", str(tmp_path / "x.pth"), (4, 32))
    names, _ = backbone.namings()
    assert all(torch.equal(tensor.flatten(), full[name].flatten()) for name, tensor in names.items())


def test_another_models_file_is_explained(tmp_path: Path) -> None:
    torch.save(whole("test_convnext"), tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"x\.pth (holds nothing|lacks \d+ of the \d+ tensors) of TimmBackbone"):
        start(RESNET, str(tmp_path / "x.pth"))


def test_a_pyramid_loads_its_bodys_checkpoint(tmp_path: Path) -> None:
    torch.save(whole("test_resnet"), tmp_path / "x.pth")
    choice = BackboneChoice.of("core/fpn", body={"name": RESNET, "init": str(tmp_path / "x.pth")}, channels=8)
    options: Any = choice.options
    pyramid: Any = build_backbone(choice, (8, 16, 32))
    init = pyramid.start(options.init)
    assert init.origin == str(tmp_path / "x.pth")
    names, _ = pyramid.body.namings()
    assert all(torch.equal(tensor, whole("test_resnet")[name]) for name, tensor in names.items())


@pytest.mark.parametrize("text", ["x.pth", "./x", "sub/x.ckpt", "/abs/x.safetensors", "x.BIN", "x.pth.tar"])
def test_a_text_that_looks_like_a_file_is_one(tmp_path: Path, text: str) -> None:
    config = run_config(tmp_path, text)
    options: Any = config.backbone.options
    assert options.init == CheckpointInit(checkpoint=(tmp_path / text).resolve())
    # What is written into the run is read back as the same.
    again = parse_config(yaml.safe_load(dump_config(config)), base_dir=tmp_path / "elsewhere")
    assert again.backbone == config.backbone


@pytest.mark.parametrize("init", ["random", "imagenet", "imagenet++", {"name": "imagenet"}])
def test_a_name_stays_a_name(tmp_path: Path, init: Any) -> None:
    options: Any = run_config(tmp_path, init).backbone.options
    name = init if isinstance(init, str) else init["name"]
    assert options.init == name
    assert options.model_dump(mode="json")["init"] == name


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("simclr", r"backbone\.init: SimCLR's weights come from a file: init: \{name: simclr, checkpoint: FILE\}"),
        (3, r"backbone\.init: give an init's name, a checkpoint file, or \{name: …, checkpoint: FILE\} \(given 3\)"),
        ({"checkpoint": "x", "men": [0, 0, 0]}, r"backbone\.init: has no key 'men' \(did you mean 'mean'\?\)"),
        ({"name": "random", "checkpoint": "x"}, r"backbone\.init\.name: must be 'checkpoint', 'imagenet'"),
        ({"checkpoint": "x", "mean": [123.7, 0, 0]}, r"backbone\.init\.mean\.0: .*less than or equal to 1 \(given 123"),
        ({"checkpoint": "x", "std": [0, 1, 1]}, r"backbone\.init\.std\.0: .*greater than 0"),
        ({"name": "simclr"}, r"backbone\.init: SimCLR's weights come from a file"),
    ],
)
def test_wrong_inits_are_explained(tmp_path: Path, init: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(tmp_path, init)


def test_a_named_init_identifies_as_it_always_did() -> None:
    identity = BackboneChoice.of("timm/resnet18", init="imagenet").identity()
    assert (identity["name"], identity["init"]) == ("timm/resnet18", "imagenet")
    assert identity == BackboneChoice.of("timm/resnet18").identity()


def test_a_checkpoint_identifies_by_its_bytes(tmp_path: Path) -> None:
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.pth").write_bytes(content)

    def identity(folder: str, **more: Any) -> dict[str, Any]:
        return BackboneChoice.of(RESNET, init={"checkpoint": str(tmp_path / folder / "x.pth"), **more}).identity()

    assert identity("a") == identity("b")
    assert identity("a") != identity("c")
    assert identity("a") != identity("a", mean=[0, 0, 0])
    assert identity("a") != identity("a", name="simclr")
    with pytest.raises(ConfigError, match=r"d/x\.pth cannot be read: No such file or directory; the configuration"):
        identity("d")


def test_a_backbone_that_needs_settings_has_no_inits_to_list() -> None:
    with pytest.raises(ConfigError, match="the inits of 'core/fpn' depend on its settings: body"):
        inits_of("core/fpn")


def test_a_stage_tells_what_a_checkpoint_gave_and_names_nothing_else(tmp_path: Path) -> None:
    save_file({f"backbone.{name}": tensor for name, tensor in build(RESNET).state_dict().items()}, tmp_path / "m.pt")
    for init, told in (
        (
            "m.pt",
            [f"m.pt: {len(whole('test_resnet')) - 2} tensors loaded; prefix 'backbone.body.' stripped; missing: none;"],
        ),
        ("random", []),
    ):
        events: list[Event] = []
        config, reporter = run_config(tmp_path, init), Reporter("round-0/teacher", events.append)
        StageContext(tmp_path, tmp_path, {"inputs": {}}, config, reporter).new_model(with_init=True)
        assert [event.kind for event in events] == ["note"] * len(told)
        assert all(event.text.startswith(text) for event, text in zip(events, told, strict=True)), events
