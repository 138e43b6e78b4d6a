"""Mistakes in the reward model's loss and metrics."""

from __future__ import annotations

from tests.mutation.mutation import table

RANKING = "tests/references/test_ranking_formulas.py"
BY_HAND = "tests/reward/test_ranking_loss.py"
METRICS = "test_metrics_of_several_batches"
WEIGHT = "(counts.to(scores.dtype) * (num_prompts or len(prompts)))"
RESET = f"{BY_HAND}::test_metrics_start_again_after_they_were_computed"

PAIRS_AND_LOSS = table(
    "reward/loss.py",
    RANKING,
    ("worse preferred", "ranks.unsqueeze(1) < ranks", "ranks.unsqueeze(1) > ranks", "test_ranking_loss"),
    ("ties compared", "ranks.unsqueeze(1) < ranks", "ranks.unsqueeze(1) <= ranks", "test_ranking_loss"),
    ("across prompts", "& (prompt.unsqueeze(1) == prompt.unsqueeze(0))", "", "test_ranking_loss"),
    (
        "pairs of a response",
        "Pairs(better, worse, prompt[better])",
        "Pairs(better, worse, better)",
        "test_ranking_loss",
    ),
    ("loss with the wrong sign", "-F.logsigmoid(", "F.logsigmoid(", "test_ranking_loss"),
    (
        "margin the wrong way round",
        "scores[pairs.better] - scores[pairs.worse]",
        "scores[pairs.worse] - scores[pairs.better]",
        "test_ranking_loss",
    ),
    ("better one detached", "scores[pairs.better] -", "scores[pairs.better].detach() -", "test_ranking_loss"),
    (
        "every pair the same weight",
        WEIGHT,
        "len(pairs.prompt)",
        "test_ranking_loss",
    ),
    (
        "sum over prompts",
        WEIGHT,
        "counts.to(scores.dtype)",
        "test_ranking_loss",
    ),
    (
        "sum over pairs",
        WEIGHT,
        "len(prompts)",
        "test_ranking_loss",
    ),
    ("prompts without pairs count", "or len(prompts)))", "or len(weight)))", "test_ranking_loss"),
    (
        "a part by its own prompts",
        "(num_prompts or len(prompts))",
        "len(prompts)",
        f"{BY_HAND}::test_parts_of_a_step_add_up_to_the_whole",
    ),
    ("mean of weighted losses", "weight[pairs.prompt]).sum()", "weight[pairs.prompt]).mean()", "test_ranking_loss"),
    (
        "logarithm of 0",
        "-F.logsigmoid(scores[pairs.better] - scores[pairs.worse])",
        "-torch.log(torch.sigmoid(scores[pairs.better] - scores[pairs.worse]))",
        f"{BY_HAND}::test_a_score_far_below_the_other_gives_a_finite_loss_and_a_gradient_of_one",
    ),
)

PAIR_METRICS = table(
    "reward/metrics.py",
    RANKING,
    ("equal scores are right", "(margins > 0)", "(margins >= 0)", f"{BY_HAND}::test_equal_scores_are_wrong"),
    ("margin above 1 is right", "(margins > 0)", "(margins > 1)", METRICS),
    (
        "margin the wrong way round",
        "scores[pairs.better] - scores[pairs.worse]",
        "scores[pairs.worse] - scores[pairs.better]",
        METRICS,
    ),
    ("margin without sign", "self.margin.update(margins)", "self.margin.update(margins.abs())", METRICS),
    ("one order of each pair", "torch.sigmoid(-margins)])", "torch.sigmoid(margins)])", METRICS),
    ("all pairs won", "torch.zeros_like(right)]", "torch.ones_like(right)]", METRICS),
    ("largest bin error", 'norm="l1"', 'norm="max"', METRICS),
    ("number of bins", "bins: int = 10", "bins: int = 15", METRICS),
    ("K of decided pairs", "torch.bincount(prompt)", "torch.bincount(pairs.prompt)", METRICS),
    ("right pairs of all K", "weights=right.float(), ", "", METRICS),
    ("largest K left out", "range(2, self.max_k + 1)", "range(2, self.max_k)", METRICS),
    ("K that nobody saw", "if pairs[k] > 0", "if pairs[k] >= 0", METRICS),
    ("last batch only", "self.total = self.total + x", "self.total = x", METRICS),
    ("no sum", "return self.total", "return self.total * 0", METRICS),
    ("per-K accuracy is kept", "self.ece, self.right, self.pairs):", "self.ece):", RESET),
    ("accuracy is kept", "for metric in (self.accuracy, self", "for metric in (self", RESET),
)
