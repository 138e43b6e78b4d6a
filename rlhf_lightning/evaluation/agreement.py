"""`python -m rlhf_lightning agreement FILE...`: how often the labelers of rankings agree, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from rlhf_lightning.bounds import check_number
from rlhf_lightning.callbacks import markdown_table
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.data.agreement import Agreement, LabelerAgreement, Share, judgements_of, labeler_agreement
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.errors import UserError
from rlhf_lightning.whole_files import write_json

NAME = "agreement"
COLUMNS = ["labelers", "without ties", "with ties", "kappa", "pairs", "of them decided", "prompts"]


@dataclass(frozen=True)
class AgreementSettings:
    """Compare labelers who ranked the same responses to the same prompts.

    `agreement FILE...` is short for `agreement --files [FILE, ...]`.

    Args:
        files: Rankings: paths, globs or Hub names.
        out: JSON file for the result; by default it is only printed.
        resamples: Bootstrap samples of the prompts, for the standard errors; 0 for none.
        seed: Of the resampling.
        on_bad_row: "skip" counts and leaves out broken rows instead of stopping at the first.
        limit: Read at most this many rows.
    """

    files: list[str] = field(default_factory=list)
    out: str | None = None
    resamples: int = 1000
    seed: int = 0
    on_bad_row: Literal["error", "skip"] = "error"
    limit: int | None = None

    def __post_init__(self) -> None:
        check_number("resamples", self.resamples, at_least=0)
        if self.resamples == 1:
            raise UserError("resamples: is 1; a standard error needs at least 2, and 0 leaves them out.")
        check_number("seed", self.seed, at_least=0)
        if not self.files:
            raise UserError("files: name at least one file of rankings, such as `agreement rankings.jsonl`.")


def main(args: Sequence[str]) -> int:
    """Run the command.

    Raises:
        UserError: A file or row is broken, or no two labelers ranked the same responses.
    """
    settings = parse_settings(AgreementSettings, NAME, with_files(args))
    rows = RowStream(Ranking, settings.files, "files", settings.on_bad_row, settings.limit)
    judgements = judgements_of(tqdm(rows, desc="rankings", unit=" rows", leave=False))
    found = labeler_agreement(judgements, settings.resamples, settings.seed)
    if found is None:
        nameless = f" {judgements.without_labeler} rows have no `labeler`." if judgements.without_labeler else ""
        raise UserError(
            f"files: no two labelers ranked the same two responses to the same prompt in {rows.rows} rows, so nothing "
            f"can be compared.{nameless} Rankings of one prompt by several labelers are needed."
        )
    print(table(found))
    if settings.out is not None:
        write(Path(settings.out), as_json(found) | {"files": settings.files, "fingerprint": rows.fingerprint})
    return 0


def with_files(args: Sequence[str]) -> list[str]:
    """Names in front of the options as the value of `--files`.

    >>> with_files(["a.jsonl", "b.jsonl", "--seed", "1"])
    ['--files', '["a.jsonl", "b.jsonl"]', '--seed', '1']
    """
    count = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return [*(["--files", json.dumps(list(args[:count]))] if count else []), *args[count:]]


def table(found: LabelerAgreement) -> str:
    """The result as Markdown."""
    rows = [_row("**all**", found.overall), *(_row(f"{a}, {b}", one) for (a, b), one in found.pairs.items())]
    left_out = {
        f"{found.without_labeler} rankings without a labeler were left out.": found.without_labeler,
        f"{found.repeated} judgements were left out because the labeler had made them before.": found.repeated,
    }
    lines = [
        "Shares of pairs of responses (%) that two labelers judge alike, ± standard error (bootstrap over prompts).",
        "",
        markdown_table(COLUMNS, rows),
        "",
        f"Krippendorff's alpha (nominal, a tie is a judgement): {_number(found.alpha, 1)}.",
        *(text for text, count in left_out.items() if count),
    ]
    return "\n".join(lines)


def _row(name: str, one: Agreement) -> list[Any]:
    kappa = "" if one.kappa is None else _number(one.kappa, 1)
    return [
        name,
        _number(one.without_ties, 100),
        _number(one.with_ties, 100),
        kappa,
        one.items,
        one.decided,
        one.prompts,
    ]


def _number(share: Share, unit: int) -> str:
    digits = 1 if unit == 100 else 3
    if share.value is None:
        return "-"
    error = "" if share.error is None else f" ± {unit * share.error:.{digits}f}"
    return f"{unit * share.value:.{digits}f}{error}"


def as_json(found: LabelerAgreement) -> dict[str, Any]:
    """The result with names that JSON can have."""
    pairs = [{"labelers": list(names)} | asdict(one) for names, one in found.pairs.items()]
    return {
        "overall": asdict(found.overall),
        "alpha": asdict(found.alpha),
        "pairs": pairs,
        "without_labeler": found.without_labeler,
        "repeated": found.repeated,
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON.

    Raises:
        UserError: It cannot be written.
    """
    try:
        write_json(path, content)
    except OSError as error:
        raise UserError(f"out: cannot write {str(path)!r}: {error.strerror}. Choose another file.") from error
    print(f"Written: {path}")
