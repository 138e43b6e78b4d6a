"""Exponents by least squares, and what to think of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

TOLERANCE = {"seconds": 0.15, "bytes": 0.10}
"""By how much an exponent may exceed theory's."""
NOISY = 0.15
"""Relative residual above which a fit says little."""


@dataclass(frozen=True)
class PowerLaw:
    """y ∝ x^exponent."""

    exponent: float
    residual: float
    """Root mean square of the relative deviations."""


def upper_half(count: int) -> slice:
    """Which of so many points are fitted: the upper half, and at least three."""
    return slice(max(0, count - max(3, math.ceil(count / 2))), None)


def fit_power(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit a straight line to logarithms.

    Args:
        x: At least 2 positive numbers.
        y: As many.

    >>> round(fit_power([1, 2, 4], [3, 12, 48]).exponent, 6)
    2.0
    """
    log_x, log_y = np.log(x), np.log(y)
    slope, offset = np.polyfit(log_x, log_y, 1)
    return PowerLaw(float(slope), float(np.sqrt(np.mean((log_y - slope * log_x - offset) ** 2))))


def judge(x: Sequence[float], measured: Sequence[float], theory: Sequence[float], kind: str) -> dict[str, Any]:
    """Exponents over the upper half of a sweep beside theory's at the same points, and the verdict.

    Better than theory is no surprise: a constant cost of each call flattens small work.
    """
    part = upper_half(len(x))
    fitted, expected = fit_power(x[part], measured[part]), fit_power(x[part], theory[part])
    excess = fitted.exponent - expected.exponent
    verdict = "as theory or better" if excess <= TOLERANCE[kind] else "WORSE than theory"
    if fitted.residual > NOISY:
        verdict += ", noisy"
    return asdict(fitted) | {"theory": expected.exponent, "verdict": verdict}
