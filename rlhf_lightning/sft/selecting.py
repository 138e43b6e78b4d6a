"""What an SFT run does at its validations and its end to select its weights; mixed into the module that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rlhf_lightning.artefacts import Source
from rlhf_lightning.callbacks import log_text, markdown_table
from rlhf_lightning.datamodule import StageDataModule
from rlhf_lightning.errors import UserError
from rlhf_lightning.fitting.stopping import StopOnRequest
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import ADAPTER
from rlhf_lightning.sft.rm_score import Answer, RMScore
from rlhf_lightning.sft.selection import KEY, SCORE, SCORE_ERROR, Selection, SelectionSettings, mean_and_error
from rlhf_lightning.stage import StageModule
from rlhf_lightning.text_reward_models import failing_together

COLUMNS = ["prompt", "response", "score", "length"]
SHOWN = 12
"""Answers in the table of samples."""


class Selecting(StageModule):
    """Measures the weights at every validation, remembers the best, and hands these over for `final/`."""

    backbone: Backbone
    selection: Selection | None
    rm_score: RMScore | None

    def init_selection(self, settings: SelectionSettings | None) -> None:
        """Called at the end of the constructor; opens the reward artefact.

        Raises:
            UserError: It is not one.
        """
        self.selection, self.rm_score = None, None
        if settings is None:
            return
        self.selection = Selection(settings, self.trainable)
        self.run_state.register("selection", self.selection.state_dict, self.selection.load_state_dict)
        if settings.reward_from is not None:
            self.rm_score = RMScore(settings, self.memory.micro_batch_tokens, self.trust_remote_code)

    def build_rm_score(self, source: Source) -> None:
        """Load the reward model; called when the model that is trained is there."""
        if self.rm_score is not None:
            self.rm_score.build(self.backbone, source, self.lora, self.precision)

    def source_fingerprints(self) -> dict[str, str]:
        return super().source_fingerprints() | (self.rm_score.fingerprint() if self.rm_score is not None else {})

    # -- before training ------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._check_monitors()
        if self.selection is None or stage not in ("fit", "validate"):
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        self._require_validation(data, stage)
        if self.rm_score is not None:
            self.rm_score.read(data, self.template, self.limits, self.seed)

    def _check_monitors(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if getattr(callback, "monitor", None) in (SCORE, SCORE_ERROR) and self.rm_score is None:
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} monitors {callback.monitor!r}, which this run does "
                    f"not have. Set {KEY}.reward_from to a reward artefact, or monitor 'val/loss'."
                )

    def _require_validation(self, data: Any, stage: str) -> None:
        if not isinstance(data, StageDataModule) or data.sources["val"] is None:
            raise UserError(f"{KEY} measures at validations, and there are none: set data.init_args.val.")
        if self.trainer.limit_val_batches == 0:
            raise UserError(f"{KEY} measures at validations, and trainer.limit_val_batches is 0. Raise it.")
        every, epochs = self.trainer.check_val_every_n_epoch, self.trainer.max_epochs
        if stage == "fit" and every is not None and epochs is not None and 0 < epochs < every:
            raise UserError(
                f"{KEY} measures at validations, and trainer.check_val_every_n_epoch = {every} leaves none in "
                f"{epochs} epochs. Lower it."
            )

    # -- at a validation ------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Sample and score before the first batch: what is cut off here leaves a checkpoint that is yet to validate."""
        if self.rm_score is not None and not self.trainer.sanity_checking:
            self._table = self._score(self.rm_score)

    def measure(self, loss: float) -> None:
        """Log the scores of the present weights, and remember these if they are the best.

        Args:
            loss: `val/loss`.
        """
        if self.selection is None or self.trainer.sanity_checking:
            return
        metrics = {"val/loss": loss}
        if self.rm_score is not None:
            mean, error = mean_and_error(self._table[:, 0])
            self.log(SCORE, mean, prog_bar=True)
            self.log(SCORE_ERROR, error)
            self.log("val/response_tokens", float(self._table[:, 1].mean()))
            self.log("val/eos_rate", float(self._table[:, 2].mean()))
            # Rounded as callbacks see it, so that they and we choose alike.
            metrics |= {SCORE: _float32(mean), SCORE_ERROR: _float32(error)}
        if self.trainer.state.fn == "fit":
            self.selection.measured(metrics, self.current_epoch + 1, self.global_step)

    def _score(self, rm_score: RMScore) -> Tensor:
        """Score, tokens and end (0 or 1) of the response to each prompt, [N, 3]; a process samples its share."""
        count = len(rm_score.prompts)
        rows = range(self.global_rank, count, self.trainer.world_size)
        with (
            failing_together(self.trainer.strategy),
            self.trainer.precision_plugin.forward_context(),
            self._progress(len(rows) * rm_score.max_response_tokens) as progress,
        ):
            adapter = ADAPTER if self.lora else None
            answers = rm_score.answers(self.backbone, adapter, self.template, self.seed, rows, progress)
        # Each process fills in its own rows, so that the sum does not depend on how many there are.
        table = torch.zeros(count, 3, device=self.device)
        if answers:
            own = [[a.score, float(a.tokens), float(a.ended)] for a in answers]
            table[list(rows)] = torch.tensor(own, device=self.device)
        self._log_samples(answers)
        return self.reduce_sum(table).cpu()

    @contextmanager
    def _progress(self, tokens: int) -> Iterator[Callable[[int], None]]:
        """A bar over the tokens that are sampled; between them the run stops if it was told to."""
        visible = self.trainer.progress_bar_callback is not None and self.trainer.is_global_zero  # type: ignore[attr-defined]
        stops: list[Any] = [c for c in self.trainer.callbacks if isinstance(c, StopOnRequest)]  # type: ignore[attr-defined]
        with tqdm(total=tokens, desc="rm_score", unit=" tokens", leave=False, disable=not visible) as bar:

            def progress(amount: int) -> None:
                bar.update(amount)
                if self.trainer.state.fn == "fit":
                    for stop in stops:
                        stop.check(self.trainer)

            yield progress

    def _log_samples(self, answers: list[Answer]) -> None:
        rows: list[list[Any]] = [[a.prompt, a.response, a.score, a.tokens] for a in answers[:SHOWN]]
        if rows:
            log_text(self, "val/samples", markdown_table(COLUMNS, rows))

    # -- at the end -----------------------------------------------------------------------------------------

    def before_artefact(self) -> None:
        if self.selection is not None and self.trainer.is_global_zero:
            print(self.selection.summary(self._last_metrics()))

    def _last_metrics(self) -> dict[str, float]:
        return super()._last_metrics() | (self.selection.metrics() if self.selection is not None else {})

    @contextmanager
    def selected_weights(self) -> Iterator[None]:
        """Run a block with the weights that belong into `final/`."""
        if self.selection is None:
            yield
            return
        with self.selection.in_place():
            yield


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))
