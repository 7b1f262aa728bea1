"""Which images are in which step."""

import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.errors import DataError
from selftrain_core.keys import name_key
from selftrain_core.plan import Plan, StreamPlan, Visit


def ids(count: int, prefix: str = "image") -> torch.Tensor:
    return torch.tensor([name_key(f"{prefix}-{n}") for n in range(count)], dtype=torch.int64)


def plan(human: int = 7, pseudo: int = 5, per_step: tuple[int, int] = (3, 4), seed: int = 0, stage: str = "s") -> Plan:
    streams = [StreamPlan("human", ids(human), per_step[0]), StreamPlan("pseudo", ids(pseudo, "p"), per_step[1])]
    return Plan(seed, stage, streams)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 3))
def test_every_image_comes_once_per_visit(images: int, per_step: int, seed: int) -> None:
    stream = Plan(seed, "s", [StreamPlan("human", ids(images), per_step)])
    steps = -(-3 * images // per_step)
    visits = [visit for step in range(steps) for visit in stream[step]["human"]][: 3 * images]
    assert Counter(visits) == Counter(Visit(place, number) for place in range(images) for number in range(3))
    assert [visit.number for visit in visits] == sorted(visit.number for visit in visits)


def test_a_step_is_a_pure_function() -> None:
    one, other = plan(), plan()
    backwards = {step: other[step] for step in reversed(range(20))}
    assert all(one[step] == backwards[step] for step in range(20))
    assert one[2] == one[2]


def test_long_gone_orders_are_drawn_again() -> None:
    stream = plan()
    first = stream[0]
    for step in range(100):
        stream[step]
    assert stream[0] == first


def test_seed_and_stage_and_stream_change_the_order() -> None:
    several = [
        plan(per_step=(7, 7), human=7, pseudo=7, seed=seed, stage=stage)
        for seed, stage in ((0, "s"), (1, "s"), (0, "t"))
    ]
    orders = [[visit.position for visit in several[n][0]["human"]] for n in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    alike = Plan(0, "s", [StreamPlan("human", ids(7), 7), StreamPlan("pseudo", ids(7), 7)])[0]
    assert alike["human"] != alike["pseudo"]


def test_the_next_visit_has_another_order() -> None:
    stream = Plan(0, "s", [StreamPlan("human", ids(20), 20)])
    assert [v.position for v in stream[0]["human"]] != [v.position for v in stream[1]["human"]]


def test_an_image_keeps_its_draw_when_others_join() -> None:
    """Orders hang on ids, not on places: the images of a smaller list come in the same order within a larger one."""
    many = Plan(0, "s", [StreamPlan("human", ids(20), 20)])[0]["human"]
    few = Plan(0, "s", [StreamPlan("human", ids(12), 12)])[0]["human"]
    assert [v.position for v in many if v.position < 12] == [v.position for v in few]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
def test_ranks_and_micro_batches_partition_a_step(ranks: int, micro_batches: int, step: int) -> None:
    whole, parts = plan(), ranks * micro_batches
    for name in ("human", "pseudo"):
        shared = [visit for part in range(parts) for visit in whole.share(step, part, parts)[name]]
        assert Counter(shared) == Counter(whole[step][name])
        sizes = [len(whole.share(step, part, parts)[name]) for part in range(parts)]
        assert max(sizes) - min(sizes) <= 1


def test_an_empty_stream_is_an_error() -> None:
    with pytest.raises(DataError, match="the stream 'pseudo' holds no image, but each step takes 4 of it"):
        StreamPlan("pseudo", ids(0), 4)


def test_an_empty_stream_that_nobody_asks_for_is_none() -> None:
    assert Plan(0, "s", [StreamPlan("human", ids(3), 2), StreamPlan("pseudo", ids(0), 0)])[5]["pseudo"] == []


def test_a_plan_is_sent_to_worker_processes() -> None:
    stream = plan()
    stream[0]
    assert pickle.loads(pickle.dumps(stream))[3] == stream[3]
