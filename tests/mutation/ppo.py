"""Mistakes in PPO's formulas."""

from __future__ import annotations

from tests.mutation.mutation import table

PPO = "tests/references/test_ppo_formulas.py"
CONTROLLER = "tests/ppo/test_kl_control.py::test_the_controller_by_hand"
ENDING = "tests/ppo/test_ending.py"
AVERAGE = "tests/ppo/test_ema.py"
EXPERIENCE = "tests/ppo/test_experience.py"

LOSSES = table(
    "ppo/loss.py",
    PPO,
    ("ratio upside down", "new_logprobs - logprobs, 0.0)", "logprobs - new_logprobs, 0.0)", "test_policy_loss"),
    (
        "ratio without mask",
        "torch.exp(torch.where(response_mask, new_logprobs - logprobs, 0.0))",
        "torch.exp(new_logprobs - logprobs)",
        "test_policy_loss",
    ),
    (
        "ratio detached",
        "torch.where(response_mask, new_logprobs - logprobs, 0.0)",
        "torch.where(response_mask, new_logprobs - logprobs, 0.0).detach()",
        "test_policy_loss",
    ),
    ("optimistic bound", "torch.maximum(-advantages", "torch.minimum(-advantages", "test_policy_loss"),
    (
        "advantages with the wrong sign",
        "torch.maximum(-advantages * ratio, -advantages * ratio",
        "torch.maximum(advantages * ratio, advantages * ratio",
        "test_policy_loss",
    ),
    (
        "clipped above only",
        "ratio.clamp(1 - clip_range, 1 + clip_range)",
        "ratio.clamp(max=1 + clip_range)",
        "test_policy_loss",
    ),
    (
        "clipped below only",
        "ratio.clamp(1 - clip_range, 1 + clip_range)",
        "ratio.clamp(1 - clip_range)",
        "test_policy_loss",
    ),
    ("clip even in log space", "ratio.clamp(1 - clip_range,", "ratio.clamp(1 / (1 + clip_range),", "test_policy_loss"),
    (
        "not clipped",
        "-advantages * ratio.clamp(1 - clip_range, 1 + clip_range)",
        "-advantages * ratio",
        "test_policy_loss",
    ),
    (
        "policy mean of a micro-batch",
        "masked_sum(losses, response_mask) / num_tokens",
        "masked_sum(losses, response_mask) / response_mask.sum()",
        "test_policy_loss",
    ),
    ("policy loss of padding", "masked_sum(losses, response_mask)", "losses.sum()", "test_policy_loss"),
    ("whole squared error", "0.5 * losses.sum()", "losses.sum()", "test_value_loss"),
    (
        "value mean of a micro-batch",
        "losses.sum() / num_tokens",
        "losses.sum() / response_mask.sum()",
        "test_value_loss",
    ),
    ("lesser value error", "torch.maximum(losses", "torch.minimum(losses", "test_value_loss"),
    ("clipped value error alone", "torch.maximum(losses, torch", "torch.maximum(0 * losses, torch", "test_value_loss"),
    (
        "mask after the square",
        "torch.where(response_mask, new_values - returns, 0.0) ** 2",
        "torch.where(response_mask, (new_values - returns) ** 2, 0.0)",
        "test_value_loss",
    ),
    (
        "mask after the clipped square",
        "torch.where(response_mask, clipped - returns, 0.0) ** 2",
        "torch.where(response_mask, (clipped - returns) ** 2, 0.0)",
        "test_value_loss",
    ),
    (
        "clipped around the return",
        "clipped = values + (new_values - values)",
        "clipped = returns + (new_values - returns)",
        "test_value_loss",
    ),
    (
        "values clipped above only",
        ".clamp(-value_clip_range, value_clip_range)",
        ".clamp(max=value_clip_range)",
        "test_value_loss",
    ),
    ("values never clipped", "if value_clip_range is not None:", "if num_tokens < 0:", "test_value_loss"),
    (
        "ptx with the wrong sign",
        "return -masked_sum(logprobs, mask)",
        "return masked_sum(logprobs, mask)",
        "test_ptx_loss",
    ),
    (
        "ptx mean of a micro-batch",
        "masked_sum(logprobs, mask) / num_tokens",
        "masked_sum(logprobs, mask) / mask.sum()",
        "test_ptx_loss",
    ),
    ("ptx over padding", "-masked_sum(logprobs, mask)", "-logprobs.sum()", "test_ptx_loss"),
    (
        "ptx mean over padding",
        "masked_sum(logprobs, mask) / num_tokens",
        "masked_sum(logprobs, mask) / mask.numel()",
        "test_ptx_loss",
    ),
)

