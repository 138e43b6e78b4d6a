"""What to do about it: plain sentences, each produced by a test of one section and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lightning.evaluation.trust.calibration import Calibration
from rlhf_lightning.evaluation.trust.clustered import Share
from rlhf_lightning.evaluation.trust.distribution import Shift
from rlhf_lightning.evaluation.trust.labelers import LabelerReport
from rlhf_lightning.evaluation.trust.length import LengthBias
from rlhf_lightning.evaluation.trust.overoptimisation import Parting
from rlhf_lightning.evaluation.trust.slices import Slice

Kind = Literal[
    "no_signal",
    "training_gap",
    "untrained_slice",
    "noisy_labeler",
    "length_labeler",
    "weak_slice",
    "length_bias",
    "calibration",
    "out_of_distribution",
    "overoptimisation",
]
MIN_LENGTH_EXCESS = 0.05
"""A length bias is an excess over the labelers' own preference of this much, by the near end of its interval."""
MAX_TEMPERATURE, MIN_TEMPERATURE = 1.5, 0.67
"""Miscalibration is a temperature whose whole interval is beyond these."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    kind: Kind
    subject: str
    """What it is about: a slice, a labeler, a policy."""
    severity: int
    """1: scores mislead here; 2: they are worse here; 3: worth knowing."""
    size: float
    """Orders findings of one severity: points of accuracy, or another effect between 0 and 1."""
    what: str
    evidence: str
    todo: str


def rank_findings(findings: Sequence[Finding]) -> list[Finding]:
    """The most serious first, then the largest."""
    return sorted(findings, key=lambda f: (f.severity, -f.size, f.subject))


def of_accuracy(overall: Share) -> list[Finding]:
    """A model that is not shown to be better than a coin."""
    if overall.interval.low > 0.5:
        return []
    return [
        Finding(
            "no_signal",
            "all pairs",
            1,
            1.0,
            "On these rankings the reward model is not shown to be better than chance.",
            f"It orders {_percent(overall)} of {overall.pairs} pairs as the labelers did.",
            "Train it longer or on more rankings, and check that prompts here are like those it was trained on.",
        )
    ]


def of_slices(slices: Sequence[Slice], labelers: Sequence[LabelerReport]) -> list[Finding]:
    """Slices that are worse, with training gaps first; a slice that a reported one explains is not repeated."""
    gaps = [s for s in slices if s.starved and s.worse]
    named = {labeler.name for labeler in labelers if labeler.fault}
    explained = {part for gap in gaps for part in gap.value.split(" x ")} | named
    # A gap in a whole category also shows in each of its flags: the widest description is enough.
    whole = {gap.value for gap in gaps if " x " not in gap.value}
    found = [_gap(s) for s in gaps if " x " not in s.value or not whole & set(s.value.split(" x "))]
    for one in slices:
        parts = set(one.value.split(" x "))
        if one.worse and not one.starved and not parts & explained:
            found.append(_weak(one))
            explained |= {one.value} if " x " not in one.value else set()
        if one.starved and not one.worse:
            found.append(_untrained(one))
    return found


def _gap(one: Slice) -> Finding:
    assert one.lower is not None
    return Finding(
        "training_gap",
        f"{one.dimension}: {one.value}",
        1,
        -one.lower.value,
        f"The reward model was hardly trained on {_name(one)}, and is worse there.",
        f"{one.train_rows} training rankings with {one.train_pairs} such pairs; {_against(one)}",
        f"Add rankings of this kind to training (at least as many as of {_sibling(one)}), "
        "or keep such prompts out of what the model scores.",
    )


def _untrained(one: Slice) -> Finding:
    return Finding(
        "untrained_slice",
        f"{one.dimension}: {one.value}",
        3,
        0.0,
        f"The reward model was hardly trained on {_name(one)}; "
        + (
            "it is not shown to be worse there." if one.rest else "there are too few held-out pairs to tell the effect."
        ),
        f"{one.train_rows} training rankings with {one.train_pairs} such pairs; {_against(one)}",
        "Watch it: what it gets right here it does by generalising."
        if one.rest
        else "Hold out more of them, and add some to training.",
    )


def _weak(one: Slice) -> Finding:
    assert one.lower is not None
    trained = "" if one.train_rows is None else f" It was trained on {one.train_rows} such rankings."
    return Finding(
        "weak_slice",
        f"{one.dimension}: {one.value}",
        2,
        -one.lower.value,
        f"The reward model is worse on {_name(one)} than elsewhere.",
        _against(one) + trained,
        "Look at its pairs: are the labels good, and are there enough? Then collect more of them.",
    )


def _name(one: Slice) -> str:
    dimension, flag = one.dimension, one.value
    if " x " in one.dimension:
        category, flag = one.value.split(" x ", 1)
        return f"{_name_of(one.dimension.split(' x ')[1], flag)} in the category {category!r}"
    return _name_of(dimension, flag)


def _name_of(dimension: str, value: str) -> str:
    return {
        "worse_flags": f"pairs whose worse response is flagged {value!r}",
        "better_flags": f"pairs whose better response is flagged {value!r}",
        "flags": f"rows flagged {value!r}",
        "labeler": f"the rankings of labeler {value!r}",
        "labeler_group": f"the rankings of labeler group {value!r}",
    }.get(dimension, f"the {dimension} {value!r}")


def _sibling(one: Slice) -> str:
    return "the same flag in other categories" if " x " in one.dimension else f"any other {one.dimension}"


def _against(one: Slice) -> str:
    accuracy = f"{_percent(one.accuracy)} of {one.accuracy.pairs} held-out pairs ({one.accuracy.prompts} prompts) right"
    if one.rest is None or one.p_adjusted is None:
        return accuracy + "."
    return (
        f"{accuracy}, against {_percent(one.rest)} ({one.against}); {p_value(one.p_adjusted)} after Benjamini-Hochberg."
    )


def of_labelers(labelers: Sequence[LabelerReport], train_rows: dict[str, int] | None = None) -> list[Finding]:
    """Labelers who rank by dice or by length."""
    return [_labeler(one, (train_rows or {}).get(one.name)) for one in labelers if one.fault]


def _labeler(one: LabelerReport, rows: int | None) -> Finding:
    trained = "" if rows is None else f" {rows} training rankings are by this labeler."
    if one.fault == "length" and one.longer is not None and one.longer_of_others is not None:
        taste = "longer" if one.longer.value > one.longer_of_others.value else "shorter"
        return Finding(
            "length_labeler",
            one.name,
            1,
            abs(one.longer.value - one.longer_of_others.value),
            f"Labeler {one.name!r} prefers the {taste} response, whatever the others see in it.",
            f"Prefers the longer one in {_percent(one.longer)} of pairs, the others in "
            f"{_percent(one.longer_of_others)}; {p_value(one.p)}.{trained}",
            "Ask whether the instructions say so; if not, leave the rows out or train again without them and compare.",
        )
    agreed, usual, who = one.others, one.among_others, "other labelers"
    if agreed is None or usual is None:
        agreed, usual, who = one.model, one.model_with_others, "the reward model"
    evidence = f"Agrees with {who} on {_percent(agreed)} of pairs"
    evidence += f", where the others do on {_percent(usual)}" if usual else ""
    return Finding(
        "noisy_labeler",
        one.name,
        1,
        (usual.value if usual else 1.0) - agreed.value,
        f"Labeler {one.name!r} ranks like dice.",
        f"{evidence}; the reward model agrees on {_percent(one.model)}; length does not explain it; "
        f"{p_value(one.p)}.{trained}",
        "Leave the rows out of training and validation; have some of them ranked again to be sure.",
    )


def of_length(bias: LengthBias | None) -> list[Finding]:
    """A reward model that goes by length more than its labelers."""
    if bias is None:
        return []
    low, high = bias.excess.interval.low, bias.excess.interval.high
    if low <= MIN_LENGTH_EXCESS and high >= -MIN_LENGTH_EXCESS:
        return []
    taste = "longer" if bias.excess.value > 0 else "shorter"
    sides = [
        f"{_percent(side)} right where the {name} one is preferred"
        for name, side in (("longer", bias.accuracy_longer_preferred), ("shorter", bias.accuracy_shorter_preferred))
        if side is not None
    ]
    return [
        Finding(
            "length_bias",
            f"{taste} responses",
            2,
            abs(bias.excess.value),
            f"The reward model prefers {taste} responses more than its labelers do.",
            f"It prefers the longer one in {_percent(bias.model_longer)} of pairs, the labelers in "
            f"{_percent(bias.labelers_longer)}; {', '.join(sides)}.",
            "Watch response length in PPO; add pairs whose better response is the other one, or a length reward.",
        )
    ]


def of_calibration(calibration: Calibration | None) -> list[Finding]:
    """Probabilities that do not come true."""
    if calibration is None:
        return []
    sure, unsure = calibration.temperature_low > MAX_TEMPERATURE, calibration.temperature_high < MIN_TEMPERATURE
    if not (sure or unsure):
        return []
    t = calibration
    return [
        Finding(
            "calibration",
            "sigma of score differences",
            3,
            t.ece,
            f"The reward model is {'too sure of itself' if sure else 'less sure than it could be'}.",
            f"Temperature {t.temperature:.2f} [{t.temperature_low:.2f}, {t.temperature_high:.2f}] would calibrate it; "
            f"ECE {t.ece:.3f}; loss {t.loss:.3f}, after calibration {t.loss_calibrated:.3f}.",
            "Orders do not change; where probabilities matter, divide scores by the temperature"
            + (", and stop training earlier." if sure else "."),
        )
    ]


def of_shifts(shifts: Sequence[Shift]) -> list[Finding]:
    """Policies whose outputs the reward model has not seen the like of."""
    return [
        Finding(
            "out_of_distribution",
            f"{one.policy}: {one.of}",
            2,
            one.above_most.value,
            f"The {one.of}s of {one.policy!r} lie outside what the reward model was trained on.",
            f"{_percent(one.above_most)} of its outputs are above the training responses' 99 % quantile "
            f"(expected: 1 %), {_percent(one.above_all)} above all of them; KS statistic {one.ks:.2f}.",
            "Its scores there are extrapolation: raise kl_coef or set kl.budget, and rank some of these outputs.",
        )
        for one in shifts
        if one.alarm
    ]


def of_parting(parting: Parting | None, where: str) -> list[Finding]:
    """Optimisation past the point where it helps."""
    if parting is None or parting.verdict == "together":
        return []
    falls = parting.verdict == "falls"
    return [
        Finding(
            "overoptimisation",
            where,
            1 if falls else 2,
            min(1.0, abs(parting.gold_lost or 0.0)),
            f"Past {parting.peak!r} the proxy goes on rising and gold {'falls' if falls else 'does not'} ({where}).",
            f"Gold is highest at KL {parting.kl:.2f} [{parting.kl_low:.2f}, {parting.kl_high:.2f}] nats; at "
            f"{parting.at!r} the difference is significant; the last one is {parting.gold_lost or 0:.3f} lower.",
            f"Stop near KL {parting.kl:.2f} (model.init_args.kl.budget), or train the reward model on newer outputs.",
        )
    ]


def p_value(p: float | None) -> str:
    """E.g. "p = 0.012" or "p < 0.0001"."""
    return "" if p is None else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def _percent(share: Share) -> str:
    return f"{share.value:.1%} [{share.interval.low:.1%}, {share.interval.high:.1%}]"
