"""Stratified shares of images that show several classes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from selftrain_core.stratification import draw_order, stratify

FREQUENCIES = (1.0, 0.6, 0.3, 0.1, 0.02)


def drawn(num_images: int, seed: int, frequencies: tuple[float, ...] = FREQUENCIES) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((num_images, len(frequencies))) < frequencies


def order(num_images: int, key: str = "") -> NDArray[np.int64]:
    return draw_order([str(n) for n in range(num_images)], key)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [[20, 280], [1, 299], [300, 0], [180, 45, 75], [280, 20]])
def test_every_share_has_its_size_and_its_part_of_every_class(seed: int, sizes: list[int]) -> None:
    shows_NC = drawn(300, seed)
    share_N = stratify(shows_NC, sizes, order(300))
    assert np.bincount(share_N, minlength=len(sizes)).tolist() == sizes
    for share, size in enumerate(sizes[:-1]):
        expected_C = shows_NC.sum(0) * size / 300
        assert (np.abs(shows_NC[share_N == share].sum(0) - expected_C) <= 2 + 0.15 * expected_C).all()


def test_it_is_closer_to_the_whole_than_chance() -> None:
    shows_NC = drawn(300, 1)

    def error(chosen: NDArray[np.int64]) -> float:
        return float(np.abs(shows_NC[chosen].mean(0) - shows_NC.mean(0)).mean())

    orders = [order(300, str(seed)) for seed in range(10)]
    stratified = [error(np.flatnonzero(stratify(shows_NC, [30, 270], each) == 0)) for each in orders]
    assert np.mean(stratified) < 0.5 * np.mean([error(each[:30]) for each in orders])


def test_a_class_of_one_image_is_in_the_first_share() -> None:
    shows_NC = drawn(200, 2)
    shows_NC[:, 4] = False
    shows_NC[77, 4] = True
    for key in "abcdef":
        assert stratify(shows_NC, [10, 190], order(200, key))[77] == 0


def test_every_class_is_covered_where_room_is_scarce() -> None:
    """Ten classes that each stand alone, but for two images that show five each: two images cover all."""
    shows_NC = np.zeros((52, 10), np.bool_)
    shows_NC[np.arange(50), np.arange(50) % 10] = True
    shows_NC[50, :5], shows_NC[51, 5:] = True, True
    share_N = stratify(shows_NC, [2, 50], order(52))
    assert set(np.flatnonzero(share_N == 0)) == {50, 51}


def test_images_that_show_nothing_are_dealt_out_too() -> None:
    share_N = stratify(np.zeros((10, 3), np.bool_), [3, 7], order(10))
    assert np.bincount(share_N).tolist() == [3, 7]


def test_the_order_depends_on_ids_and_key_alone() -> None:
    ids = [f"image {n}" for n in range(50)]
    found = [ids[place] for place in draw_order(ids, "k")]
    assert found == [ids[::-1][place] for place in draw_order(ids[::-1], "k")]
    assert found != [ids[place] for place in draw_order(ids, "l")]
    assert sorted(found) == sorted(ids)
