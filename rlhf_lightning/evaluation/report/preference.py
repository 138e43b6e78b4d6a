"""Who wins: the paper's Figure 1 for this run, the matrix, ratings; and what it cost in KL."""

from __future__ import annotations

from functools import partial
from typing import Any

from rlhf_lightning.evaluation.report.blocks import (
    Figure,
    Folded,
    Section,
    Table,
    Text,
    Warnings,
    bounds,
    interval,
    mapping,
    percents,
    sequence,
)
from rlhf_lightning.evaluation.report.charts import Bar, Mark, intervals, plane
from rlhf_lightning.evaluation.report.inputs import Inputs

KL_AXIS = "KL to the reference, nats (square-root scale)"


def at_a_glance(inputs: Inputs) -> Section | None:
    """A table of all models, and what the reader should know before believing it."""
    outputs, judges = _measured(inputs), _judges(inputs)
    rewards = list(dict.fromkeys(r for m in outputs.values() for r in mapping(m.get("scores"))))
    columns = ["model", *(f"wins ({j})" for j in judges), *(f"score ({r})" for r in rewards)]
    rows: list[list[Any]] = []
    for name in [m for m in inputs.models if m in outputs or judges]:
        model = mapping(outputs.get(name))
        wins = [_win_cell(inputs, judge, name) for judge in judges.values()]
        scores = [interval(mapping(model.get("scores")).get(r), 2) for r in rewards]
        rest = [
            interval(model.get("kl"), 2),
            interval(model.get("response_tokens"), 1),
            percents(model.get("eos_rate")),
        ]
        rows.append([name, *wins, *scores, *rest, _number(model.get("distinct_2"))])
    section = Section("glance", "At a glance")
    if rows:
        note = "Brackets are 95 % intervals over prompts. KL is in nats per response, to " + _reference(inputs)
        table = Table("", [*columns, "KL", "tokens", "ended", "distinct-2"], rows, note + ".")
        section.blocks.append(without_empty_columns(table))
    cautions = list(_cautions(inputs, judges))
    if cautions:
        section.blocks.append(Warnings(cautions))
    return section if section.blocks else None


