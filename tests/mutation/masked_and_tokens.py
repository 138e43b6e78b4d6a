"""Mistakes in masked statistics, log-probabilities, packing, sampling and schedules."""

from __future__ import annotations

from tests.mutation.mutation import table

PPO = "tests/references/test_ppo_formulas.py"
TOKENS = "tests/references/test_token_formulas.py"
TWO_PROCESSES = "test_whitening_over_two_processes_is_that_of_all_rows"
PADDED = f"{TOKENS}::test_last_valid_index_and_positions"

MASKED = table(
    "masked.py",
    PPO,
    ("sum without mask", "torch.where(mask, x, x.new_zeros(())).sum()", "x.sum()", "test_masked_moments_and_sums"),
    (
        "sum masked by multiplication",
        "torch.where(mask, x, x.new_zeros(())).sum()",
        "(x * mask).sum()",
        "test_masked_moments_and_sums",
    ),
    (
        "mean over padding",
        "masked_sum(x, mask) / mask.sum().clamp(min=1)",
        "masked_sum(x, mask) / x.numel()",
        "test_masked_moments_and_sums",
    ),
    (
        "mean of nothing",
        "masked_sum(x, mask) / mask.sum().clamp(min=1)",
        "masked_sum(x, mask) / mask.sum()",
        "test_statistics_of_nothing_are_zero",
    ),
    (
        "moments of nothing",
        "reduce(mask.sum().double()).clamp(min=1)",
        "reduce(mask.sum().double())",
        "test_statistics_of_nothing_are_zero",
    ),
    (
        "unbiased variance",
        "reduce(squares.sum()) / count",
        "reduce(squares.sum()) / (count - 1)",
        "test_masked_moments_and_sums",
    ),
    (
        "moments count padding",
        "reduce(mask.sum().double())",
        "reduce(torch.ones_like(mask).sum().double())",
        "test_masked_moments_and_sums",
    ),
    (
        "mask after the square",
        "torch.where(mask, values - mean, 0.0) ** 2",
        "torch.where(mask, (values - mean) ** 2, 0.0)",
        "test_masked_moments_and_sums",
    ),
    (
        "moments in float32",
        "values = x.double()\n    count",
        "values = x.float()\n    count",
        "test_masked_moments_and_sums",
    ),
    ("tokens of one process", "reduce(mask.sum().double())", "mask.sum().double()", TWO_PROCESSES),
    ("mean of one process", "reduce(masked_sum(values, mask))", "masked_sum(values, mask)", TWO_PROCESSES),
    ("variance of one process", "reduce(squares.sum())", "squares.sum()", TWO_PROCESSES),
    ("whitening of one process", "masked_moments(values, mask, reduce)", "masked_moments(values, mask)", TWO_PROCESSES),
    (
        "mean detached from variance",
        "torch.where(mask, values - mean, 0.0) ** 2",
        "torch.where(mask, values - mean.detach(), 0.0) ** 2",
        "test_masked_moments_and_sums",
        "the variance has slope 0 with respect to the mean: deviations from it add up to 0",
    ),
    ("larger epsilon", "torch.rsqrt(var + 1e-8)", "torch.rsqrt(var + 1e-5)", "test_whitening"),
    ("epsilon outside of the root", "torch.rsqrt(var + 1e-8)", "1 / (var.sqrt() + 1e-8)", "test_whitening"),
    ("divided by the variance", "* torch.rsqrt(var + 1e-8)", "/ (var + 1e-8)", "test_whitening"),
    ("shift the wrong way round", "if not shift_mean:", "if shift_mean:", "test_whitening"),
    ("mean in the padding", "torch.where(mask, out + mean, 0.0)", "out + mean", "test_whitening"),
    (
        "padding is whitened",
        "torch.where(mask, values - mean, 0.0) * torch",
        "(values - mean) * torch",
        "test_whitening",
    ),
    (
        "whitening with detached moments",
        "masked_moments(values, mask, reduce)",
        "masked_moments(values.detach(), mask, reduce)",
        "test_whitening",
    ),
    ("whitened to float64", "return out.to(x.dtype)", "return out", "test_moments_are_float64_whatever_comes_in"),
    ("last index off by one", "return width - 1 - mask", "return width - mask", PADDED),
    ("first index for the last", "mask.flip(-1).int().argmax(-1)", "mask.int().argmax(-1)", PADDED),
    (
        "last index without left padding",
        "width - 1 - mask.flip(-1).int().argmax(-1)",
        "mask.sum(-1) - 1 + 0 * width",
        PADDED,
    ),
    ("positions from 1", "(mask.long().cumsum(-1) - 1)", "mask.long().cumsum(-1)", PADDED),
    ("negative positions", "(mask.long().cumsum(-1) - 1).clamp(min=0)", "mask.long().cumsum(-1) - 1", PADDED),
    ("positions count padding", "mask.long().cumsum(-1)", "torch.ones_like(mask).long().cumsum(-1)", PADDED),
)

LENGTH = "test_which_schedules_need_the_length_of_the_run"

ADAM = "tests/references/test_optimizer.py::test_an_update_is_adams"

SCHEDULE = table(
    "schedule.py",
    TOKENS,
    ("betas exchanged", "(self.beta1, self.beta2)", "(self.beta2, self.beta1)", ADAM),
    ("torch's epsilon", "eps=self.eps, ", "", ADAM),
    ("torch's weight decay", "weight_decay=self.weight_decay, ", "", ADAM),
    ("no weight decay", "weight_decay=self.weight_decay, ", "weight_decay=0, ", ADAM),
    ("warmup from 0", "settings.warmup_start + (1", "0 * settings.warmup_start + (1", "test_schedule"),
    ("warmup beyond the peak", "(1 - settings.warmup_start) * step", "1 * step", "test_schedule"),
    ("warmup one step late", "* step / warmup", "* (step - 1) / warmup", "test_schedule"),
    ("one step of warmup is all of it", "if 0 < settings.warmup < 1", "if 0 < settings.warmup <= 1", "test_schedule"),
    ("no cosine needs a length", 'self.name == "cosine" or ', "", LENGTH),
    (
        "no warmup needs a length",
        'return self.name == "cosine" or 0 < self.warmup < 1',
        'return self.name == "cosine"',
        LENGTH,
    ),
    ("no warmup is a fraction", "or 0 < self.warmup < 1", "or self.warmup < 1", LENGTH),
    ("one step of warmup is a fraction", "or 0 < self.warmup < 1", "or 0 < self.warmup <= 1", LENGTH),
    ("fraction as steps", "settings.warmup * total_steps if", "settings.warmup if", "test_schedule"),
    ("cosine ends at 0", "settings.final + (1 - settings.final)", "(1 - settings.final)", "test_schedule"),
    ("half a cosine", "math.pi * progress", "math.pi / 2 * progress", "test_schedule"),
    ("sine", "math.cos(", "math.sin(", "test_schedule"),
    ("cosine during warmup", "(step - warmup) / max(1.0, total_steps - warmup)", "step / total_steps", "test_schedule"),
    ("cosine rises after its end", "min(1.0, (step - warmup)", "min(9.0, (step - warmup)", "test_schedule"),
    ("constant is a cosine", 'if settings.name == "constant"', 'if settings.name == "linear"', "test_schedule"),
)