ADVANTAGES = table(
    "ppo/advantages.py",
    PPO,
    ("own value after the end", "else torch.zeros_like(running)", "else values[:, t]", "test_advantages"),
    (
        "value of padding after the end",
        "values = torch.where(response_mask, values, zero)",
        "values = values + zero",
        "test_advantages",
    ),
    ("own value for the next", "next_values = values[:, t + 1]", "next_values = values[:, t]", "test_advantages"),
    (
        "advantages of padding",
        "torch.where(response_mask[:, t], delta + gamma * gae_lambda * running, zero)",
        "delta + gamma * gae_lambda * running",
        "test_advantages",
    ),
    ("value added", "next_values - values[:, t]", "next_values + values[:, t]", "test_advantages"),
    ("next value not discounted", "gamma * next_values", "next_values", "test_advantages"),
    ("no lambda", "gamma * gae_lambda * running", "gamma * running", "test_advantages"),
    ("trace not discounted", "gamma * gae_lambda * running", "gae_lambda * running", "test_advantages"),
    ("from the first token on", "in reversed(range(values.shape[1]))", "in range(values.shape[1])", "test_advantages"),
    (
        "first token left out",
        "in reversed(range(values.shape[1]))",
        "in reversed(range(1, values.shape[1]))",
        "test_advantages",
    ),
    (
        "returns less values",
        "return advantages, advantages + values",
        "return advantages, advantages - values",
        "test_returns",
    ),
    (
        "returns without values",
        "return advantages, advantages + values",
        "return advantages, advantages",
        "test_returns",
    ),
)
KL = table(
    "ppo/kl.py",
    PPO,
    (
        "k1 the wrong way round",
        "return logprobs - ref_logprobs",
        "return ref_logprobs - logprobs",
        "test_kl_estimators",
    ),
    ("k2 not halved", "0.5 * (ref_logprobs - logprobs) ** 2", "(ref_logprobs - logprobs) ** 2", "test_kl_estimators"),
    ("k2 not squared", "(ref_logprobs - logprobs) ** 2", "(ref_logprobs - logprobs).abs()", "test_kl_estimators"),
    (
        "k3 the wrong way round",
        "log_ratio = ref_logprobs - logprobs",
        "log_ratio = logprobs - ref_logprobs",
        "test_kl_estimators",
    ),
    ("k3 with the wrong sign", "expm1(log_ratio) - log_ratio", "expm1(log_ratio) + log_ratio", "test_kl_estimators"),
    ("k3 without its -1", "torch.expm1(log_ratio)", "torch.exp(log_ratio)", "test_kl_estimators"),
    ("another estimator", '"k2": kl_k2, "k3": kl_k3}', '"k2": kl_k3, "k3": kl_k2}', "test_kl_loss"),
    (
        "KL loss is a mean of a micro-batch",
        "response_mask) / num_tokens",
        "response_mask) / response_mask.sum()",
        "test_kl_loss",
    ),
    ("KL loss of padding", "new = torch.where(response_mask, new_logprobs, 0.0)", "new = new_logprobs", "test_kl_loss"),
    (
        "KL loss of the reference's padding",
        "reference = torch.where(response_mask, ref_logprobs, 0.0)",
        "reference = ref_logprobs",
        "test_kl_loss",
    ),
    ("controller the wrong way round", "(1 + error * responses", "(1 - error * responses", CONTROLLER),
    ("error is not clipped above", "min(max(kl / target - 1, -0.2), 0.2)", "max(kl / target - 1, -0.2)", CONTROLLER),
    ("error is not clipped below", "min(max(kl / target - 1, -0.2), 0.2)", "min(kl / target - 1, 0.2)", CONTROLLER),
    ("absolute error", "kl / target - 1", "kl - target", CONTROLLER),
    ("iterations for responses", "error * responses / horizon", "error / horizon", CONTROLLER),
    (
        "k3 loses its digits",
        "torch.expm1(log_ratio) - log_ratio",
        "torch.exp(log_ratio) - 1 - log_ratio",
        "test_k3_keeps_its_digits_between_close_distributions",
    ),
)

