"""SimCLR's loss against its formula written as loops, on one rank and on two, and the model that it trains."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from selftrain_core.components import build_backbone
from selftrain_core.config import PretrainingConfig
from selftrain_core.config_model import BackboneChoice
from selftrain_core.contrastive import ContrastiveModel, nt_xent
from selftrain_core.pretraining import _leave_out_what_is_idle
from selftrain_core.testing.samples import draws

SCRIPT = Path(__file__).with_name("contrast_on_ranks.py")


def by_loops(first: Tensor, second: Tensor, ids: list[int], temperature: float) -> float:
    views = [*first.double(), *second.double()]
    count = len(first)
    total = 0.0
    for i, view in enumerate(views):
        twin = (i + count) % len(views)
        likeness = [float(torch.cosine_similarity(view, other, dim=0)) / temperature for other in views]
        told_from = [j for j in range(len(views)) if j == twin or ids[j % count] != ids[i % count]]
        total -= math.log(math.exp(likeness[twin]) / sum(math.exp(likeness[j]) for j in told_from))
    return total / len(views)


@pytest.mark.parametrize("ids", [[3, 1, 4, 2, 5], [3, 1, 4, 1, 3]], ids=["all others", "two twice"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_is_the_formula(temperature: float, ids: list[int]) -> None:
    first, second = draws((5, 7), 1) - 0.5, draws((5, 7), 2) - 0.5
    loss, _ = nt_xent(first, second, torch.tensor(ids), temperature)
    assert float(loss) == pytest.approx(by_loops(first, second, ids, temperature), rel=1e-5)
    longer, _ = nt_xent(3 * first, second, torch.tensor(ids), temperature)
    assert float(longer) == pytest.approx(float(loss), rel=1e-5), "length is nothing"


def test_how_often_it_is_won() -> None:
    first, ids = torch.eye(4), torch.arange(4)
    assert float(nt_xent(first, first, ids, 0.5)[1]) == 1
    assert float(nt_xent(first, -first, ids, 0.5)[1]) == 0
    # Images 0 and 1 each have a view of the other: of eight views four find theirs.
    assert float(nt_xent(first, first[[1, 0, 2, 3]], ids, 0.5)[1]) == 0.5


@pytest.mark.slow
def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    images, weight = draws((2, 6, 5), 3) - 0.5, (draws((5, 4), 4) - 0.5).double().requires_grad_()
    ids = torch.tensor([7, 8, 9, 7, 10, 9])  # one comes twice on both ranks, one on the first alone
    torch.save((*images, ids, weight.detach()), tmp_path / "images.pt")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "images.pt"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    # On one rank the images come in another order, which the loss does not know.
    loss, won = nt_xent(images[0].double() @ weight, images[1].double() @ weight, ids, 0.2)
    loss.backward()
    for name, expected in (("loss", loss.detach()), ("won", won), ("gradient", weight.grad)):
        mean = torch.stack([each[name] for each in found]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=1e-8, check_dtype=False, msg=name)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_head_has_as_many_layers_as_asked_for(layers: int) -> None:
    backbone = build_backbone(BackboneChoice.of("timm/test_resnet", init="random"), (8, 16, 32))
    config = PretrainingConfig(images="a", projection_layers=layers, projection_channels=6)
    model = ContrastiveModel(backbone, config)
    assert sum(isinstance(part, torch.nn.Linear) for part in model.head) == layers
    assert model(draws((4, 3, 64, 64), 1)).shape == (4, 6)


def test_what_the_coarsest_map_does_not_depend_on_is_left_out() -> None:
    backbone = build_backbone(BackboneChoice.of("spinenet/49s"), (8, 16, 32, 64, 128))
    model = ContrastiveModel(backbone, PretrainingConfig(images="a"))
    _leave_out_what_is_idle(model, torch.zeros(2, 3, 64, 64))
    idle = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert idle and all(name.startswith("backbone.") for name in idle)
    model(draws((4, 3, 64, 64), 1)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
