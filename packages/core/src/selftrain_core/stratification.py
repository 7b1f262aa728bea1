"""Shares of a labelled set in which every class is as frequent as in the whole. NumPy only.

Images show several classes each, so that drawing class by class does not do. This is the iterative stratification of
Sechidis, Tsoumakas and Vlahavas, *On the Stratification of Multi-Label Data*, ECML PKDD 2011: again and again, the
images of the class that fewest of the remaining show are dealt out, each to the share that lacks this class most.

Shape letters: N = images, C = classes, S = shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def draw_order(ids: Sequence[str], key: str) -> NDArray[np.int64]:
    """Return the places of `ids` in an order that depends on each id and `key` alone, int64 [N]."""
    digests = [hashlib.blake2b(f"{key}\0{id_}".encode(), digest_size=8).digest() for id_ in ids]
    return np.argsort(np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64), kind="stable")


def stratify(shows_NC: NDArray[np.bool_], sizes: Sequence[int], order_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the share of each image, int64 [N] in 0..S-1.

    Every share gets an image of every class, as far as there are enough of them: the first shares go first.

    Args:
        shows_NC: Which classes each image shows.
        sizes: Number of images in each share; they add up to N.
        order_N: The order in which images that are equally good are dealt out.
    """
    assert sum(sizes) == len(shows_NC)
    share_N = _deal(shows_NC, sizes, order_N, np.full(len(shows_NC), -1))
    for share, size in enumerate(sizes[:-1]):
        lacking_C = shows_NC.any(0) & ~shows_NC[share_N == share].any(0)
        if lacking_C.any() and size:
            # Dealing alone covers every class but where room is scarce: then cover first, and deal the rest.
            fixed_N = np.full(len(shows_NC), -1)
            fixed_N[share_N < share] = share_N[share_N < share]
            fixed_N[_cover(shows_NC, size, order_N[fixed_N[order_N] < 0])] = share
            share_N = _deal(shows_NC, sizes, order_N, fixed_N)
    return share_N


def _deal(
    shows_NC: NDArray[np.bool_], sizes: Sequence[int], order_N: NDArray[np.int64], fixed_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Deal out the images whose share is not fixed."""
    room_S = np.array(sizes, np.float64)
    wanted_SC = _wanted(shows_NC.sum(0), room_S)
    share_N = fixed_N.copy()
    for image in np.flatnonzero(fixed_N >= 0):
        room_S[fixed_N[image]] -= 1
        wanted_SC[fixed_N[image], shows_NC[image]] -= 1
    remaining_C = shows_NC[share_N < 0].sum(0)
    while remaining_C.any():
        rarest = int(np.where(remaining_C > 0, remaining_C, len(shows_NC) + 1).argmin())
        for image in order_N[(share_N[order_N] < 0) & shows_NC[order_N, rarest]]:
            # The share that lacks the class most; of equals the one with most room; never a full one.
            share = max(range(len(sizes)), key=lambda s: (room_S[s] > 0, wanted_SC[s, rarest], room_S[s]))
            share_N[image] = share
            room_S[share] -= 1
            wanted_SC[share, shows_NC[image]] -= 1
            remaining_C[shows_NC[image]] -= 1
    rest = order_N[share_N[order_N] < 0]  # images that show no class
    share_N[rest] = np.repeat(np.arange(len(sizes)), room_S.astype(np.int64))[: len(rest)]
    return share_N


def _wanted(images_C: NDArray[np.int64], room_S: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many images of each class each share should get, at least one while there are enough."""
    wanted_SC = np.outer(room_S / room_S.sum(), images_C)
    for share in range(len(room_S) - 1):
        wanted_SC[share] = np.clip(wanted_SC[share], np.minimum(1, images_C - np.arange(len(room_S))[share]), None)
    wanted_SC[-1] = np.maximum(0, images_C - wanted_SC[:-1].sum(0))
    return wanted_SC


def _cover(shows_NC: NDArray[np.bool_], size: int, order: NDArray[np.int64]) -> list[int]:
    """Return at most `size` of the images in `order` that together show as many classes as a greedy choice finds."""
    missing_C = shows_NC[order].any(0)
    images_C = shows_NC[order].sum(0)
    chosen: list[int] = []
    while missing_C.any() and len(chosen) < size:
        rarest = int(np.where(missing_C, images_C, len(shows_NC) + 1).argmin())
        candidates = order[shows_NC[order, rarest]]
        best = int(candidates[(shows_NC[candidates] & missing_C).sum(1).argmax()])
        chosen.append(best)
        missing_C &= ~shows_NC[best]
    return chosen
