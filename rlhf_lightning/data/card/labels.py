"""Who agrees with whom, for a card: of rankings too many to keep, only those whose prompt occurs more than once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rlhf_lightning.data.agreement import Agreement, Judgements, Share, labeler_agreement
from rlhf_lightning.data.card.counting import Summary
from rlhf_lightning.data.kinds import Ranking


def agreement_summary(rankings: Callable[[], Iterable[Ranking]]) -> Summary | None:
    """Agreement of every two labelers and of all; None where no two of them ranked the same responses.

    Args:
        rankings: Gives the rows, in the same order at each call; they are gone through twice.
    """
    prompts = array("q", (hash(row.prompt) for row in rankings()))
    if not len(prompts):
        return None
    values, counts = np.unique(np.frombuffer(prompts, dtype=np.int64), return_counts=True)
    several = set(values[counts > 1].tolist())
    judgements = Judgements()
    if several:
        for row in rankings():
            if hash(row.prompt) in several:
                judgements.add(row.prompt, row.responses, row.ranks, row.labeler)
    found = labeler_agreement(judgements)
    if found is None:
        return None
    pairs = [_agreement(a) | {"a": names[0], "b": names[1]} for names, a in found.pairs.items()]
    return {"overall": _agreement(found.overall), "alpha": _share(found.alpha), "pairs_of_labelers": pairs}


def _agreement(agreement: Agreement) -> dict[str, Any]:
    kappa = {"kappa": _share(agreement.kappa)} if agreement.kappa else {}
    return {
        "prompts": agreement.prompts,
        "pairs": agreement.items,
        "decided": agreement.decided,
        "agreement": _share(agreement.without_ties),
        "with_ties": _share(agreement.with_ties),
    } | kappa


def _share(share: Share) -> dict[str, float | None]:
    return {
        name: None if number is None else round(number, 4)
        for name, number in (("value", share.value), ("error", share.error))
    }