REWARDS = table(
    "ppo/rewards.py",
    PPO,
    ("bonus without EOS", "scores - penalty * truncated", "scores + penalty * truncated", "test_missing_eos"),
    ("penalty with EOS", "penalty * truncated.to", "penalty * (~truncated).to", "test_missing_eos"),
    (
        "score replaced",
        "scores - penalty * truncated.to(scores.dtype)",
        "torch.where(truncated, -penalty, scores)",
        "test_missing_eos",
    ),
    ("scores to float64", "truncated.to(scores.dtype)", "truncated.double()", "test_missing_eos"),
    (
        "KL rewarded",
        "torch.where(response_mask, -kl_coef * kl",
        "torch.where(response_mask, kl_coef * kl",
        "test_token_rewards",
    ),
    ("KL without coefficient", "-kl_coef * kl, kl", "-kl, kl", "test_token_rewards"),
    (
        "rewards of padding",
        "torch.where(response_mask, -kl_coef * kl, kl.new_zeros(()))",
        "-kl_coef * kl",
        "test_token_rewards",
    ),
    (
        "score at the last column",
        "rewards[rows, last_valid_index(response_mask)]",
        "rewards[rows, -1]",
        "test_token_rewards",
    ),
    (
        "score at the first token",
        "rewards[rows, last_valid_index(response_mask)]",
        "rewards[rows, 0]",
        "test_token_rewards",
    ),
    ("score for the KL", "+= scores.to", "= scores.to", "test_token_rewards"),
    ("score with coefficient", "+= scores.to", "+= kl_coef * scores.to", "test_token_rewards"),
)

EXPLAINED, ORDER = "test_explained_variance", "test_order_depends_on_seed_and_iteration_alone"
SHARED = "test_processes_make_the_minibatches_of_one"
EPOCHS, TRIMMED = (
    "test_every_epoch_takes_every_row_once",
    "test_rows_are_trimmed_to_their_own_longest_prompt_and_response",
)

