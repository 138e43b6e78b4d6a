"""One JSON, one Markdown file and plots of whatever is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.instructgpt.claims.beta import beta
from benchmarks.instructgpt.claims.claim import Claim
from benchmarks.instructgpt.claims.evidence import Evidence
from benchmarks.instructgpt.claims.groups import groups
from benchmarks.instructgpt.claims.ordering import ordering
from benchmarks.instructgpt.claims.real import real
from benchmarks.instructgpt.claims.recipe import recipe
from benchmarks.instructgpt.claims.selection import selection
from benchmarks.instructgpt.claims.tax import tax
from benchmarks.instructgpt.plan import EXPERIMENTS, Job, Places
from benchmarks.instructgpt.records import write_record
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.whole_files import write_whole

JUDGES = (ordering, tax, beta, recipe, groups, selection, real)


def summarise(places: Places, jobs: list[Job], settings: dict[str, Any], with_plots: bool) -> Path:
    """Write `summary.json`, `summary.md` and, where asked for, the plots.

    Returns:
        The Markdown file.
    """
    evidence = Evidence.read(places.out)
    claims = [claim for judge in JUDGES for claim in judge(evidence)]
    missing = [job.name for job in jobs if not places.is_done(job)]
    summary = {
        "settings": settings,
        "claims": [_plain(claim) for claim in claims],
        "jobs": {"all": len(jobs), "missing": missing},
        "costs": costs(evidence),
        "sources": sources(evidence),
    }
    write_record(places.out / "summary.json", summary)
    pictures = []
    if with_plots:
        from benchmarks.instructgpt.plots import draw_all

        pictures = draw_all(evidence, places.out)
    target = places.out / "summary.md"
    write_whole(target, markdown(claims, summary, pictures))
    return target


def costs(evidence: Evidence) -> dict[str, dict[str, float]]:
    """Mean seconds of each kind of run and evaluation (their own clocks; several at a time slow each other)."""
    found: dict[str, list[float]] = {}
    for name, record in evidence.trainings.items():
        found.setdefault(f"train {re.sub('-s[0-9]+$', '', name)}", []).append(record["seconds"])
    for record in evidence.evaluations.values():
        found.setdefault(f"evaluate {record['kind']}", []).append(record["seconds"])
    return {k: {"runs": len(v), "mean_s": round(sum(v) / len(v), 1)} for k, v in sorted(found.items())}


def sources(evidence: Evidence) -> list[dict[str, Any]]:
    """Every combination of commit, versions and machine that a record came from."""
    seen: list[dict[str, Any]] = []
    for record in [*evidence.trainings.values(), *evidence.evaluations.values()]:
        source = {k: record[k] for k in ("commit", "versions", "machine")}
        if source not in seen:
            seen.append(source)
    return seen


def markdown(claims: list[Claim], summary: dict[str, Any], pictures: list[str]) -> str:
    """The report."""
    jobs, origins = summary["jobs"], summary["sources"]
    machines = "; ".join(f"commit {s['commit']} on {s['machine']['device']}" for s in origins) or "nothing yet"
    settings = ", ".join(f"{k} {v}" for k, v in summary["settings"].items())
    lines = [
        "# The paper's claims on a small model",
        "",
        f"{settings}. {jobs['all'] - len(jobs['missing'])} of {jobs['all']} jobs done. From {machines}.",
        "Brackets are 95 % bootstrap intervals over prompts, documents or items, which all models share; seeds are",
        "averaged within them. *undecided* means that the interval holds both answers.",
        "",
        markdown_table(["claim", "verdict"], [[c.statement, f"**{c.verdict}**"] for c in claims]),
        "",
    ]
    for experiment, title in EXPERIMENTS.items():
        mine = [c for c in claims if c.experiment == experiment]
        if not mine:
            continue
        lines += [f"## {experiment}: {title}", ""]
        for claim in mine:
            lines += [f"**{claim.statement}: {claim.verdict}.** {claim.reason}", ""]
            if claim.rows:
                lines += [markdown_table(list(claim.columns), [list(row) for row in claim.rows]), ""]
        lines += [f"![{p}]({p})\n" for p in pictures if p.startswith(experiment)]
    lines += ["## Costs", "", markdown_table(["what", "runs", "mean seconds"], _cost_rows(summary["costs"])), ""]
    if jobs["missing"]:
        lines += [f"Not done: {', '.join(jobs['missing'])}.", ""]
    return "\n".join(lines)


def _cost_rows(found: dict[str, dict[str, float]]) -> list[list[Any]]:
    return [[what, int(c["runs"]), f"{c['mean_s']:.1f}"] for what, c in found.items()]


def _plain(claim: Claim) -> dict[str, Any]:
    return vars(claim) | {"rows": [list(row) for row in claim.rows], "columns": list(claim.columns)}
