"""Exact Shapley values by enumerating all coalitions: 2^n values for n players.

Shapley, "A Value for n-Person Games" (1953). With the interventional value function (players outside a coalition take
their values from a background sample), the result equals that of shap's exact explainer, with no startup time.
"""

from __future__ import annotations

from functools import cache
from math import factorial

import numpy as np
from numpy.typing import NDArray

__all__ = ["coalitions", "shapley_values"]

Floats = NDArray[np.float64]

MOST_PLAYERS = 12


@cache
def coalitions(players: int) -> NDArray[np.bool_]:
    """Return all coalitions (2^n x n): row k contains player i if bit i of k is set. ValueError above 12 players."""
    if players > MOST_PLAYERS:
        raise ValueError(f"{players} players are too many for exact Shapley values; the maximum is {MOST_PLAYERS}")
    numbers = np.arange(1 << players)[:, None]
    return np.asarray((numbers >> np.arange(players)) & 1, dtype=bool)


def shapley_values(values: Floats) -> Floats:
    """Return each player's contribution, from the values of all coalitions in the order of `coalitions`.

    The contributions sum to the value of all players minus that of none.
    """
    players = len(values).bit_length() - 1
    return np.asarray(_weights(players) @ values, dtype=np.float64)


@cache
def _weights(players: int) -> Floats:
    """Return players x coalitions: +w(|S| - 1) with the player, -w(|S|) without; w(s) = s! (n - s - 1)! / n!."""
    present = coalitions(players)
    sizes = present.sum(axis=1)
    with_player = np.array([_share(s - 1, players) for s in sizes])
    without = np.array([_share(s, players) for s in sizes])
    return np.where(present.T, with_player, -without)


def _share(others: int, players: int) -> float:
    if not 0 <= others < players:
        return 0.0
    return factorial(others) * factorial(players - others - 1) / factorial(players)
