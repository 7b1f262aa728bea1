"""Randomness without streams: every draw is a pure function of integers that say what it is for.

A counter-based hash on int64 gives the same bits on every device, in any order, for any number of workers and ranks.
Nothing here keeps state, so resuming needs none.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64, and below the two multipliers of splitmix64's finaliser
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685


def name_key(name: str) -> int:
    """Return a 63-bit integer for a name: the same on every machine and in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def fold(key: Tensor | int, *values: Tensor | int) -> Tensor:
    """Return `key` folded with each value in turn: int64, shape by broadcasting.

    ``fold(seed, stage, id_B, visit_B)`` is one key per image; folding a counter into it gives one key per draw.
    """
    result = key if isinstance(key, Tensor) else torch.tensor(key, dtype=torch.int64)
    for value in values:
        wide = value.to(torch.int64) if isinstance(value, Tensor) else value  # a narrower type would narrow the hash
        result = _mix(result * _GOLDEN + wide + 1)
    return result


def uniform(key: Tensor, counter: int | Tensor) -> Tensor:
    """Return float32 draws in [0, 1), one per key and counter: multiples of 2⁻²⁴, so equal on every device."""
    bits = _shift_right(fold(key, counter), 40)
    return bits.to(torch.float32) * (1.0 / (1 << 24))


def seed_of(key: Tensor) -> int:
    """Return a non-negative seed for a library's own generator."""
    return int(_shift_right(key, 1).item())


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # The shift keeps the sign of an int64; the mask makes it logical. Not `>>`, which torch-xla 2.9 rounds towards 0.
    return torch.bitwise_right_shift(x, bits) & ((1 << (64 - bits)) - 1)
