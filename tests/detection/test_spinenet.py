"""SpineNet: the published sizes to the digit, the rules behind its table, and what every backbone must do."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from selftrain_core.components import build_backbone
from selftrain_core.config_model import BackboneChoice
from selftrain_core.errors import ConfigError, StridesError
from selftrain_core.testing import BackboneContract
from selftrain_core.testing.samples import draws
from selftrain_detection.anchors import STRIDES
from selftrain_detection.config import DetectionConfig
from selftrain_detection.model import RetinaNet
from selftrain_detection.spinenet import ROWS, SIZES, Block, SpineNet, needed_rows, row_of, same_max_pool
from selftrain_detection.spinenet_config import SpineNetConfig

COCO_LOGITS = 91


class TestSpineNet49s(BackboneContract):
    spec_name = "spinenet/49s"
    strides = STRIDES
    sizes = ((64, 96), (192, 32), (256, 128))


class TestPartOfSpineNet49s(BackboneContract):
    spec_name = "spinenet/49s"
    options = {"activation": "relu", "channels": 32}
    strides = (8, 32)


def on_meta(member: str, strides: tuple[int, ...] = STRIDES, **settings: Any) -> SpineNet:
    with torch.device("meta"):
        return SpineNet(SpineNetConfig(**settings), member, strides)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("member", "side", "head", "backbone_alone", "with_head", "giga_macs"),
    [
        ("49s", 640, (4, 128), 9_089_215, 11_265_942, 30.78),
        ("49", 640, (4, 256), 21_831_488, 28_543_383, 85.28),
        ("96", 1024, (4, 256), 36_262_976, 42_974_871, 265.02),
        ("143", 1280, (4, 256), 60_247_616, 66_959_511, 523.34),
        ("190", 1280, (7, 512), 126_587_664, 163_637_351, 1881.66),
    ],
)
def test_sizes(
    member: str, side: int, head: tuple[int, int], backbone_alone: int, with_head: int, giga_macs: float
) -> None:
    """As counted from the published table; all but 49s are what the released code's authors print, too."""
    num_convs, channels = head
    backbone = on_meta(member)
    config = DetectionConfig.model_validate(
        {"neck": {"kind": "none"}, "head": {"num_convs": num_convs, "channels": channels}}
    )
    with torch.device("meta"):
        model = RetinaNet(backbone, config, COCO_LOGITS).eval()
        images = torch.empty(1, 3, side, side)
        with FlopCounterMode(display=False) as counted:
            model(images)
    assert count(backbone) == backbone_alone
    assert count(model) == with_head
    assert counted.get_total_flops() / 2e9 == pytest.approx(giga_macs, rel=1e-4)


def test_the_large_one_of_143_is_the_widest_of_its_depth() -> None:
    assert count(on_meta("143l")) == 100_796_257


def test_a_level_adds_what_nothing_has_taken_yet() -> None:
    """The rule, simulated, finds what the table says."""
    bottleneck_4 = [(2, 4 * 64)] * 2
    base = {2: 64, 3: 128, 4: 256, 5: 256, 6: 256, 7: 256}
    kinds = bottleneck_4 + [(row.level, base[row.level] * (4 if row.kind == "bottleneck" else 1)) for row in ROWS]
    taken, levels = set[int](), set[int]()
    for number, row in enumerate(ROWS):
        feature = number + 2
        taken |= set(row.inputs)
        added = None
        if row.is_output:
            levels.add(feature)
            free = [f for f in range(feature) if f not in taken | levels and kinds[f] == kinds[feature]]
            assert len(free) <= 1
            added = free[0] if free else None
            taken |= set(free)
        assert row.added == added, number


def test_a_level_is_reached_from_the_rows_below_it_alone() -> None:
    assert {stride: ROWS[row_of(stride)].level for stride in STRIDES} == {8: 3, 16: 4, 32: 5, 64: 6, 128: 7}
    assert needed_rows(STRIDES) == list(range(15))
    assert 9 not in needed_rows((8,)) and 9 in needed_rows((32,))
    for row in ROWS:
        assert all(source < 2 or source - 2 < ROWS.index(row) for source in row.sources)


