"""Randomness without streams: known values, and that it is random enough."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.keys import fold, name_key, seed_of, uniform

integers = st.integers(-(2**63), 2**63 - 1)


def test_known_values() -> None:
    """These never change: every run's draws hang on them."""
    assert name_key("photo/1") == GOLDEN_NAME
    assert fold(0, 1).item() == GOLDEN_FOLD
    assert fold(7, name_key("round-1/student"), 3).item() == GOLDEN_STAGE
    assert [float(uniform(fold(1, 2), counter)) for counter in range(3)] == GOLDEN_DRAWS


GOLDEN_NAME = 4666420215555773614
GOLDEN_FOLD = -2606959012126976886
GOLDEN_STAGE = 183377109318771660
GOLDEN_DRAWS = [0.6615177392959595, 0.49109774827957153, 0.88458651304245]


def test_another_process_gets_the_same() -> None:
    code = "from selftrain_core.keys import *; print(fold(3, name_key('é'), 9).item())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == fold(3, name_key("é"), 9).item()


@given(integers, st.lists(integers, min_size=1, max_size=5), integers)
def test_vectorised_is_scalar(key: int, values: list[int], last: int) -> None:
    whole = fold(key, torch.tensor(values), last)
    assert whole.dtype == torch.int64
    assert whole.tolist() == [fold(key, value, last).item() for value in values]


@given(st.lists(integers, min_size=1, max_size=3), st.lists(integers, min_size=1, max_size=3))
def test_broadcasting_changes_nothing(rows: list[int], columns: list[int]) -> None:
    table = fold(5, torch.tensor(rows)[:, None], torch.tensor(columns))
    expanded = fold(
        5, torch.tensor(rows)[:, None].expand(len(rows), len(columns)), torch.tensor(columns).expand(len(rows), -1)
    )
    assert table.tolist() == expanded.tolist() == [[fold(5, r, c).item() for c in columns] for r in rows]


def test_folding_is_in_turn() -> None:
    assert fold(fold(1, 2), 3).equal(fold(1, 2, 3))
    assert not fold(1, 2, 3).equal(fold(1, 3, 2))


def test_neighbours_do_not_collide() -> None:
    near = torch.arange(-300, 300)
    keys = fold(fold(0, near)[:, None], near)
    assert len(keys.unique()) == keys.numel()


def test_draws_are_uniform() -> None:
    draws = uniform(fold(11, torch.arange(200_000)), 0)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 50, 0, 1)
    # χ² with 49 degrees of freedom exceeds 94.6 once in ten thousand times.
    assert float(((counts - 4000) ** 2 / 4000).sum()) < 94.6
    assert torch.equal(draws, (draws * 2**24).floor() / 2**24), "draws are multiples of 2⁻²⁴"


@pytest.mark.parametrize("other", ["counter", "key", "seed"])
def test_draws_are_not_correlated(other: str) -> None:
    places = torch.arange(100_000)
    first = uniform(fold(1, places), 0)
    second = {
        "counter": uniform(fold(1, places), 1),
        "key": uniform(fold(1, places + 1), 0),
        "seed": uniform(fold(2, places), 0),
    }[other]
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(float(correlation)) < 4 / len(places) ** 0.5


@given(integers)
def test_seeds_are_accepted_by_torch(key: int) -> None:
    seed = seed_of(torch.tensor(key))
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)


def test_names_give_63_bits() -> None:
    keys = [name_key(f"image-{n}") for n in range(1000)]
    assert len(set(keys)) == 1000
    assert min(keys) >= 0 and max(keys) < 2**63
    assert max(keys) > 2**62
