"""All sections of the trust report from rankings and scores: no model and no file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.evaluation.trust import findings as find
from rlhf_lightning.evaluation.trust.calibration import Calibration, calibrate
from rlhf_lightning.evaluation.trust.clustered import Share, share_of_some, tally
from rlhf_lightning.evaluation.trust.distribution import Shift, shift
from rlhf_lightning.evaluation.trust.labelers import LabelerReport, describe_labelers
from rlhf_lightning.evaluation.trust.length import LengthBias, length_bias
from rlhf_lightning.evaluation.trust.overoptimisation import Optimised, Parting, Point, best_of_n, curve, parting
from rlhf_lightning.evaluation.trust.pairs import LABELS, Floats, PairTable, pair_table
from rlhf_lightning.evaluation.trust.settings import SliceSettings
from rlhf_lightning.evaluation.trust.slices import (
    CONTENT,
    Slice,
    describe_slices,
    gap_slices,
    judge,
)

MIN_SAMPLES = 4
"""Samples of each prompt from which best-of-n is worth a curve."""


@dataclass(frozen=True)
class PolicyOutputs:
    """Outputs of one policy, N of them."""

    name: str
    prompts: list[str]
    responses: list[str]
    proxy: list[float]
    """The reward model's scores."""
    kl: list[float] | None = None
    """Nats per response to the reference; None where it is not known."""
    gold: list[float] | None = None


@dataclass(frozen=True)
class TrustInputs:
    """What the report is made of."""

    rankings: Sequence[Ranking]
    """Held out: the reward model has not been trained on them."""
    scores: Sequence[Sequence[float]]
    """Of their responses, [R][K]."""
    training: Sequence[Ranking] | None = None
    training_scores: Sequence[Sequence[float]] | None = None
    policies: Sequence[PolicyOutputs] = ()


@dataclass(frozen=True)
class Overoptimisation:
    """The curve over policies, or over n of one policy's best-of-n."""

    of: str
    points: list[Point]
    parting: Parting | None


@dataclass
class TrustReport:
    """Every section; one that could not be made is None or empty and says why in `left_out`."""

    accuracy: Share
    findings: list[find.Finding] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    labelers: list[LabelerReport] = field(default_factory=list)
    labelers_left_out: list[str] = field(default_factory=list)
    """Labelers with a fault, whose pairs do not count in slices, length and calibration."""
    length: LengthBias | None = None
    calibration: Calibration | None = None
    distribution: list[Shift] = field(default_factory=list)
    overoptimisation: list[Overoptimisation] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Section (or dimension of slices) and the reason why it is not there."""


def trust_report(inputs: TrustInputs, settings: SliceSettings = SliceSettings(), seed: int = 0) -> TrustReport:  # noqa: B008
    """The whole report.

    Args:
        inputs: Rankings and scores.
        settings: When a slice or a labeler is judged.
        seed: Of bootstraps.

    Raises:
        ValueError: There is no decided pair.
    """
    table = pair_table(inputs.rankings, inputs.scores)
    if not len(table):
        raise ValueError("no ranking has two responses of different rank")
    training = pair_table(inputs.training) if inputs.training else None
    report = TrustReport(_accuracy(table))
    report.labelers = describe_labelers(table, settings)
    report.labelers_left_out = [one.name for one in report.labelers if one.fault]
    trusted = _without(table, report.labelers_left_out)
    report.slices = judge(
        [
            *describe_slices(trusted, training, (*CONTENT, "labeler_group"), settings),
            *describe_slices(table, training, ("labeler",), settings),
        ],
        settings,
    )
    report.slices += [one for column in ("length gap", "score gap") for one in gap_slices(trusted, column)]
    report.length = length_bias(trusted)
    if settings.enough(len(trusted), len(np.unique(trusted.prompt))):
        report.calibration = calibrate(trusted.margin, trusted.prompt)
    report.distribution = _shifts(inputs)
    report.overoptimisation = _curves(inputs.policies, seed)
    report.left_out = _left_out(inputs, report, table)
    if report.calibration is None:
        report.left_out["calibration"] = f"fewer than {settings.min_pairs} pairs or {settings.min_prompts} prompts"
    report.findings = _findings(report, training)
    return report


def _accuracy(table: PairTable) -> Share:
    return share_of_some(tally(table.right, table.prompt))


def _without(table: PairTable, labelers: Sequence[str]) -> PairTable:
    mask = np.ones(len(table), dtype=bool)
    for name in labelers:
        mask &= ~table.has("labeler", name)
    return table.where(mask) if mask.any() else table


def _findings(report: TrustReport, training: PairTable | None) -> list[find.Finding]:
    rows = None
    if training is not None:
        rows = {n: len(np.unique(training.row[training.has("labeler", n)])) for n in report.labelers_left_out}
    found = find.of_accuracy(report.accuracy)
    found += find.of_slices(report.slices, report.labelers)
    found += find.of_labelers(report.labelers, rows)
    found += find.of_length(report.length)
    found += find.of_calibration(report.calibration)
    found += find.of_shifts(report.distribution)
    for one in report.overoptimisation:
        found += find.of_parting(one.parting, one.of)
    return find.rank_findings(found)


def _shifts(inputs: TrustInputs) -> list[Shift]:
    if not inputs.training or not inputs.training_scores:
        return []
    scores = np.array([s for row in inputs.training_scores for s in row])
    lengths = np.array([float(len(r)) for row in inputs.training for r in row.responses])
    found = []
    for policy in inputs.policies:
        prompt = np.unique(policy.prompts, return_inverse=True)[1]
        outputs = np.array([float(len(r)) for r in policy.responses])
        found.append(shift(policy.name, "score", scores, np.array(policy.proxy), prompt))
        found.append(shift(policy.name, "length", lengths, outputs, prompt))
    return found


def _curves(policies: Sequence[PolicyOutputs], seed: int) -> list[Overoptimisation]:
    found = []
    known = [p for p in policies if p.kl is not None]
    shared = sorted(set.intersection(*(set(p.prompts) for p in known))) if known else []
    if len(known) > 1 and shared:
        points = [
            Optimised(
                p.name,
                float(np.mean(p.kl or [])),
                _by_prompt(p, p.proxy, shared),
                None if p.gold is None else _by_prompt(p, p.gold, shared),
            )
            for p in known
        ]
        found.append(Overoptimisation("policies", curve(points), parting(points, seed)))
    for policy in policies:
        if len(samples := _samples(policy)) and samples.shape[1] >= MIN_SAMPLES:
            gold = None if policy.gold is None else np.array(policy.gold)[samples]
            several = best_of_n(np.array(policy.proxy)[samples], gold)
            found.append(Overoptimisation(f"best-of-n of {policy.name}", curve(several), parting(several, seed)))
    return found


def _by_prompt(policy: PolicyOutputs, values: Sequence[float], prompts: Sequence[str]) -> Floats:
    """Mean over each prompt's outputs, [P]."""
    number = {prompt: i for i, prompt in enumerate(prompts)}
    index = [(number[p], v) for p, v in zip(policy.prompts, values, strict=True) if p in number]
    at, of = np.array([i for i, _ in index]), np.array([v for _, v in index])
    return np.asarray(np.bincount(at, weights=of) / np.bincount(at))


