"""A turn on the spot is told from every other way to take two photographs, whatever they show."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdmvs.datasets.turning import is_turn

SIZE = (1200, 1600)


def matches(
    turn_deg: tuple[float, float, float],
    moved: tuple[float, float, float] = (0, 0, 0),
    flat: bool = False,
    focal: float = 1300.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Places of 400 points, 3 to 6 away or all on a wall 4 away, in two photographs, to half a pixel."""
    rng = np.random.default_rng(0)
    K = np.array([[focal, 0, 800], [0, focal, 600], [0, 0, 1]])
    at = rng.uniform((0, 0), SIZE[::-1], (400, 2))
    points = np.column_stack((at, np.ones(400))) @ np.linalg.inv(K).T
    points *= np.full((400, 1), 4.0) if flat else rng.uniform(3, 6, (400, 1))
    R, _ = cv2.Rodrigues(np.radians(turn_deg))
    seen = (points @ R.T + moved) @ K.T
    at2 = seen[:, :2] / seen[:, 2:]
    inside = np.all((at2 > 0) & (at2 < SIZE[::-1]), axis=1)
    noise = rng.normal(0, 0.5, (2, 400, 2))
    return (at + noise[0])[inside], (at2 + noise[1])[inside]


@pytest.mark.parametrize("turn_deg", [(0, 2, 0), (0, 20, 0), (2, 10, 1), (15, 0, -30)], ids=str)
@pytest.mark.parametrize("focal", [900.0, 1300.0, 3500.0])
def test_a_turn_is_one_whatever_the_scene_and_the_lens(turn_deg: tuple[float, float, float], focal: float) -> None:
    for flat in (False, True):
        if focal * np.radians(max(turn_deg)) < 1000:  # else nothing is seen twice
            assert is_turn(*matches(turn_deg, flat=flat, focal=focal), SIZE)


@pytest.mark.parametrize(
    ("turn_deg", "moved", "flat"),
    [
        ((0, 10, 0), (0.1, 0, 0), False),
        ((0, 0, 0), (0.8, 0, 0), False),
        ((0, 0, 0), (0.2, 0, 0), True),
        ((0, 0, 0), (0.3, 0, 0.3), True),
        ((0, 10, 0), (-0.69, 0, 0.06), True),
        ((0, 20, 0), (-1.37, 0, 0.24), True),
    ],
    ids=str,
)
def test_a_step_aside_is_no_turn_not_even_before_a_wall(
    turn_deg: tuple[float, float, float], moved: tuple[float, float, float], flat: bool
) -> None:
    assert not is_turn(*matches(turn_deg, moved, flat), SIZE)


def test_too_few_or_senseless_matches_are_no_turn() -> None:
    rng = np.random.default_rng(0)
    assert not is_turn(np.zeros((0, 2)), np.zeros((0, 2)), SIZE)
    assert not is_turn(rng.uniform(0, 1000, (50, 2)), rng.uniform(0, 1000, (50, 2)), SIZE)
    assert not is_turn(np.zeros((20, 2)), np.zeros((20, 2)), SIZE)
