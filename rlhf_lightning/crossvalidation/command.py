"""`python -m rlhf_lightning crossvalidate`: plan, train and evaluate every fold, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal

from rlhf_lightning.artefacts import STAGE_FILE, open_source, source_fingerprint
from rlhf_lightning.bounds import check_number
from rlhf_lightning.callbacks import check_writable
from rlhf_lightning.cli import run_stage
from rlhf_lightning.commands import parse_settings
from rlhf_lightning.crossvalidation.files import write_rankings
from rlhf_lightning.crossvalidation.groups import Fold, Unit, amounts, balanced_groups, make_folds, scan
from rlhf_lightning.crossvalidation.outcomes import FoldCounts, read_counts, summarize
from rlhf_lightning.crossvalidation.report import write_report
from rlhf_lightning.crossvalidation.stage_runs import resolved, run_process
from rlhf_lightning.data.kinds import Ranking
from rlhf_lightning.data.loading import RowStream
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.identity import differences
from rlhf_lightning.fitting.run_lock import RunLock
from rlhf_lightning.whole_files import write_json

NAME = "crossvalidate"
EXAMPLE = f"python -m rlhf_lightning {NAME} --config configs/quickstart/reward.yaml --folds 4 --out checkpoints/folds"
PLAN = "plan.json"
Runner = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class CrossValidation:
    """Train the reward model once for each group of labelers without it, and compare how well it judges both.

    All other options (--config, --model..., --data..., --trainer...) are those of `fit` and go to the stage. Evaluation
    uses data.init_args.val where it is given, else prompts held out of data.init_args.train; prompts of the
    evaluation are never trained on. The same command goes on where it was cut off.

    Args:
        out: Directory for the report and a run of the stage for each fold and seed.
        folds: Groups of labelers, each held out once (§4.1: 5).
        by: `labeler` makes groups of about equal data from single labelers; `labeler_group` keeps the rows' own
            groups together.
        seeds: Trainings of each fold, with `seed_everything` and the numbers that follow it (§4.1: 3).
        held_out: Share of the prompts to evaluate training groups on; only without data.init_args.val.
    """

    out: str
    folds: int = 5
    by: Unit = "labeler"
    seeds: int = 1
    held_out: float = 0.2

    def __post_init__(self) -> None:
        check_number("seeds", self.seeds, at_least=1)
        check_number("held_out", self.held_out, above=0, below=1)


def main(args: Sequence[str]) -> int:
    """Run the command.

    Returns:
        0, or the exit status of a stage that failed or was stopped.
    """
    own, stage_args = split_args(args)
    if any(arg.startswith("--print_config") for arg in stage_args):
        return run_stage(["fit", *stage_args])
    if "--help" in own or "-h" in own:
        print(cleandoc(CrossValidation.__doc__ or "").partition("Args:")[0])
        print(f"{EXAMPLE}\n")
    return cross_validate(parse_settings(CrossValidation, NAME, own), stage_args, run_process)


def split_args(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our options, and those that go to the stage.

    >>> split_args(["--config", "reward.yaml", "--folds", "3", "--out=x", "--trainer.max_epochs", "2"])
    (['--folds', '3', '--out=x'], ['--config', 'reward.yaml', '--trainer.max_epochs', '2'])
    """
    names = {f"--{field.name}" for field in fields(CrossValidation)}
    own: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if word in ("-h", "--help"):
            own.append(word)
        elif name in names:
            own += [word] if equals else [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            rest.append(word)
    return own, rest


def cross_validate(settings: CrossValidation, stage_args: Sequence[str], run: Runner) -> int:
    """Plan, train, evaluate, report.

    Args:
        settings: Ours.
        stage_args: What follows `fit` in the stage's command line.
        run: Runs a command line of this package and returns its exit status.

    Returns:
        0, or the status of the first stage that failed.

    Raises:
        UserError: Something does not fit, before any training.
    """
    config = resolved(stage_args)
    root = Path(settings.out)
    plan = Plan(settings, config)
    check_writable(root, "out")
    lock = RunLock("out")
    lock.acquire(root)
    try:
        plan.settle(root)
        counts: dict[int, list[FoldCounts]] = {}
        for number, fold in enumerate(plan.folds, start=1):
            for seed in plan.seeds:
                print(
                    f"[fold {number} of {len(plan.folds)}, seed {seed}] holds out {', '.join(fold.held_out)}",
                    flush=True,
                )
                status, results = run_fold(root, number, seed, [*stage_args], run)
                if results is None:
                    return status
                counts.setdefault(number, []).append(read_counts(results, settings.by, fold.held_out))
    finally:
        lock.release()
    print(write_report(root, plan.content | {"seeds": plan.seeds}, summarize(list(counts.values()))))
    print(f"Written: {root / 'crossvalidation.md'}, {root / 'crossvalidation.json'}.")
    return 0


class Plan:
    """Who is held out when, and what is trained: everything that a finished fold was made with."""

    def __init__(self, settings: CrossValidation, config: dict[str, Any]) -> None:
        data = config["data"]["init_args"]
        self._on_bad_row: Literal["error", "skip"] = data.get("on_bad_row") or "error"
        self._limit: int | None = data.get("limit")
        self._sources = {split: data[split] for split in ("train", "val") if data.get(split) is not None}
        seed = _first_seed(config, settings.seeds)
        self.seeds = [seed + i for i in range(settings.seeds)]
        scanned = {split: scan(self._rows(split), self._key(split), settings.by) for split in self._sources}
        groups = balanced_groups(amounts(*scanned.values()), settings.folds, settings.by)
        self.folds: list[Fold] = make_folds(groups, scanned["train"], scanned.get("val"), settings.held_out, seed)
        pairs = amounts(*scanned.values())
        self.content: dict[str, Any] = {
            "by": settings.by,
            "groups": [{name: pairs[name] for name in fold.held_out} for fold in self.folds],
            "held_out": None if "val" in scanned else settings.held_out,
            "first_seed": seed,
            "rows": {split: one.fingerprint for split, one in scanned.items()},
            "init_from": _model_fingerprint(config["model"]["init_args"]["init_from"]),
            "stage": _without_places(config),
        }
        """All but the number of seeds, which may grow."""

    def _key(self, split: str) -> str:
        return f"data.init_args.{split}"

    def _rows(self, split: str) -> RowStream[Ranking]:
        return RowStream(Ranking, self._sources[split], self._key(split), self._on_bad_row, self._limit)

    def settle(self, root: Path) -> None:
        """Write the plan and the rankings of its folds, or find that they are there.

        Raises:
            UserError: Another plan is.
        """
        path = root / PLAN
        if path.is_file():
            changed = differences(json.loads(path.read_text()), json.loads(json.dumps(self.content)))
            if changed:
                raise UserError(
                    f"out: {str(root)!r} holds a cross-validation with other settings (then -> now): "
                    f"{'; '.join(changed[:6])}. Restore them, or give another --out."
                )
            return
        for number in range(1, len(self.folds) + 1):
            (root / f"fold{number}").mkdir(exist_ok=True)
        numbered = list(enumerate(self.folds, start=1))
        training = [(fold_file(root, n, "train"), fold.train) for n, fold in numbered]
        evaluation = [(fold_file(root, n, "val"), fold.evaluation) for n, fold in numbered]
        if "val" in self._sources:
            write_rankings(self._rows("train"), training)
            write_rankings(self._rows("val"), evaluation)
        else:
            write_rankings(self._rows("train"), training + evaluation)
        # Last, because it says that all the others are there.
        write_json(path, self.content)


def fold_file(root: Path, number: int, split: str) -> Path:
    """Rankings of a fold."""
    return root / f"fold{number}" / f"{split}.jsonl"


def _model_fingerprint(name: str) -> str:
    key = "model.init_args.init_from"
    source = open_source(name, key)
    try:
        return source_fingerprint(source)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def _first_seed(config: dict[str, Any], seeds: int) -> int:
    own, seed = config["model"]["init_args"].get("seed"), config.get("seed_everything")
    if own is not None and seeds > 1:
        raise UserError(f"model.init_args.seed: is {own}, so all {seeds} --seeds would be the same. Leave it out.")
    return 1 if seed is None or isinstance(seed, bool) else int(seed)


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Without what says where things are and not what they are."""
    data = {k: v for k, v in config["data"]["init_args"].items() if k not in ("train", "val")}
    trainer = {k: v for k, v in config["trainer"].items() if k != "default_root_dir"}
    return {"model": config["model"], "data": data, "trainer": trainer}


def run_fold(root: Path, number: int, seed: int, stage_args: Sequence[str], run: Runner) -> tuple[int, Path | None]:
    """Train and evaluate a fold, as far as that has not been done.

    Returns:
        Exit status, and the directory with the results; None where a stage failed or was stopped.
    """
    run_dir = root / f"fold{number}" / f"seed{seed}"
    common = [*stage_args, "--seed_everything", str(seed)]
    for split in ("train", "val"):
        common += [f"--data.init_args.{split}", str(fold_file(root, number, split))]
    if not (run_dir / "final" / STAGE_FILE).is_file():
        status = run(["fit", *common, "--trainer.default_root_dir", str(run_dir), "--ckpt_path", "last"])
        if status:
            return status, None
    size = sum(1 for _ in fold_file(root, number, "val").open(encoding="utf-8"))
    if is_complete(run_dir, size):
        return 0, run_dir
    # The training validated at other moments, or on a part: once more, with the weights that came out.
    evaluation = run_dir / "evaluation"
    if not is_complete(evaluation, None):
        last = ["--model.init_args.init_from", str(run_dir), "--trainer.limit_val_batches", "1.0"]
        status = run(["validate", *common, *last, "--trainer.default_root_dir", str(evaluation)])
        if status:
            return status, None
    return 0, evaluation


def is_complete(directory: Path, size: int | None) -> bool:
    """Whether a validation of the final weights on all rankings was written there.

    Args:
        directory: A run's.
        size: Rankings there are; None where the validation was made for this purpose.
    """
    path = directory / "val_accuracy.json"
    if not path.is_file():
        return False
    rankings = (directory / "val_rankings.csv").read_text().count("\n") - 1
    return size is None or (bool(json.loads(path.read_text()).get("last_step")) and rankings == size)