def _samples(policy: PolicyOutputs) -> Any:
    """Numbers of the outputs of each prompt, [P, N], N being the smallest count."""
    found: dict[str, list[int]] = {}
    for i, prompt in enumerate(policy.prompts):
        found.setdefault(prompt, []).append(i)
    least = min(map(len, found.values()))
    return np.array([numbers[:least] for numbers in found.values()])


def _left_out(inputs: TrustInputs, report: TrustReport, table: PairTable) -> dict[str, str]:
    reasons = {name: f"no row has `{name}`" for name in LABELS if not table.values(name)}
    if not any(table.values(name) for name in ("flags", "worse_flags", "better_flags")):
        reasons["flags"] = "no row has `flags` or `response_flags`"
    if "labeler" in reasons:
        reasons["labelers"] = "rows without `labeler`: faults of labelers cannot be found"
    elif len(report.labelers) == 1:
        reasons["agreement"] = "there is one labeler only"
    elif not any(one.others for one in report.labelers):
        reasons["agreement"] = "no two labelers ranked the same responses; the reward model stands in for the others"
    if not inputs.training:
        reasons["training counts"] = "the training rankings are not known"
    if report.length is None:
        reasons["length"] = "all pairs are of equal length or equal score"
    if not inputs.policies:
        reasons["distribution"] = reasons["overoptimisation"] = "no generations are given"
        return reasons
    if not report.distribution:
        reasons["distribution"] = "the training rankings are not known"
    if not report.overoptimisation:
        reasons["overoptimisation"] = (
            "fewer than two policies have `kl` on shared prompts, and none has 4 samples a prompt"
        )
    elif not any(one.parting for one in report.overoptimisation):
        reasons["parting"] = "no generations have `gold`"
    return reasons


def plain(value: Any) -> Any:
    """A report, or a part of it, as JSON without NaN; shares get the ends of their interval."""
    if isinstance(value, Share):
        known = {"value": value.value, "low": value.interval.low, "high": value.interval.high}
        return {**plain(known), "pairs": value.pairs, "prompts": value.prompts}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