def test_fewer_strides_are_the_same_network_with_less_of_it() -> None:
    torch.manual_seed(0)
    whole = SpineNet(SpineNetConfig(), "49s", STRIDES).eval()
    part = SpineNet(SpineNetConfig(), "49s", (8, 16)).eval()
    numbers = {number: place for place, number in enumerate(needed_rows(STRIDES))}
    part.stem.load_state_dict(whole.stem.state_dict())
    for number, row in zip(needed_rows((8, 16)), part.rows, strict=True):
        row.load_state_dict(whole.rows[numbers[number]].state_dict())
    for mine, its in zip(part.endpoints, whole.endpoints[:2], strict=True):
        mine.load_state_dict(its.state_dict())
    images = draws((1, 3, 64, 64), 0)
    with torch.no_grad():
        expected, found = whole(images), part(images)
    for stride in (8, 16):
        torch.testing.assert_close(found[stride], expected[stride])


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (5, 4)])
@pytest.mark.parametrize("size", [(4, 8), (5, 7), (1, 3), (6, 10)])
def test_pooling_pads_behind_as_tensorflow_does(window: int, stride: int, size: tuple[int, int]) -> None:
    feature = draws((1, 2, *size), 3) - 2  # below 0: padding with zeros would show
    found = same_max_pool(feature, window, stride)

    def reach(side: int, place: int) -> range:
        number = math.ceil(side / stride)
        before = max(0, (number - 1) * stride + window - side) // 2
        first = place * stride - before
        return range(max(0, first), min(side, first + window))

    height, width = (math.ceil(side / stride) for side in size)
    assert found.shape == (1, 2, height, width)
    for y, x in itertools.product(range(height), range(width)):
        patch = feature[0][:, list(reach(size[0], y))][:, :, list(reach(size[1], x))]
        torch.testing.assert_close(found[0, :, y, x], patch.amax((1, 2)))


def test_drop_connect_rises_to_the_last_row() -> None:
    rates = {
        number: {module.drop.p for module in row.modules() if isinstance(module, Block)}
        for number, row in enumerate(on_meta("143").rows)
    }
    for number, found in rates.items():
        assert list(found) == pytest.approx([0.16 * (number + 1) / 15])
    assert {block.drop.p for block in on_meta("49").stem.modules() if isinstance(block, Block)} == {0.0}
    assert {block.drop.p for block in on_meta("49", drop_connect=0).modules() if isinstance(block, Block)} == {0.0}


@pytest.mark.parametrize("member", ["49s", *(pytest.param(size, marks=pytest.mark.slow) for size in ("143", "190"))])
def test_bfloat16_stays_finite(member: str) -> None:
    torch.manual_seed(0)
    backbone = SpineNet(SpineNetConfig(), member, STRIDES)
    with torch.autocast("cpu", torch.bfloat16):
        levels: dict[int, Tensor] = backbone(draws((2, 3, 64, 64), 1))
        total = torch.stack([level.float().square().mean() for level in levels.values()]).sum()
    total.backward()
    assert total.isfinite()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_what_there_is_not() -> None:
    with pytest.raises(ConfigError, match="there is no SpineNet '48'; there are: 49s, 49, 96, 143, 143l, 190"):
        build_backbone(BackboneChoice.of("spinenet/48"), STRIDES)
    with pytest.raises(StridesError, match="offers strides 8, 16, 32, 64, 128; asked for 4, 8"):
        build_backbone(BackboneChoice.of("spinenet/49"), (4, 8))
    with pytest.raises(StridesError, match="asked for 8, 16 at the output stride 16"):
        build_backbone(BackboneChoice.of("spinenet/49"), (8, 16), 16)
    assert set(SIZES) == {"49s", "49", "96", "143", "143l", "190"}
