"""`python -m rlhf_lightning trust --config FILE`: how far a reward model can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from rlhf_lightning.artefacts import open_source, source_fingerprint, versions
from rlhf_lightning.bounds import check_number
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import load
from rlhf_lightning.errors import UserError
from rlhf_lightning.evaluation.bases import usable_device
from rlhf_lightning.evaluation.trust.inputs import (
    Scored,
    build_scorer,
    check_texts,
    find_training,
    grouped,
    policy_outputs,
    read_generations,
    response_texts,
    sample_rankings,
    score_texts,
    shared_prompts,
)
from rlhf_lightning.evaluation.trust.markdown import markdown
from rlhf_lightning.evaluation.trust.report import PolicyOutputs, TrustInputs, TrustReport, plain, trust_report
from rlhf_lightning.evaluation.trust.settings import SliceSettings
from rlhf_lightning.text_reward_models import RewardReader
from rlhf_lightning.whole_files import write_json, write_whole

PRECISIONS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "32-true": torch.float32}


@dataclass(frozen=True)
class TrustSettings:
    """How far a reward model can be trusted: where it is wrong, whose taste it learnt, what it never saw.

    Args:
        reward: A reward artefact, or its run directory.
        rankings: Rankings to judge it on, files, globs or Hub names. It must not have been trained on them. Rows with
            `labeler`, `labeler_group`, `category`, `source`, `language` and `flags` are judged by each of them;
            `response_flags`, a list of flags for each response, tells toxic negatives apart.
        training: The rankings it was trained on, for counts and the distribution of scores; by default what the
            artefact's stage.json names, where the files are still there.
        generations: Outputs of policies by name: JSON lines such as generations/<model>.jsonl of the evaluate
            command, with `prompt`, `response` and, where known, `ended`, `kl` (nats per response) and `gold`. Several
            with `kl` give the over-optimisation curve; 4 samples of each prompt or more give best-of-n.
        proxy: Name of the reward in the rows' `scores` that is this reward model's; by default, and for rows without,
            responses are scored here.
        slices: When a slice or a labeler is judged.
        training_responses: Training responses that are scored, at most, for their distribution; drawn at random.
        out: Directory of trust.json and trust.md.
        seed: Of draws and bootstraps.
        device: Such as cpu or cuda:1; auto takes a GPU where there is one.
        precision: Of the weights.
        on_bad_row: skip counts and leaves out broken rows of rankings instead of stopping at the first.
        micro_batch_tokens: Tokens of one forward.
    """

    reward: str
    rankings: str | list[str]
    training: str | list[str] | None = None
    generations: dict[str, str] = field(default_factory=dict)
    proxy: str | None = None
    slices: SliceSettings = SliceSettings()  # noqa: RUF009 (frozen)
    training_responses: int = 4000
    out: str = "checkpoints/trust"
    seed: int = 1
    device: str = "auto"
    precision: Literal["bf16-true", "16-true", "32-true"] = "bf16-true"
    on_bad_row: Literal["error", "skip"] = "error"
    micro_batch_tokens: int = 4096

    def __post_init__(self) -> None:
        check_number("training_responses", self.training_responses, at_least=1)
        check_number("seed", self.seed, at_least=0)
        check_number("micro_batch_tokens", self.micro_batch_tokens, at_least=1)


def main(args: Sequence[str]) -> int:
    """Make the report and say where it is."""
    settings = parse_settings(TrustSettings, "trust", args)
    report, head = make_report(settings)
    out = Path(settings.out).expanduser()
    write_report(out, report, head)
    if shared := head["held_out_prompts_in_training"]:
        print(f"{shared} prompts of `rankings` are training prompts too, so this flatters the model.")
    for number, finding in enumerate(report.findings, start=1):
        print(f"{number}. {finding.what} {finding.evidence}")
    if not report.findings:
        print("Nothing was found by the tests.")
    print(f"Written: {out / 'trust.md'}, {out / 'trust.json'}")
    return 0


def make_report(settings: TrustSettings) -> tuple[TrustReport, dict[str, Any]]:
    """The report, and what it was made from.

    Raises:
        UserError: Something the user gave cannot be used; before the model is loaded.
    """
    source = open_source(settings.reward, "reward", expect=("reward",))
    held_out = load(Ranking, settings.rankings, "rankings", settings.on_bad_row)
    training, about_training = find_training(source, settings.training, "training")
    shared = shared_prompts(held_out.rows, training)
    sampled = sample_rankings(training, settings.training_responses, settings.seed) if training else []
    given = {
        name: read_generations(name, files, f"generations.{name}", settings.proxy or "")
        for name, files in settings.generations.items()
    }
    reader, dtype, device = (
        RewardReader(source, "reward"),
        PRECISIONS[settings.precision],
        usable_device(settings.device),
    )
    wanted = sampled if given else []
    texts = {"rankings": response_texts(held_out.rows), "training": response_texts(wanted)}
    texts |= {f"generations.{name}": _unscored(*one) for name, one in given.items()}
    everything = [text for part in texts.values() for text in part]
    check_texts(reader, everything)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        found = iter(score_texts(build_scorer(reader, dtype, device, settings.micro_batch_tokens), everything))
    scores = {name: [next(found) for _ in part] for name, part in texts.items()}
    policies = [_with_proxy(name, *one, scores[f"generations.{name}"]) for name, one in given.items()]
    inputs = TrustInputs(
        held_out.rows,
        grouped(scores["rankings"], held_out.rows),
        training,
        grouped(scores["training"], wanted) or None,
        policies,
    )
    report = trust_report(inputs, settings.slices, settings.seed)
    head = {
        "reward": settings.reward,
        "reward_fingerprint": source_fingerprint(source),
        "rankings": {"files": settings.rankings, "rows": len(held_out.rows), "fingerprint": held_out.fingerprint},
        "training": {"rows": len(training) if training else None, "known": about_training},
        "held_out_prompts_in_training": shared,
        "skipped": len(held_out.skipped),
        "settings": plain(settings.slices) | {"seed": settings.seed, "precision": settings.precision},
        "versions": versions(),
    }
    return report, head


def write_report(out: Path, report: TrustReport, head: dict[str, Any]) -> None:
    """Write `trust.json` and `trust.md`; each appears whole or not at all.

    Raises:
        UserError: The directory cannot be written.
    """
    content, text = {"made_from": head} | plain(report), markdown(report, head)
    try:
        write_json(out / "trust.json", content)
        write_whole(out / "trust.md", text)
    except OSError as error:
        raise UserError(f"out: cannot write to {str(out)!r}: {error.strerror}. Choose another directory.") from error


def _unscored(texts: Sequence[Scored], rows: Sequence[dict[str, Any]]) -> list[Scored]:
    return [text for text, row in zip(texts, rows, strict=True) if row["proxy"] is None]


def _with_proxy(
    name: str, texts: Sequence[Scored], rows: Sequence[dict[str, Any]], scores: Sequence[float]
) -> PolicyOutputs:
    left = iter(scores)
    proxy = [next(left) if row["proxy"] is None else float(row["proxy"]) for row in rows]
    return policy_outputs(name, texts, rows, proxy)
