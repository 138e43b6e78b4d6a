"""What PPO does around optimizer steps and at the ends of iterations: KL limits, the KL budget and the average."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_lightning.datamodule import StageDataModule
from rlhf_lightning.errors import UserError
from rlhf_lightning.ppo.ema import KEY as EMA_KEY
from rlhf_lightning.ppo.ema import PolicyEMA, weights_for
from rlhf_lightning.ppo.kl_control import KLControl
from rlhf_lightning.ppo.kl_settings import KEY
from rlhf_lightning.ppo.loop import PPOFitLoop
from rlhf_lightning.ppo.policy_evaluation import PolicyEvaluation
from rlhf_lightning.ppo.ptx_update import PtxUpdate
from rlhf_lightning.ppo.roles import Roles
from rlhf_lightning.ppo.update_metrics import UpdateMetrics
from rlhf_lightning.rollouts.settings import KEY as SAMPLING_KEY
from rlhf_lightning.rollouts.settings import SamplingSettings


class PolicySteps(PolicyEvaluation):
    """Skips steps beyond the KL limit, averages weights after steps, and gives up what is beyond the KL budget."""

    roles: Roles
    sampling: SamplingSettings
    kl: KLControl
    ptx: PtxUpdate
    update_metrics: UpdateMetrics

    @property
    def ppo_loop(self) -> PPOFitLoop:
        """The loop of this run.

        Raises:
            UserError: The trainer runs its stock loop.
        """
        if not isinstance(self.trainer.fit_loop, PPOFitLoop):
            raise UserError("PPOModule needs PPOFitLoop; call PPOFitLoop.attach(trainer) if you override setup().")
        return self.trainer.fit_loop

    def control_steps(self, kl: KLControl, ema: PolicyEMA | None) -> None:
        """Take the controls and have their state saved; called by the constructor.

        Args:
            kl: Coefficient, limits and budget.
            ema: The average of the policy's weights, if there is to be one.
        """
        self.kl, self.ema = kl, ema
        self._within_budget: dict[str, Any] = {}
        self.run_state.register("kl", kl.state_dict, kl.load_state_dict)
        if ema is not None:
            self.run_state.register("ema", ema.state_dict, ema.load_state_dict)
        if kl.settings.budget is not None:
            self.run_state.register("kl_budget", lambda: self._within_budget, partial(setattr, self, "_within_budget"))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self._require_measurements()
            if self.sampling.temperature == 0:
                raise UserError(
                    f"{SAMPLING_KEY}.temperature is 0: every prompt has one response then, and PPO has nothing to "
                    "choose from. Set it above 0 (the paper: 1); 0 is for validate, test and predict."
                )

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the policy, by name."""
        own = {id(p) for p in self.roles.trainable_parts()["policy"]}
        return {n: p for n, p in self.trainable().items() if id(p) in own}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.ema is not None:
            self.ema.start()
        if self.kl.settings.budget is not None and not self._within_budget:
            self._keep_policy()

    def _require_measurements(self) -> None:
        """
        Raises:
            UserError: The budget is compared with validations, and there are none, or they are of other weights
                than those exported.
        """
        settings, data = self.kl.settings, getattr(self.trainer, "datamodule", None)
        if settings.budget is None or settings.budget_on != "validation":
            return
        without = isinstance(data, StageDataModule) and data.sources.get("val") is None
        every, last = self.trainer.check_val_every_n_epoch, self.trainer.max_epochs
        never = every is not None and last is not None and 0 <= last < every
        if not self.trainer.enable_validation or without or never:
            raise UserError(
                f"{KEY}.budget_on is validation, and this run has none. Give data.init_args.val, leave "
                "trainer.limit_val_batches above 0 and trainer.check_val_every_n_epoch at most max_epochs, or set "
                f"{KEY}.budget_on to rollout."
            )
        average = self.ema.settings if self.ema is not None else None
        if average is not None and average.evaluate_with != average.export:
            raise UserError(
                f"{KEY}.budget_on is validation, which measures the {average.evaluate_with} weights, and the artefact "
                f"gets the {average.export} ones, whose KL nobody knows. Set {EMA_KEY}.evaluate_with and "
                f"{EMA_KEY}.export to the same."
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["rlhf_lightning"]["state"].get("ema")
        if self.trainer.state.fn != "fit" and self.ema is not None and saved is not None:
            self.ema.load_state_dict(saved["shared"])

    # -- steps ------------------------------------------------------------------------------------------------

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.ptx.measure()
        if self.kl.skips_step(self.reduce_sum):
            for parameter in self.trainable().values():
                parameter.grad = None  # optimizers pass over parameters without one, state included
        super().on_before_optimizer_step(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.update_metrics.commit()
        self.ptx.commit()
        if self.ema is not None and any(p.grad is not None for p in self.trainable().values()):
            self.ema.update()
        if self.kl.exceeded:
            self._put_policy_back()

    # -- the budget -------------------------------------------------------------------------------------------

    def rollout_measured(self, metrics: Mapping[str, float], iteration: int) -> None:
        """What follows from the KL of an iteration's rollout.

        Args:
            metrics: The `rollout/*` metrics, over all processes.
            iteration: From 0.
        """
        if (kl := metrics.get("rollout/kl")) is not None:
            self.kl.measured(kl, self.ppo_loop.plan.num_rows)
            self.check_budget("rollout", kl, f"in the rollout of iteration {iteration}", metrics)

    def check_budget(self, where: str, kl: float, when: str, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the policy if its KL is within the budget; end the run if not.

        Args:
            where: "rollout" or "validation".
            kl: Nats per response.
            when: For the message.
            metrics: Of the policy, as far as they are not logged yet.
        """
        within = self.kl.within_budget(where, kl, when)
        if within:
            self._keep_policy(metrics)
        elif within is False and self.trainer.is_global_zero:
            print(f"\n{self.kl.exceeded}", flush=True)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        wanted = self.kl.settings.budget is not None and self.kl.settings.budget_on == "validation"
        if wanted and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            kl = float(self.trainer.callback_metrics["val/kl"])
            self.check_budget("validation", kl, f"in the validation after step {self.trainer.global_step}")

    def end_if_over_budget(self) -> None:
        """At an iteration's end: the run goes no further."""
        if self.kl.exceeded:
            self._put_policy_back()
            self.trainer.should_stop = True

    def _last_metrics(self) -> dict[str, float]:
        """Of the policy that the artefact gets: those of one that was given up are in the logs alone."""
        kept = self._within_budget.get("metrics") if self.kl.exceeded else None
        return super()._last_metrics() if kept is None else dict(kept)

    def _keep_policy(self, metrics: Mapping[str, float] | None = None) -> None:
        def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}

        self._within_budget["weights"] = copies(dict(self.policy_parameters()))
        if self.ema is not None:
            self._within_budget["ema"] = copies(self.ema.state_dict()["average"])
        self._within_budget["metrics"] = self._last_metrics() | dict(metrics or {})

    @torch.no_grad()
    def _put_policy_back(self) -> None:
        for name, parameter in self.policy_parameters().items():
            parameter.copy_(self._within_budget["weights"][name])
        if self.ema is not None:
            self.ema.load_state_dict({"average": self._within_budget["ema"]})
            self.ema.start()

    # -- artefact ---------------------------------------------------------------------------------------------

    def write_artefact(self, directory: Path) -> None:
        with weights_for(self.ema, "export"):
            super().write_artefact(directory)
