"""Numbers a user may choose, checked where they are taken, so that a wrong one costs no training."""

from __future__ import annotations

import math

from rlhf_lightning.errors import UserError


def check_number(
    key: str,
    value: float | None,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Check a number of the configuration; None, where it is allowed, has no bounds.

    Args:
        key: Configuration key to blame, e.g. "model.init_args.optimizer.lr".
        value: What it is set to.
        above: Exclusive lower bound.
        at_least: Inclusive lower bound.
        below: Exclusive upper bound.
        at_most: Inclusive upper bound.

    Raises:
        UserError: It is out of bounds, infinite or not a number.

    >>> check_number("gamma", 0.99, above=0, at_most=1)
    >>> check_number("gamma", 1.1, above=0, at_most=1)
    Traceback (most recent call last):
    rlhf_lightning.errors.UserError: gamma is 1.1; it must be above 0 and at most 1.
    """
    if value is None:
        return
    fits = (
        math.isfinite(value)
        and (above is None or value > above)
        and (at_least is None or value >= at_least)
        and (below is None or value < below)
        and (at_most is None or value <= at_most)
    )
    if not fits:
        bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
        wanted = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
        raise UserError(f"{key} is {value}; it must be {wanted or 'a finite number'}.")
