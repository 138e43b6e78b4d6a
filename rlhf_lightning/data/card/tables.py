"""A data card as tables, for the screen, Markdown and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_lightning.data.card.counting import Summary, percent
from rlhf_lightning.data.card.split import NO_CATEGORY

_MOST_ROWS = 30
"""Of a table; the JSON has the rest."""
_SHOWN = 80
"""Characters of an example."""
_GROUPINGS = {
    "sources": "source",
    "languages": "language",
    "flags": "flag",
    "labelers": "labeler",
    "labeler_groups": "labeler group",
}
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A title, columns and rows, and what to know to read them."""

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """As Markdown whose columns are aligned, so that it can be read on a screen too."""
        lines = [[*self.columns], *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        lines.insert(1, ["-" * max(3, width) for width in widths])
        drawn = ["| " + " | ".join(c.ljust(max(3, w)) for c, w in zip(ln, widths, strict=True)) + " |" for ln in lines]
        note = f"\n\n{self.note}" if self.note else ""
        title = f"### {self.title}\n\n" if self.title else ""
        return title + "\n".join(drawn) + note


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
    return str(cell).replace("|", "\\|").replace("\n", " ")


def tables(card: Summary) -> list[Table]:
    """Everything a card holds; what does not apply to the data is left out."""
    splits: dict[str, Summary] = card["splits"]
    found = [_overview(splits, card.get("shared_prompts", {})), _lengths(splits, "characters")]
    found += [_lengths(splits, "tokens"), _contents(splits), _categories(splits)]
    found += [_shares(splits, many, one) for many, one in _GROUPINGS.items()]
    found += [_agreement(splits), _near(splits), _few(splits, card.get("notes", {}))]
    return [table for table in found if table.rows]


def markdown(card: Summary, title: str = "Data card") -> str:
    """The card as a Markdown page."""
    warnings = "\n".join(f"- {warning}" for warning in card.get("warnings", []))
    parts = [f"# {title}"]
    if warnings:
        parts.append(f"**Be careful:**\n\n{warnings}")
    return "\n\n".join(parts + [table.markdown() for table in tables(card)]) + "\n"


def _overview(splits: dict[str, Summary], shared: dict[str, int]) -> Table:
    rows: list[list[Cell]] = []
    for name, s in splits.items():
        pairs, tied = s.get("pairs"), s.get("tied_pairs", 0)
        k = ", ".join(f"{k}: {n}" for k, n in s.get("k", {}).items())
        ties = percent(tied, pairs) if pairs else None
        longer = s.get("longer_wins")
        wins = percent(longer, 1) if longer is not None else None
        rows.append(
            [name, s["kind"], s["rows"], s.get("skipped"), s["different_prompts"], k or None, pairs, ties, wins]
        )
    note = "; ".join(f"{n} prompts are in {name}" for name, n in shared.items())
    columns = ["split", "kind", "rows", "left out", "different prompts", "rows by K", "pairs", "ties", "longer wins"]
    return Table("Rows", columns, rows, note + "." if note else "")


def _lengths(splits: dict[str, Summary], unit: str) -> Table:
    keys = ("mean", "min", "p5", "p50", "p95", "max", "sum")
    rows: list[list[Cell]] = [
        [name, part, *(lengths[k] for k in keys)]
        for name, s in splits.items()
        for part, lengths in s.get(unit, {}).items()
    ]
    return Table(f"Lengths in {unit}", ["split", "of", "mean", "min", "5 %", "median", "95 %", "max", "all"], rows)


def _contents(splits: dict[str, Summary]) -> Table:
    rows: list[list[Cell]] = []
    for name, s in splits.items():
        n = s["rows"]
        worded, flagged = s["toxic_worded_rows"], s["flagged_rows"]
        negatives, preferred = s.get("toxic_negatives"), s.get("toxic_preferred")
        share = f"{worded} ({percent(worded, n)})"
        rows.append(
            [name, f"{flagged} ({percent(flagged, n)})", share, negatives, preferred, s["exact_duplicate_rows"]]
        )
    columns = ["split", "flagged", "toxic-worded", "ranked lower", "ranked higher", "exact duplicates"]
    note = (
        "Toxic-worded is crude: a short English list of words. Ranked lower: rankings that put a response with such a "
        "word below one without; higher: above."
    )
    return Table("Flags, toxic words and duplicates", columns, rows, note)


def _categories(splits: dict[str, Summary]) -> Table:
    rows: list[list[Cell]] = [
        [name, category, c["rows"], c["flagged"], c["toxic_worded"], c["toxic_negatives"] if "k" in s else None]
        for name, s in splits.items()
        for category, c in list(s["categories"].items())[:_MOST_ROWS]
        if set(s["categories"]) != {NO_CATEGORY}
    ]
    return Table("Categories", ["split", "category", "rows", "flagged", "toxic-worded", "ranked lower"], rows)


def _shares(splits: dict[str, Summary], key: str, singular: str) -> Table:
    rows: list[list[Cell]] = [
        [name, value, count, percent(count, s["rows"])]
        for name, s in splits.items()
        for value, count in list(s.get(key, {}).items())[:_MOST_ROWS]
    ]
    note = "Guessed from script and stop words: crude, above all for short prompts." if key == "languages" else ""
    return Table(key.replace("_", " ").capitalize(), ["split", singular, "rows", "share"], rows, note)


def _agreement(splits: dict[str, Summary]) -> Table:
    rows: list[list[Cell]] = []
    for name, s in splits.items():
        agreement = s.get("agreement") or {}
        pairs = agreement.get("pairs_of_labelers", [])[:_MOST_ROWS]
        for pair in ([agreement["overall"] | {"a": "all", "b": "all"}] if agreement else []) + pairs:
            kappa = pair.get("kappa", agreement["alpha"])
            rows.append([name, pair["a"], pair["b"], pair["decided"], _pm(pair["agreement"]), _pm(kappa)])
    note = "Of pairs that neither left tied; with standard errors over prompts. Of all: Krippendorff's alpha."
    return Table("Agreement between labelers", ["split", "labeler", "and", "pairs", "agree", "kappa"], rows, note)


def _pm(share: dict[str, float | None]) -> str | None:
    if share["value"] is None:
        return None
    return f"{share['value']:.3f}" + ("" if share["error"] is None else f" ± {share['error']:.3f}")


def _near(splits: dict[str, Summary]) -> Table:
    rows: list[list[Cell]] = []
    for name, s in splits.items():
        for other, near in (s.get("near_duplicates") or {"of": {}})["of"].items():
            first, *more = near["examples"][:3]
            rows.append([name, other, near["prompts"], *_example(first)])
            rows += [[None, None, None, *_example(example)] for example in more]
    columns = ["prompts of", "nearly in", "how many", "one", "another", "similarity"]
    return Table("Near-duplicate prompts", columns, rows)


def _example(example: Summary) -> list[Cell]:
    cut = (t if len(t) <= _SHOWN else t[: _SHOWN - 1] + "…" for t in (example["text"], example["other"]))
    return [*cut, example["similarity"]]


def _few(splits: dict[str, Summary], notes: dict[str, str]) -> Table:
    rows: list[list[Cell]] = [
        [name, by, ", ".join(f"{group} ({n})" for group, n in list(groups.items())[:_MOST_ROWS])]
        for name, s in splits.items()
        for by, groups in s.get("few_rows", {}).items()
    ]
    return Table("Groups with too few rows to trust", ["split", "by", "groups (rows)"], rows, notes.get("few_rows", ""))
