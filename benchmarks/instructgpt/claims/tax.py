"""§4.2, Fig. 33: what PPO costs elsewhere, and how much of it pretraining text in the update gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.instructgpt.claims.claim import Claim, above, no_data
from benchmarks.instructgpt.claims.evidence import (
    Array,
    Evidence,
    Record,
    exact,
    gold,
    mean_over_units,
    recovered,
    shown,
    text_nll,
)
from benchmarks.instructgpt.claims.ordering import PPO, PTX
from benchmarks.instructgpt.scale import DEFAULT_BETA, RECOMMENDED_GAMMA
from rlhf_lightning.evaluation.intervals import Interval

SHARE = 0.8
STATEMENT = f"PPO-ptx at γ = {RECOMMENDED_GAMMA:g} recovers at least 80 % of what PPO lost against the base model: "
TEXT, TASKS = "loss on held-out pretraining text", "exact match on few-shot tasks"
COLUMNS = ("model", "seeds", "nats a token above base", "of that recovered", "exact match", "of loss recovered", "gold")
Measure = Callable[[Record], Array]


def tax(evidence: Evidence) -> list[Claim]:
    """One claim for the loss, one for the tasks; the table of all γ is the first one's."""
    text = _claim(evidence, TEXT, lambda r: -text_nll(r) / _mean_tokens(r))
    tasks = _claim(evidence, TASKS, exact)
    rows = tuple(_rows(evidence))
    return [replace(text, columns=COLUMNS if rows else (), rows=rows), tasks]


def _claim(evidence: Evidence, what: str, goodness: Measure) -> Claim:
    seeds = evidence.seeds("base", "sft", PPO, PTX)
    if not seeds:
        return no_data("tax", STATEMENT + what, "base, SFT, PPO and PPO-ptx of one seed")
    base, sft, ppo, ptx = (evidence.table(m, seeds, goodness) for m in ("base", "sft", PPO, PTX))
    lost, beyond = mean_over_units(base - ppo), mean_over_units(sft - ppo)
    share = recovered(base, ppo, ptx)
    reason = f"PPO lost {shown(lost)} against base, of which {shown(beyond)} against SFT. "
    each = {str(s): recovered(base[[i]], ppo[[i]], ptx[[i]]) for i, s in enumerate(seeds)}
    numbers = {"lost": vars(lost), "lost_against_sft": vars(beyond), "recovered": _finite(share), "seeds": seeds}
    numbers["recovered_by_seed"] = {s: _finite(one) for s, one in each.items()}
    if lost.low <= 0:
        reason += "That is not distinguishable from nothing, so there is nothing to recover."
        return Claim("tax", STATEMENT + what, "undecided", reason, numbers=numbers)
    by_seed = ", ".join(f"seed {s}: {_percent(one)}" for s, one in each.items())
    reason += f"PPO-ptx recovers {_percent(share)} of the former ({by_seed})"
    if beyond.low > 0:
        of_rl = recovered(sft, ppo, ptx)
        numbers["recovered_against_sft"] = _finite(of_rl)
        reason += f", and {_percent(of_rl)} of the latter"
    return Claim("tax", STATEMENT + what, above(share, SHARE), reason + ".", numbers=numbers)


def _rows(evidence: Evidence) -> list[tuple[Any, ...]]:
    """Base, both SFT models, PPO, and PPO-ptx by γ, at the default β and by the paper's recipe."""
    names = [("base", "base"), ("SFT", "sft"), ("SFT baseline, by RM score", "sft16")]
    names += [("PPO" if g == 0 else f"PPO-ptx, γ = {g:g}", n) for g, b, n in evidence.runs() if b == DEFAULT_BETA]
    names.append(("PPO-ptx, the paper's recipe, averaged weights", "paper"))
    rows: list[tuple[Any, ...]] = []
    for label, model in names:
        seeds = evidence.seeds("base", model)
        if not seeds:
            continue
        above_base = evidence.table(model, seeds, text_loss) - evidence.table("base", seeds, text_loss)
        matched = evidence.table(model, seeds, exact)
        mixed = model == "paper" or (model.startswith("ppo-g") and model != PPO)
        both = [s for s in seeds if s in evidence.seeds(PPO)] if mixed else []
        shares = [_share(evidence, model, both, m) if both else "" for m in (lambda r: -text_loss(r), exact)]
        rows.append(
            (
                label,
                len(seeds),
                shown(mean_over_units(above_base)),
                shares[0],
                shown(mean_over_units(matched)),
                shares[1],
                shown(mean_over_units(evidence.table(model, seeds, gold))),
            )
        )
    return rows


def _share(evidence: Evidence, model: str, seeds: list[int], goodness: Measure) -> str:
    base, ppo, ours = (evidence.table(m, seeds, goodness) for m in ("base", PPO, model))
    if mean_over_units(base - ppo).low <= 0:
        return "nothing lost"
    return _percent(recovered(base, ppo, ours))


def _mean_tokens(record: Record) -> float:
    tokens = record["text"]["tokens"]
    return float(sum(tokens) / len(tokens))


def text_loss(record: Record) -> Array:
    """Of every document, per mean token: their mean is the loss per token."""
    return text_nll(record) / _mean_tokens(record)


def _percent(share: Interval) -> str:
    return f"{share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _finite(interval: Interval) -> dict[str, float | None]:
    return {k: v if abs(v) < float("inf") else None for k, v in vars(interval).items()}