def _measured(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """What is known about every model's responses."""
    models = mapping(mapping(inputs.results.get("outputs")).get("models"))
    return {name: mapping(model) for name, model in models.items()}


def _judges(inputs: Inputs) -> dict[str, dict[str, Any]]:
    judges = mapping(mapping(inputs.results.get("preference")).get("judges"))
    return {name: mapping(judge) for name, judge in judges.items()}


def _reference(inputs: Inputs) -> str:
    named = mapping(inputs.results.get("outputs")).get("reference", inputs.about.get("reference"))
    return str(named or "the reference model")


def _win_cell(inputs: Inputs, judge: dict[str, Any], model: str) -> str | None:
    if model == inputs.baseline:
        return "baseline"
    return percents(mapping(mapping(judge.get("win_rates")).get(model)).get("win_rate"))


def _cautions(inputs: Inputs, judges: dict[str, Any]) -> list[str]:
    found = []
    for name, judge in judges.items():
        trained = [m for m, yes in mapping(judge.get("trained_against")).items() if yes]
        if trained:
            found.append(f"Trained against the judge {name!r}, which flatters them: {', '.join(trained)}.")
    findings = sequence(mapping(inputs.results.get("trust")).get("findings"))
    found += [f"Reward model: {f.get('what')}" for f in map(mapping, findings) if f.get("severity") == 1][:5]
    for name, card in inputs.cards.items():
        found += [f"Data of {name}, {str(w).removeprefix('data.init_args.')}" for w in sequence(card.get("warnings"))]
    return list(dict.fromkeys(found))


def preference(inputs: Inputs) -> Section | None:
    """Win rates against the baseline by every judge, the matrix, ratings, categories."""
    section = Section("preference", "Who is preferred")
    baseline = inputs.baseline or "the baseline"
    for name, judge in _judges(inputs).items():
        bars = []
        for number, model in enumerate(inputs.models):
            value = mapping(mapping(judge.get("win_rates")).get(model)).get("win_rate")
            if (found := bounds(value)) is not None:
                bars.append(Bar(model, *found, str(percents(value)), number))
        if not bars:
            continue
        trained = any(mapping(judge.get("trained_against")).values())
        axis = f"share of prompts won against {baseline}, ties counting half"
        title = f"Win rate against {baseline}, judged by {name}" + (" (trained against it)" if trained else "")
        alt = f"{title}: " + "; ".join(f"{b.name} {b.text}" for b in bars)
        draw = partial(_win_rates, bars, axis)
        section.blocks.append(Figure(f"win_rates_{name}", title, alt, draw, _wins(judge, inputs.models)))
        tables = [t for t in (_matrix(judge), _ratings(judge), _categories(judge)) if t.rows]
        if tables:
            section.blocks.append(Folded(f"Every two models, ratings and categories, judged by {name}", tables))
    if section.blocks:
        lead = (
            f"As in the paper's Figure 1: how often a response is preferred to {baseline}'s to the same prompt. "
            "The dashed line is even; an interval that does not reach it tells the two models apart."
        )
        section.blocks.insert(0, Text(lead))
    return section if section.blocks else None


def _win_rates(bars: list[Bar], axis: str, width: float) -> Any:
    return intervals(bars, width, axis, 0.5, percent=True)


def _wins(judge: dict[str, Any], models: list[str]) -> Table:
    rows: list[list[Any]] = []
    for model in models:
        one = mapping(mapping(judge.get("win_rates")).get(model))
        if one:
            counts = [one.get(k) for k in ("prompts", "wins", "ties", "losses", "inconsistent")]
            excluded = sum(v for v in mapping(one.get("excluded")).values() if isinstance(v, int))
            controlled = mapping(one.get("length_controlled"))
            length = controlled.get("win_rate", controlled or None)
            rows.append([model, percents(one.get("win_rate")), percents(length), *counts, excluded])
    columns = [
        "model",
        "win rate",
        "length-controlled",
        "prompts",
        "wins",
        "ties",
        "losses",
        "order mattered",
        "left out",
    ]
    return without_empty_columns(Table("Numbers", columns, rows))


def _matrix(judge: dict[str, Any]) -> Table:
    matrix = mapping(judge.get("matrix"))
    models = list(matrix)
    rows: list[list[Any]] = [
        [
            a,
            *(
                percents(mapping(mapping(matrix[a]).get(b)).get("win_rate")) or ("·" if a == b else None)
                for b in models
            ),
        ]
        for a in models
    ]
    if len(models) < 3:
        rows = []
    note = "Share of prompts on which the row's model beats the column's."
    return Table("Every two models", ["", *models], rows, note)


def _ratings(judge: dict[str, Any]) -> Table:
    rows: list[list[Any]] = [
        [model, interval(mapping(r).get("elo"), 0), interval(mapping(r).get("bradley_terry"), 2)]
        for model, r in mapping(judge.get("ratings")).items()
    ]
    note = (
        "Bradley-Terry log-odds over the baseline; Elo is the same on another scale, 400 points being odds of 10 to 1."
    )
    return Table("Ratings", ["model", "Elo", "log-odds"], rows if len(rows) > 2 else [], note)


def _categories(judge: dict[str, Any]) -> Table:
    win_rates = mapping(judge.get("win_rates"))
    by_model = {m: mapping(mapping(w).get("by_category")) for m, w in win_rates.items()}
    categories = sorted({c for found in by_model.values() for c in found})
    rows: list[list[Any]] = []
    for category in categories:
        cells = [mapping(found.get(category)) for found in by_model.values()]
        prompts = max((c.get("prompts") or 0 for c in cells), default=0)
        rows.append([category, prompts, *(percents(c.get("win_rate")) for c in cells)])
    return Table("By category", ["category", "prompts", *by_model], rows)


def frontier(inputs: Inputs) -> Section | None:
    """Reward, and win rates, against KL."""
    outputs, judges = _measured(inputs), _judges(inputs)
    section = Section("frontier", "What it cost in KL")
    rewards = list(dict.fromkeys(r for m in outputs.values() for r in mapping(m.get("scores"))))
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        (f"frontier_{r}", f"Score by {r} against KL", {n: mapping(m.get("scores")).get(r) for n, m in outputs.items()})
        for r in rewards
    ]
    for name, judge in judges.items():
        won = {n: mapping(w).get("win_rate") for n, w in mapping(judge.get("win_rates")).items()}
        if inputs.baseline is not None:
            won[inputs.baseline] = {"mean": 0.5, "low": 0.5, "high": 0.5}
        wanted.append((f"frontier_wins_{name}", f"Win rate judged by {name} against KL", won))
    for name, title, values in wanted:
        marks = _marks(inputs, outputs, values)
        if len(marks) > 1:
            rows: list[list[Any]] = [[m.name, m.x, m.y, m.low, m.high] for m in marks]
            alt = f"{title}: " + "; ".join(f"{m.name} {m.y:.3g} at a KL of {m.x:.3g}" for m in marks)
            y_title = "share of prompts won" if "wins" in name else "mean score"
            draw = partial(plane, marks, x_title=KL_AXIS, root=True, y_title=y_title)
            numbers = Table("Numbers", ["model", "KL", "mean", "low", "high"], rows)
            section.blocks.append(Figure(name, title, alt, _of_width(draw), numbers, small=True))
    if section.blocks:
        lead = "Up is better, right is further from the reference. What is higher at the same KL is a better use of it."
        section.blocks.insert(0, Text(lead))
    return section if section.blocks else None


def _of_width(draw: Any) -> Any:
    return lambda width: draw(width=width)


def _marks(inputs: Inputs, outputs: dict[str, Any], values: dict[str, Any]) -> list[Mark]:
    found = []
    for number, name in enumerate(inputs.models):
        kl, value = bounds(mapping(outputs.get(name)).get("kl")), bounds(values.get(name))
        if kl is not None and value is not None:
            found.append(Mark(name, kl[0], *value, number))
    return found


def without_empty_columns(table: Table) -> Table:
    """A table without the columns in which nothing stands."""
    kept = [i for i in range(len(table.columns)) if any(row[i] is not None for row in table.rows)]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.title, [table.columns[i] for i in kept], rows, table.note)


def _number(value: Any) -> str | None:
    return f"{value:.2f}" if isinstance(value, int | float) else None
