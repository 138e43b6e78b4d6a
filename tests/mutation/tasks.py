"""Mistakes in what task evaluations measure."""

from __future__ import annotations

from tests.mutation.mutation import table

MATCHING = "tests/evaluation/tasks/test_matching.py"
RESAMPLING = "tests/evaluation/tasks/test_resampling.py"
PAIRS = "tests/evaluation/test_token_pairs.py"
HAND, DROP = "test_squad_by_hand_and_by_torchmetrics", "test_drop_by_hand"
NO_ANSWER = "test_a_question_without_an_answer_is_right_or_wrong_as_a_whole"
EVERY = "test_every_token_is_predicted_from_the_one_before_it"

SQUAD = table(
    "evaluation/tasks/squad_matching.py",
    MATCHING,
    ("case matters", "answer.lower().translate", "answer.translate", HAND),
    ("an article stays", r"\b(a|an|the)\b", r"\b(an|the)\b", "test_squad_is_torchmetrics"),
    ("inside is a match", "normalised(answer) == normalised(truth)", "normalised(truth) in normalised(answer)", HAND),
    ("words count once", "(Counter(ours) & Counter(theirs)).total()", "len(set(ours) & set(theirs))", HAND),
    ("precision", "2 * shared / (len(ours) + len(theirs))", "shared / len(ours)", HAND),
    ("the last truth", "max(f1(answer, t) for t in accepted)", "f1(answer, accepted[-1])", HAND),
    ("silence is never right", 'or [""]', 'or ["x"]', NO_ANSWER),
)

DROPS = table(
    "evaluation/tasks/drop_matching.py",
    MATCHING,
    ("the first person", "max(s[1] for s in scores)", "scores[0][1]", DROP),
    ("order of spans", "set(ours) == set(theirs)", "ours == theirs", DROP),
    ("spans without a partner", "max(len(ours), len(theirs))", "len(ours)", DROP),
    ("hyphens join", 're.split(r"[ -]", span)', 're.split(r"[ ]", span)', DROP),
    ("numbers as they are written", "word = str(float(word))", "word = word.strip()", DROP),
    ("no number", "float(word)\n    except", "int(word)\n    except", DROP),
    ("numbers may differ", "if numbers and not numbers & ours:", "if numbers and not ours:", DROP),
    ("greedy pairs", "slack[j] -= step", "slack[j] -= 0", "test_the_best_assignment_is_the_best_of_all"),
)

ESTIMATES = table(
    "evaluation/tasks/resampling.py",
    RESAMPLING,
    (
        "ratio upside down",
        "sums[..., 0] / sums[..., -1]",
        "sums[..., -1] / sums[..., 0]",
        "test_a_ratio_is_of_sums_and_not_a_mean_of_ratios",
    ),
    (
        "items without a value count",
        "None if value is None else (float(value), 1.0)",
        "(float(value or 0), 1.0)",
        "test_a_ratio_is_of_sums_and_not_a_mean_of_ratios",
    ),
    ("a narrow interval", "[0.025, 0.975]", "[0.05, 0.95]", "test_a_mean_has_the_interval_of_the_project"),
    (
        "fewer draws",
        "random.integers(count, size=count)",
        "random.integers(count, size=count // 2)",
        "test_a_mean_has_the_interval_of_the_project",
    ),
)

TOKEN_PAIRS = table(
    "evaluation/token_pairs.py",
    PAIRS,
    (
        "the end of a context is cut",
        "self.context[-(limit - len(continuation) + 1) :]",
        "self.context[: limit - len(continuation) + 1]",
        "test_what_fits",
    ),
    (
        "one token too few fits",
        "len(self.context) + len(self.continuation) - 1 <= limit",
        "len(self.context) + len(self.continuation) <= limit",
        "test_what_fits",
    ),
    (
        "no token is left to predict",
        "min(len(context), len(whole) - 1)",
        "min(len(context), len(whole))",
        "test_where_a_continuation_begins",
    ),
    ("windows start anew", "ids[begin - 1] if begin else start", "start", "test_windows_cover_a_document"),
    ("batches too large", "size + tokens > max_tokens", "size > max_tokens", EVERY),
    ("after itself", "own[:, :-1]], 1)[mask]", "own[:, 1:]], 1)[mask]", EVERY),
    (
        "one token late",
        "len(ids) + len(pair.context) - 1, len(ids)",
        "len(ids) + len(pair.context), len(ids) + 1",
        EVERY,
    ),
    ("padding is read", "torch.arange(width) < torch.tensor", "torch.arange(width) <= torch.tensor", EVERY),
)

STOPS = table(
    "rollouts/decoding.py",
    "tests/evaluation/test_language_model.py",
    (
        "stops do not stop",
        "self.alive.logical_and_(~self.stops[token])",
        "self.alive.logical_or_(self.stops[token])",
        "test_a_stop_string_ends_a_continuation_and_its_decoding",
    ),
)
