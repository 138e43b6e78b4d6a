"""The command line: LightningCLI, with a run directory per stage and errors a person can act on."""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, DefaultHelpFormatter
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.multiprocessing.spawn import ProcessRaisedException

from rlhf_lightning.artefacts import STAGE_FILE
from rlhf_lightning.bounds import check_number
from rlhf_lightning.callbacks import check_writable
from rlhf_lightning.commands import COMMANDS, overview, run_command
from rlhf_lightning.config_checks import check_files, check_settings, check_trainer
from rlhf_lightning.config_errors import explain, one_line
from rlhf_lightning.datamodule import StageDataModule
from rlhf_lightning.errors import UserError, in_chain
from rlhf_lightning.fitting.identity import FLAG
from rlhf_lightning.fitting.stage_checkpoint import StageCheckpoint
from rlhf_lightning.fitting.stopping import RunStopped
from rlhf_lightning.memory import keep_few_products
from rlhf_lightning.stage import StageModule


class LinesKept(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help whose description keeps its lines."""


class FinishedRun(Exception):
    """There is nothing left to do."""


class SaveConfig(SaveConfigCallback):
    """Saves the resolved configuration as `config.yaml` in the run directory when training is about to begin.

    Not in `setup`, as stock Lightning does: a start that is refused must not replace an earlier run's file.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pass

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        path = Path(trainer.default_root_dir) / "config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=True, multifile=False)


class StageCLI(LightningCLI):
    """fit, validate, test and predict for every stage; the stage is the module chosen in the configuration."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--overwrite",
            type=bool,
            default=False,
            help="Start again where a run stands, finished or not; it is replaced.",
        )
        parser.add_argument(
            f"--{FLAG}",
            type=bool,
            default=False,
            help="Let --ckpt_path go on with another configuration or other data than the checkpoint's.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        check_files(args)
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        seed = config.seed_everything
        if not isinstance(seed, bool):
            check_number("seed_everything", seed, at_least=0, below=2**32)
        check_trainer(config.trainer)
        check_settings(config)

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        root = Path(config.trainer.default_root_dir)
        if self.subcommand != "fit":
            if config.ckpt_path is None and not config.trainer.fast_dev_run and has_run(root):
                raise UserError(
                    f"trainer.default_root_dir: {str(root)!r} holds a run, but without --ckpt_path its weights are not "
                    "looked at. Give `--ckpt_path last` for them, or another directory for a model that is not trained "
                    "yet."
                )
            return
        check_writable(root)
        if config.overwrite and config.ckpt_path is not None:
            raise UserError("--overwrite starts again and --ckpt_path goes on; give one of them.")
        if not has_run(root) or config.trainer.fast_dev_run or config.overwrite:
            return
        finished = is_finished(root)
        if finished and config.ckpt_path is not None:
            raise FinishedRun(f"The run in {root} is already finished: its artefact is {root / 'final'}.")
        if config.ckpt_path is None:
            what, last = ("a finished run", "keep it as it is") if finished else ("an unfinished run", "go on with it")
            raise UserError(
                f"trainer.default_root_dir: {str(root)!r} holds {what}. Give `--ckpt_path last` to {last}, "
                "`--overwrite true` to replace it, or choose another directory."
            )

    def before_fit(self) -> None:
        self.model.resume_with_changes = bool(self._get(self.config_init, FLAG))

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        config = self._get(self.config_init, "trainer")
        root = Path(config.default_root_dir)
        if config.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(root, name="", version="tensorboard", default_hp_metric=False)
        callbacks = config.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.enable_checkpointing is not False and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
            callbacks = [*callbacks, checkpoint_callback(root)]
        try:
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"trainer: {one_line(str(error))}") from error

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        wanted, found = self.model.stage, getattr(self.datamodule, "stage", self.model.stage)
        if found != wanted:
            raise UserError(
                f"data.class_path: {type(self.datamodule).__name__} reads rows for the {found} stage, but "
                f"{type(self.model).__name__} trains the {wanted} stage. Choose a data module of that stage."
            )

    def _parse_ckpt_path(self) -> None:
        """Stock Lightning lets hyper-parameters in a checkpoint override what the user typed; here nothing does."""


def is_finished(root: Path) -> bool:
    """Whether a directory holds a run that has written its artefact."""
    return (root / "final" / STAGE_FILE).is_file()


def has_run(root: Path) -> bool:
    """Whether a run has left weights in a directory."""
    return is_finished(root) or any((root / "lightning").glob("*.ckpt"))


def checkpoint_callback(root: Path) -> StageCheckpoint:
    """A checkpoint at the end of each epoch (PPO: iteration), the newest also as `last.ckpt`."""
    return StageCheckpoint(
        dirpath=str(root / "lightning"), filename="{epoch}-{step}", save_last=True, save_on_train_epoch_end=True
    )


def main(args: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 a user's error, 2 a configuration error, 128 + n stopped by signal n.
    """
    quieten()
    keep_few_products()
    given = sys.argv[1:] if args is None else args
    if given and given[0] in COMMANDS:
        return reported(lambda: interruptible(given[0], given[1:]))
    return reported(lambda: run_stage(list(given)))


def interruptible(name: str, args: list[str]) -> int:
    """Run a command beside the stages, which have a way of their own to stop."""
    try:
        return run_command(name, args)
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C. What is on disk stays; start the same command to go on.", file=sys.stderr)
        return 128 + signal.SIGINT


def run_stage(args: list[str]) -> int:
    """Run fit, validate, test or predict; `StageCLI` does everything when it is made."""
    names = [*StageCLI.subcommands(), *COMMANDS]
    if args and not args[0].startswith("-") and args[0] not in names:
        raise UserError(f"{args[0]!r} is no command; there are {', '.join(names)}. `--help` says what each does.")
    StageCLI(
        StageModule,
        StageDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
        seed_everything_default=1,
        trainer_defaults={"default_root_dir": "checkpoints/run"},
        parser_kwargs={
            "prog": "python -m rlhf_lightning",
            "description": "InstructGPT's three stages. Try `fit --config configs/tiny/sft.yaml`. Beside them:"
            + overview(),
            "exit_on_error": False,
            "formatter_class": LinesKept,
            **{name: {"exit_on_error": False} for name in StageCLI.subcommands()},
        },
        args=args,
    )
    return 0


def reported(command: Callable[[], int]) -> int:
    """Run a command; what stops it is printed as one line where a person can act on it, and becomes the exit status."""
    try:
        return command()
    except FinishedRun as done:
        print(done)
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except ArgumentError as error:
        print(f"error: {explain(str(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        reason = users_error(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


def users_error(error: BaseException | None) -> UserError | None:
    """The user's error in a chain of exceptions; jsonargparse wraps what a constructor raises.

    Processes that are forked or spawned (`trainer.strategy: ddp_fork`) hand on no more than their traceback's text.
    """
    found = in_chain(error, UserError, ProcessRaisedException)
    if found is None or isinstance(found, UserError):
        return found
    said = re.split(rf"^(?:{'|'.join(map(re.escape, error_names(UserError)))}): ", str(found), flags=re.M)
    return UserError(said[-1].strip()) if len(said) > 1 else None


def error_names(kind: type[UserError]) -> list[str]:
    """A class and those that inherit from it, as tracebacks name them."""
    inherited = [name for child in kind.__subclasses__() for name in error_names(child)]
    return [f"{kind.__module__}.{kind.__qualname__}", *inherited]


def quieten() -> None:
    """Silence messages of libraries that ask for nothing the user can do."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for pattern in (
        ".*module\\(s\\) in eval mode.*",
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*is_gradient_checkpointing.*",
        ".*args parameter is intended to run from within Python.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    import logging

    for name in ("transformers", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