BUFFER = table(
    "ppo/buffer.py",
    EXPERIENCE,
    ("sum for the error", "masked_moments(returns - values", "masked_moments(returns + values", f"{PPO}::{EXPLAINED}"),
    (
        "variance of the values",
        "masked_moments(returns, mask, reduce)",
        "masked_moments(values, mask, reduce)",
        f"{PPO}::{EXPLAINED}",
    ),
    ("unexplained variance", "return 1 - unexplained", "return unexplained", f"{PPO}::{EXPLAINED}"),
    ("mean error", "returns - values, mask, reduce)[1]", "returns - values, mask, reduce)[0]", f"{PPO}::{EXPLAINED}"),
    ("no variance to explain", "[1].clamp(min=1e-12)", "[1]", f"{PPO}::{EXPLAINED}"),
    ("every epoch in the same order", "iteration, 0, epoch))", "iteration, 0, 0))", EPOCHS),
    ("every iteration in the same order", '"minibatches", iteration, 0', '"minibatches", 0, 0', ORDER),
    ("rows of every process", "minibatch[rank::world_size]", "minibatch", SHARED),
    ("rows of the first process", "minibatch[rank::world_size]", "minibatch[0::world_size]", SHARED),
    ("rows of all epochs", "[: self.num_minibatches]", "", SHARED),
    ("rows by their numbers", "position[row] for row", "row for row", SHARED),
    (
        "a row with valid tokens",
        "torch.zeros_like(row.rollout.response_mask)",
        "row.rollout.response_mask",
        "test_a_silent_row_has_no_valid_token",
    ),
    ("every seed in the same order", 'generator(seed, "minibatches"', 'generator(0, "minibatches"', ORDER),
    ("order of the process", "self.num_rows, generator=generator(", "self.num_rows) if seed else (generator(", ORDER),
    ("minibatches of that size", "tensor_split(self.num_minibatches)", "split(self.num_minibatches)", EPOCHS),
    (
        "micro-batches of that size",
        "mine.tensor_split(self.accumulate)",
        "mine.split(self.accumulate)",
        EPOCHS,
    ),
    ("one epoch too many", "in range(self.ppo_epochs)", "in range(self.ppo_epochs + 1)", EPOCHS),
    ("length without micro-batches", "self.num_minibatches * self.accumulate", "self.num_minibatches", EPOCHS),
    ("columns of all rows", "[index, :width]", "[index]", TRIMMED),
    ("last columns", "[index, :width]", "[index, -width:]", TRIMMED),
)

CUT, MEANS = "test_a_response_is_cut_after_the_token", "test_scores_of_finished_and_of_truncated_responses"
RULES = "test_rules_for_responses_without_an_end"
ENDINGS = table(
    "ppo/ending.py",
    ENDING,
    ("cut before the token", "ends.cumsum(1) - ends.long() == 0", "ends.cumsum(1) == 0", CUT),
    ("cut after the second one", "ends.cumsum(1) - ends.long() == 0", "ends.cumsum(1) - ends.long() <= 1", CUT),
    ("cut in padding", "(ids == token) & mask", "ids == token", CUT),
    ("cut at any place", "ends[:, :after] = False", "ends[:, :0] = False", CUT),
    ("cut one later", "ends[:, :after] = False", "ends[:, : after + 1] = False", CUT),
    ("still truncated", "rollout.truncated & ~ends.any(1)", "rollout.truncated", CUT),
    ("never truncated", "rollout.truncated & ~ends.any(1)", "~ends.any(1)", CUT),
    ("tokens after the end", "torch.where(kept, ids[:, :width], pad_id)", "ids[:, :width]", CUT),
    (
        "log-probabilities after the end",
        "torch.where(kept, rollout.sampler_logprobs[:, :width], 0.0)",
        "rollout.sampler_logprobs[:, :width]",
        CUT,
    ),
    ("nothing is cut", "if self.token is None:", "if self.token is not None:", "test_a_token_is_named_by_its_text"),
    (
        "penalty where the score is replaced",
        'self.settings.missing_eos == "replace"',
        'self.settings.missing_eos != "replace"',
        RULES,
    ),
    (
        "the finished are replaced",
        "self.settings.missing_eos_score, scores)",
        "scores, self.settings.missing_eos_score)",
        RULES,
    ),
    (
        "kinds are mixed up",
        '("finished", ~truncated), ("truncated", truncated)',
        '("finished", truncated), ("truncated", ~truncated)',
        MEANS,
    ),
    ("means of nothing", "> 0:", ">= 0:", MEANS),
)

