"""Mistakes in the selection of an SFT checkpoint."""

from __future__ import annotations

from tests.mutation.mutation import table

BEST, LAST = "test_the_best_validation", "test_last_keeps_nothing_but_the_record"
ERROR, MEAN = "test_weights_come_back_after_an_error", "test_mean_and_standard_error"
NOTHING = "test_a_run_without_a_finite_score_keeps_its_last_weights"

SELECTION = table(
    "sft/selection.py",
    "tests/sft/test_selection.py",
    ("always by the loss", 'SCORE if self.settings.by == "rm_score" else "val/loss"', '"val/loss"', BEST),
    ("what is not finite is best", "not math.isfinite(value) or (", "(", BEST),
    ("only the first", "and not self._better(value, best)", "", BEST),
    ("the last is best", "and not self._better(value, best)", "and False", BEST),
    ("the last of equals", "value > than if", "value >= than if", BEST),
    ("the worst score", "value > than if", "value < than if", BEST),
    ("the largest loss", "else value < than", "else value > than", BEST),
    ("weights change with the trained ones", 'p.detach().to("cpu", copy=True)', "p.detach()", BEST),
    ("weights are always kept", 'if self.settings.keep == "best":', "if True:", LAST),
    ("weights are never kept", 'if self.settings.keep == "best":', "if False:", BEST),
    ("no record", 'f"best/{name}": value for name, value in self._best.items()', "", BEST),
    ("the trained weights", "parameter.copy_(self._weights[name])", "pass", BEST),
    ("trained weights are lost", "parameter.copy_(trained[name])", "pass", ERROR),
    ("a copy that is none", "n: p.detach().clone() for n, p in parameters", "n: p for n, p in parameters", ERROR),
    ("in words, without a best", "if not self._best:", "if False:", NOTHING),
    ("the median", "float(scores.mean())", "float(scores.median())", MEAN),
    ("the spread", "float(scores.std() / len(scores) ** 0.5)", "float(scores.std())", MEAN),
    ("of a population", "scores.std() /", "scores.std(correction=0) /", MEAN),
    (
        "settings that go unnoticed",
        'k not in ("reward_from", "prompts")',
        'k in ("reward_from", "prompts")',
        "test_what_a_resumed_run_compares",
    ),
)
