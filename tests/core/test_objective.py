"""The normalised objective, against the paper's Appendix B and against arithmetic by hand."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from selftrain_core.batch import HUMAN, PSEUDO
from selftrain_core.errors import ContractError
from selftrain_core.interfaces import LossTerm
from selftrain_core.objective import Denominators, NormalisedObjective

PIXELS = (LossTerm("pixels"),)
RETINANET = (LossTerm("class", count_offset=1), LossTerm("box", weight=50.0, count_scale=4.0, count_offset=1))
FULL = Denominators(torch.ones(1, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
"""One term, nothing to divide by, both halves filled: `combine` and `update` see the losses as they are."""

losses = st.floats(1e-3, 1e3)
alphas = st.floats(0, 100)
pairs = st.lists(st.tuples(losses, losses), min_size=1, max_size=8)


def both(human: float, pseudo: float) -> Tensor:
    return torch.tensor([human, pseudo], dtype=torch.float64)


def filled(human: bool, pseudo: bool) -> Denominators:
    return Denominators(FULL.divisor_T2, torch.tensor([human, pseudo], dtype=torch.float64))


def trained(objective: NormalisedObjective, steps: Sequence[tuple[float, float]]) -> NormalisedObjective:
    for step in steps:
        objective.update(both(*step), FULL)
    return objective


def hand_average(values: Sequence[float], decay: float) -> float:
    weights = [decay ** (len(values) - 1 - place) for place in range(len(values))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


@given(alphas, losses, losses)
def test_alpha_weighs_the_halves_before_any_average_exists(alpha: float, human: float, pseudo: float) -> None:
    loss = NormalisedObjective(PIXELS, alpha).combine(both(human, pseudo))
    assert float(loss) == pytest.approx((human + alpha * pseudo) / (1 + alpha))


@given(pairs, losses, losses)
def test_alpha_zero_is_supervised_training(steps: list[tuple[float, float]], human: float, pseudo: float) -> None:
    assert float(trained(NormalisedObjective(PIXELS, 0), steps).combine(both(human, pseudo))) == human


@given(pairs, alphas, st.floats(1e-6, 1e6))
def test_scaling_the_pseudo_loss_changes_nothing(steps: list[tuple[float, float]], alpha: float, factor: float) -> None:
    plain = trained(NormalisedObjective(PIXELS, alpha), steps)
    scaled = trained(NormalisedObjective(PIXELS, alpha), [(h, factor * p) for h, p in steps])
    human, pseudo = steps[0]
    expected = float(plain.combine(both(human, pseudo)))
    assert float(scaled.combine(both(human, factor * pseudo))) == pytest.approx(expected, rel=1e-9)


def test_scaling_that_sets_in_later_is_forgotten() -> None:
    objective = trained(NormalisedObjective(PIXELS, 1, decay=0.9), [(2, 4)] * 50 + [(2, 400)] * 200)
    assert float(objective.combine(both(2, 400))) == pytest.approx(2)


@given(losses, losses, alphas, st.integers(1, 20))
def test_in_the_steady_state_the_loss_is_the_human_one(human: float, pseudo: float, alpha: float, steps: int) -> None:
    objective = trained(NormalisedObjective(PIXELS, alpha), [(human, pseudo)] * steps)
    assert float(objective.combine(both(human, pseudo))) == pytest.approx(human)


@pytest.mark.parametrize("alpha", [0.25, 1, 4])
def test_a_noisy_steady_state_averages_to_the_human_loss(alpha: float) -> None:
    noisy = [(2 + 0.5 * (-1) ** n, 7 - 3 * (-1) ** (n // 2)) for n in range(400)]
    objective = NormalisedObjective(PIXELS, alpha, decay=0.99)
    seen = []
    for step in noisy:
        seen.append(float(objective.combine(both(*step))))
        objective.update(both(*step), FULL)
    assert sum(seen[200:]) / 200 == pytest.approx(2, rel=0.05)


def test_an_endless_alpha_is_the_scaled_pseudo_loss() -> None:
    objective = trained(NormalisedObjective(PIXELS, 1e12), [(2, 8)])
    assert float(objective.combine(both(100, 4))) == pytest.approx(1.0)


@given(pairs, st.sampled_from([0.0, 0.5, 0.9, 0.9997]))
def test_averages_are_debiased(steps: list[tuple[float, float]], decay: float) -> None:
    averages = trained(NormalisedObjective(PIXELS, 1, decay=decay), steps).averages_2.tolist()
    if decay == 0:
        assert averages == pytest.approx(steps[-1])
    else:
        assert averages == pytest.approx([hand_average(half, decay) for half in zip(*steps, strict=True)])


def test_each_average_is_debiased_by_its_own_count() -> None:
    """Undebiased the ratio would be nearly twice too large here: the pseudo half came half as often."""
    objective = NormalisedObjective(PIXELS, 1)
    for step in range(100):
        objective.update(both(3, 5), filled(human=True, pseudo=step % 2 == 0))
    assert objective.averages_2.tolist() == pytest.approx([3, 5])
    assert objective.state_dict()["updates_2"].tolist() == [100, 50]
    assert float(objective.ratio) == pytest.approx(0.6)


def test_the_ratio_is_one_until_both_averages_exist() -> None:
    objective = NormalisedObjective(PIXELS, 1)
    assert float(objective.ratio) == 1
    assert objective.averages_2.tolist() == [0, 0]
    objective.update(both(9, 0), filled(human=True, pseudo=False))
    assert float(objective.ratio) == 1
    objective.update(both(9, 3), FULL)
    assert float(objective.ratio) == pytest.approx(3)


def test_the_ratio_is_one_where_the_pseudo_average_is_zero() -> None:
    assert float(trained(NormalisedObjective(PIXELS, 1), [(2, 0)]).ratio) == 1


def test_a_step_is_weighed_with_the_averages_before_it() -> None:
    objective = NormalisedObjective(PIXELS, 1, decay=0.5)
    seen = []
    for step in ((1, 4), (3, 1), (2, 2)):
        seen.append(float(objective.ratio))
        objective.update(both(*step), FULL)
    human, pseudo = hand_average([1, 3], 0.5), hand_average([4, 1], 0.5)
    assert seen == pytest.approx([1, 0.25, human / pseudo])


def test_an_update_leaves_no_gradient_in_the_ratio() -> None:
    objective = NormalisedObjective(PIXELS, 2)
    half_2 = both(3, 6).requires_grad_()
    objective.update(half_2, FULL)
    assert not objective.ratio.requires_grad
    objective.combine(half_2).backward()
    assert half_2.grad is not None
    # ∂L/∂L_h = 1/(1+α), ∂L/∂L_p = α·r/(1+α): r is a constant although it came from the same numbers.
    assert half_2.grad.tolist() == pytest.approx([1 / 3, 2 * 0.5 / 3])


@given(pairs, alphas, losses, losses)
def test_the_plain_sum_ignores_the_averages(
    steps: list[tuple[float, float]], alpha: float, human: float, pseudo: float
) -> None:
    objective = trained(NormalisedObjective(PIXELS, alpha, normalise=False), steps)
    assert float(objective.combine(both(human, pseudo))) == pytest.approx(human + alpha * pseudo)


# --- denominators and empty halves ---


def test_denominators_by_hand() -> None:
    counts = [
        {"class": torch.tensor([2.0, 0.0, 3.0]), "box": torch.tensor([2.0, 0.0, 3.0])},
        {"class": torch.tensor([1.0, 4.0]), "box": torch.tensor([1.0, 4.0])},
    ]
    sources = [torch.tensor([HUMAN, PSEUDO, HUMAN]), torch.tensor([HUMAN, PSEUDO])]
    found = NormalisedObjective(RETINANET, 1).denominators(counts, sources)
    # Human counts 2 + 3 + 1 = 6, pseudo 0 + 4; the offset is added once, not per image or micro-batch.
    assert found.divisor_T2.tolist() == [[7, 5], [4 * 7, 4 * 5]]
    assert found.filled_2.tolist() == [1, 1]


def test_losses_by_hand() -> None:
    objective = NormalisedObjective(RETINANET, 1)
    source_B = torch.tensor([HUMAN, PSEUDO, HUMAN])
    count_B = torch.tensor([2.0, 0.0, 3.0])
    denominators = objective.denominators([{"class": count_B, "box": count_B}], [source_B])
    losses_B = {"class": torch.tensor([6.0, 8.0, 12.0]), "box": torch.tensor([1.2, 0.0, 3.6])}
    human, pseudo = objective.halves(losses_B, source_B, denominators).tolist()
    assert human == pytest.approx((6 + 12) / 6 + 50 * (1.2 + 3.6) / 24)
    assert pseudo == pytest.approx(8 / 1)


def test_a_small_count_is_not_divided_by() -> None:
    """The divisor is at least 1: a fraction of a countable thing does not blow the loss up."""
    objective = NormalisedObjective((LossTerm("t", count_scale=0.1),), 1)
    found = objective.denominators([{"t": torch.tensor([2.0, 50.0])}], [torch.tensor([HUMAN, PSEUDO])])
    assert found.divisor_T2.tolist() == [[1, 5]]
    assert found.filled_2.tolist() == [1, 1]


def test_a_half_with_nothing_countable_is_empty() -> None:
    """All its pixels are ignored."""
    objective = trained(NormalisedObjective(PIXELS, 1), [(2, 4)])
    source_B = torch.tensor([HUMAN, PSEUDO])
    denominators = objective.denominators([{"pixels": torch.tensor([10.0, 0.0])}], [source_B])
    assert denominators.filled_2.tolist() == [1, 0]
    half_2 = objective.halves({"pixels": torch.tensor([20.0, 3.0])}, source_B, denominators)
    assert half_2.tolist() == [2, 0]
    assert float(objective.combine(half_2)) == pytest.approx(1)
    objective.update(half_2, denominators)
    assert objective.averages_2.tolist() == pytest.approx([2, 4])
    assert objective.state_dict()["updates_2"].tolist() == [2, 1]


def test_a_detection_half_without_boxes_is_not_empty() -> None:
    """Its images hold negatives, and those are a loss: the offset says so."""
    objective = NormalisedObjective(RETINANET, 1)
    nothing_B = torch.zeros(2)
    found = objective.denominators([{"class": nothing_B, "box": nothing_B}], [torch.tensor([HUMAN, PSEUDO])])
    assert found.filled_2.tolist() == [1, 1]
    assert found.divisor_T2.tolist() == [[1, 1], [4, 4]]


def test_one_countable_term_fills_a_half() -> None:
    objective = NormalisedObjective((LossTerm("class", count_offset=1), LossTerm("box")), 1)
    found = objective.denominators([{"class": torch.zeros(1), "box": torch.zeros(1)}], [torch.tensor([HUMAN])])
    assert found.filled_2.tolist() == [1, 0]


def test_a_half_without_images_is_empty_whatever_the_offset() -> None:
    objective = NormalisedObjective(RETINANET, 1)
    found = objective.denominators([{"class": torch.ones(2), "box": torch.ones(2)}], [torch.tensor([HUMAN, HUMAN])])
    assert found.filled_2.tolist() == [1, 0]


def test_a_step_without_countable_things_is_a_loss_of_zero() -> None:
    objective = NormalisedObjective(PIXELS, 1)
    source_B, nothing_B = torch.tensor([HUMAN, PSEUDO]), torch.zeros(2)
    denominators = objective.denominators([{"pixels": nothing_B}], [source_B])
    half_2 = objective.halves({"pixels": nothing_B}, source_B, denominators)
    objective.update(half_2, denominators)
    assert float(objective.combine(half_2)) == 0
    assert objective.state_dict()["updates_2"].tolist() == [0, 0]
    assert float(objective.ratio) == 1


# --- micro-batches ---


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 10**6), st.booleans())
def test_micro_batches_give_the_gradient_of_one_batch(sizes: list[int], seed: int, empty_pseudo: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    x_B3 = torch.randn(total, 3, generator=generator, dtype=torch.float64)
    source_B = torch.randint(0, 2, (total,), generator=generator)
    count_B = torch.randint(0, 5, (total,), generator=generator).double()
    if empty_pseudo:
        count_B = count_B * (source_B == HUMAN)
    terms = (LossTerm("class", weight=0.7, count_offset=float(seed % 2)), LossTerm("box", count_scale=4.0))
    weight_3 = torch.randn(3, generator=generator, dtype=torch.float64)

    def gradient(cuts: Sequence[int]) -> tuple[Tensor, Tensor]:
        objective = trained(NormalisedObjective(terms, 0.5), [(3, 5)])
        parts = list(torch.arange(total).split(list(cuts)))
        denominators = objective.denominators(
            [{"class": count_B[p], "box": count_B[p]} for p in parts], [source_B[p] for p in parts]
        )
        parameter_3, half_2 = weight_3.clone().requires_grad_(), torch.zeros(2, dtype=torch.float64)
        for part in parts:
            output_B = x_B3[part] @ parameter_3
            found = objective.halves(
                {"class": output_B**2, "box": output_B.abs() * count_B[part]}, source_B[part], denominators
            )
            objective.combine(found).backward()
            half_2 = half_2 + found.detach()
        assert parameter_3.grad is not None
        return parameter_3.grad, half_2

    for one, other in zip(gradient(sizes), gradient([total]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# --- contract and state ---


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"the task's counts are \[\], its terms are \['pixels'\]"),
        ({"pixels": torch.ones(2), "extra": torch.ones(2)}, r"are \['extra', 'pixels'\], its terms are \['pixels'\]"),
        ({"pixel": torch.ones(2)}, r"are \['pixel'\], its terms are \['pixels'\]"),
        ({"pixels": torch.ones(())}, r"counts 'pixels' have shape \(\); one number per image was expected: \(2,\)"),
        ({"pixels": torch.ones(2, 1)}, r"have shape \(2, 1\)"),
        ({"pixels": torch.ones(3)}, r"have shape \(3,\)"),
    ],
)
def test_wrong_names_and_shapes_are_refused(values: dict[str, Tensor], message: str) -> None:
    objective, source_B = NormalisedObjective(PIXELS, 1), torch.tensor([HUMAN, PSEUDO])
    with pytest.raises(ContractError, match=message):
        objective.denominators([values], [source_B])
    with pytest.raises(ContractError, match=message.replace("counts", "losses")):
        objective.halves(values, source_B, FULL)


@given(pairs, pairs)
def test_state_round_trip(before: list[tuple[float, float]], after: list[tuple[float, float]]) -> None:
    objective = trained(NormalisedObjective(PIXELS, 1), before)
    saved = {name: value.clone() for name, value in objective.state_dict().items()}
    other = NormalisedObjective(PIXELS, 1)
    other.load_state_dict(saved)
    for one in (objective, other):
        trained(one, after)
    assert other.averages_2.tolist() == objective.averages_2.tolist()
    assert float(other.ratio) == float(objective.ratio)


def test_a_saved_state_does_not_move_with_the_objective() -> None:
    objective = trained(NormalisedObjective(PIXELS, 1), [(1, 2)])
    saved = objective.state_dict()
    copy = {name: value.clone() for name, value in saved.items()}
    trained(objective, [(5, 5)])
    assert all(torch.equal(saved[name], copy[name]) for name in saved)


def test_losses_of_half_precision_are_summed_in_double() -> None:
    objective = NormalisedObjective(PIXELS, 1)
    source_B = torch.zeros(4096, dtype=torch.int64)
    denominators = objective.denominators([{"pixels": torch.ones(4096)}], [source_B])
    half_2 = objective.halves({"pixels": torch.full((4096,), 1.001, dtype=torch.bfloat16)}, source_B, denominators)
    assert half_2.dtype == torch.float64
    assert float(half_2[HUMAN]) == 1.0  # 1.001 in bfloat16; summed in bfloat16 the sum would stick at 256


def test_an_average_forgets_half_in_2310_steps() -> None:
    """Decay 0.9997 (paper): ln ½ / ln 0.9997 ≈ 2310."""
    objective = NormalisedObjective(PIXELS, 1)
    objective.load_state_dict({"sum_2": both(1, 1), "updates_2": both(1e6, 1e6)})
    for _ in itertools.repeat(None, 2310):
        objective.update(both(0, 0), FULL)
    assert objective.averages_2.tolist() == pytest.approx([0.5, 0.5], rel=1e-3)


@pytest.mark.parametrize(("num_human", "num_pseudo"), [(1, 3), (3, 1), (2, 2)])
def test_the_ratio_of_images_is_no_weight(num_human: int, num_pseudo: int) -> None:
    """Each half is divided by its own count, so that α alone says how much the pseudo labels weigh."""
    source_B = torch.tensor([0] * num_human + [1] * num_pseudo)
    objective = NormalisedObjective([LossTerm("x")], alpha=0.5)
    count_B = torch.full((4,), 10.0)
    denominators = objective.denominators([{"x": count_B}], [source_B])
    total_B = torch.where(source_B == 0, 20.0, 50.0)  # per countable thing 2 and 5
    half_2 = objective.halves({"x": total_B}, source_B, denominators)
    assert half_2.tolist() == [2, 5]
    assert float(objective.combine(half_2)) == pytest.approx((2 + 0.5 * 5) / 1.5)
    objective.update(half_2, denominators)
    assert float(objective.ratio) == pytest.approx(2 / 5)
    assert float(objective.combine(half_2)) == pytest.approx(2)
