"""Commands beside fit, validate, test and predict: one module each, settings of its own, the same kind of errors."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TypeVar

from jsonargparse import ArgumentParser

from rlhf_lightning.config_checks import check_files

COMMANDS: dict[str, tuple[str, str]] = {
    "describe": ("rlhf_lightning.describe", "Data card: lengths, duplicates, labelers, what would mislead."),
    "report": ("rlhf_lightning.evaluation.report.command", "One page on an evaluation: who wins, at what cost."),
    "agreement": ("rlhf_lightning.evaluation.agreement", "How often the labelers of a rankings file agree."),
    "crossvalidate": (
        "rlhf_lightning.crossvalidation.command",
        "Train the reward model without each group of labelers, and compare how well it judges both.",
    ),
    "evaluate": (
        "rlhf_lightning.evaluation.command",
        "Compare models on the same prompts: win rates, ratings, KL, length, diversity, with intervals.",
    ),
    "trust": (
        "rlhf_lightning.evaluation.trust.command",
        "How far a reward model can be trusted: slices, labelers, length, calibration, over-optimisation.",
    ),
}
"""Name of a command: its module, which has `main(args) -> int`, and one line for `--help`."""

T = TypeVar("T")


def run_command(name: str, args: Sequence[str]) -> int:
    """Run a command.

    Args:
        name: A key of `COMMANDS`.
        args: What follows the name on the command line.

    Returns:
        Its exit status.
    """
    # Imported when it is asked for: a stage should not wait for what an evaluation needs.
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.main(list(args)))


def overview() -> str:
    """The commands, a line each, for `--help`."""
    return "".join(f"\n  {name}: {text}" for name, (_, text) in COMMANDS.items())


def parse_settings(settings: type[T], command: str, args: Sequence[str]) -> T:
    """Settings of a command from `--config FILE` (several: later ones win) and from flags, which win over files.

    Args:
        settings: A dataclass, or another class with typed and documented parameters.
        command: Name of the command, for messages.
        args: The command line after the name.

    Raises:
        UserError: A configuration file is broken.
        ArgumentError: A key is unknown, missing or of another type; `cli.main` turns it into one line.
    """
    check_files(args)
    parser = ArgumentParser(
        prog=f"python -m rlhf_lightning {command}", description=COMMANDS[command][1], exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the keys below; may be given several times.")
    parser.add_class_arguments(settings, as_group=True)
    values = parser.instantiate_classes(parser.parse_args(list(args))).as_dict()
    return settings(**{k: v for k, v in values.items() if k != "config"})