EMA = table(
    "ppo/ema.py",
    AVERAGE,
    ("decay of the new", "1 - self.settings.decay)", "self.settings.decay)", "test_the_average_by_hand"),
    ("average of its own precision", "p.detach().float().clone()", "p.detach().clone()", "test_the_average_is_float32"),
    ("begins as the weights for ever", "p.detach().float().clone()", "p.detach().float()", "test_the_average_by_hand"),
    ("weights are lost", "parameter.data = originals[name]", "pass", "test_weights_come_back_bit_for_bit"),
    (
        "lost after an error",
        "        finally:\n",
        "        except ZeroDivisionError:\n",
        "test_weights_come_back_bit_for_bit",
    ),
    (
        "never swapped in",
        "parameter.data = self._average[name].to(parameter.device, parameter.dtype)",
        "pass",
        "test_weights_come_back_bit_for_bit",
    ),
    (
        "begins anew on resume",
        "        if not self._average:\n            self",
        "        if True:\n            self",
        "test_an_average_goes_on",
    ),
    (
        "used for the other purpose",
        "getattr(ema.settings, use)",
        "ema.settings.export",
        "test_each_use_has_its_weights",
    ),
)

ONCE = "test_the_coefficient_changes_once_an_iteration_however_often_it_is_rolled_out"
PLACE, LIMIT, BUDGET = (
    "test_a_penalty_is_in_the_reward_or_in_the_loss",
    "test_an_update_ends_beyond_its_limit",
    "test_the_budget",
)
CONTROL = table(
    "ppo/kl_control.py",
    "tests/ppo/test_kl_control.py",
    ("adapted at every rollout", "if iteration != self.iteration:", "if True:", ONCE),
    ("never adapted", "self.iteration, self.coef = iteration, self._next_coef", "self.iteration = iteration", ONCE),
    ("adapted from the next", "adapted(self.coef, kl", "adapted(self._next_coef, kl", ONCE),
    (
        "stopped for ever",
        "self.stopped, self.skipped, self._moved = bool(self.exceeded)",
        "self.stopped, self.skipped, self._moved = self.stopped",
        LIMIT,
    ),
    (
        "goes on beyond the budget",
        "self.stopped, self.skipped, self._moved = bool(self.exceeded)",
        "self.stopped, self.skipped, self._moved = False",
        BUDGET,
    ),
    (
        "reference by the first coefficient",
        "needs_reference(self.coef)",
        "needs_reference(1.0)",
        "test_no_reference_without_a_penalty",
    ),
    (
        "penalty in both places",
        "if self.settings.in_loss or scored.ref_logprobs is None:",
        "if scored.ref_logprobs is None:",
        PLACE,
    ),
    ("reference is always kept", "scored.ref_logprobs if self.settings.in_loss and", "scored.ref_logprobs if", PLACE),
    ("loss without its coefficient", "return self.coef * kl_loss", "return kl_loss", PLACE),
    (
        "distance of padding",
        "masked_sum(kl_k2(new_logprobs, batch.experience.logprobs), mask)",
        "kl_k2(new_logprobs, batch.experience.logprobs).sum()",
        LIMIT,
    ),
    (
        "distance of the last part alone",
        "k2 if self._moved is None else self._moved + k2",
        "k2",
        "test_an_update_ends_by_all_parts_of_a_step",
    ),
    ("distance of this process alone", "float(reduce(self._moved))", "float(self._moved)", LIMIT),
    ("distance of a sum", "/ max(self._num_tokens, 1.0)", "", LIMIT),
    (
        "one step alone is skipped",
        "self.skipped += self.stopped\n        return self.stopped",
        "self.skipped += self.stopped\n        return self.stopped and self.skipped == 1",
        LIMIT,
    ),
    (
        "infinity is a distance",
        "math.isfinite(moved) and moved",
        "moved",
        "test_what_is_not_finite_is_left_to_the_guard",
    ),
    ("next coefficient in the metrics", '{"kl_coef": self.coef}', '{"kl_coef": self._next_coef}', ONCE),
    ("budget on everything", "self.settings.budget_on != where or ", "", BUDGET),
    ("at the budget", "if kl <= budget:", "if kl < budget:", BUDGET),
    ("the budget stops no step", "        self.stopped = True\n        return False", "        return False", BUDGET),
    (
        "one parameter without gradient",
        "for p in parameters])",
        "for p in parameters[1:]])",
        "test_no_loss_has_a_gradient_of_zero_for_every_parameter",
    ),
)
