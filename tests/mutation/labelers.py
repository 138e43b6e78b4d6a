"""Mistakes in accuracies by slice, in agreement between labelers, and in who is held out of what."""

from __future__ import annotations

from tests.mutation.mutation import table

BY_HAND = "test_by_hand"
RESAMPLED = "test_errors_are_those_of_resampled_prompts"
LIBRARIES = "test_kappa_and_alpha_are_those_of_libraries"
AGAIN = "test_a_labeler_who_ranks_again_counts_once_and_equal_texts_are_not_compared"
APART = "test_no_prompt_and_no_held_out_labeler_is_trained_on"
SLICES = "test_slices_cover_everything_and_name_what_has_no_label"

PAIR_ACCURACY = table(
    "pair_accuracy.py",
    "tests/test_pair_accuracy.py",
    ("equal scores are right", "s[:, None] > s[None, :]", "s[:, None] >= s[None, :]", BY_HAND),
    ("ties are decided", "r[:, None] < r[None, :]", "r[:, None] <= r[None, :]", BY_HAND),
    (
        "every ranking a prompt",
        "numbers.setdefault(p, len(numbers)) for p in prompts",
        "i for i, p in enumerate(prompts)",
        BY_HAND,
    ),
    (
        "prompts are not chosen",
        "self.pairs[chosen], self.prompt[chosen]",
        "self.pairs[chosen], self.prompt[:1]",
        RESAMPLED,
    ),
    ("half", "combination([(1.0, counts)])", "combination([(0.5, counts)])", BY_HAND),
    ("no weights", "value += weight * share", "value += share", RESAMPLED),
    ("error of the sum", "influence += weight *", "influence +=", RESAMPLED),
    ("rankings are independent", "np.bincount(own, ", "np.bincount(np.arange(len(own)) % len(prompts), ", RESAMPLED),
    ("mean of rankings", "part.right - share * part.pairs", "part.right - share", RESAMPLED),
    ("few prompts", "used / (used - 1)", "1.0", BY_HAND),
    (
        "no label is a slice like others",
        "for name in labels if name is not None",
        "for name in labels if name",
        "test_an_empty_name_is_a_name",
    ),
    ("slices without pairs", "if own.pairs.sum()}", "}", SLICES),
    (
        "error of one prompt",
        '"{self.value:.3f}" if self.error is None',
        '"{self.value:.2f}" if self.error is None',
        "test_estimates_as_text",
    ),
)

AGREEMENT = table(
    "data/agreement.py",
    "tests/data/test_agreement.py",
    ("nobody is somebody", "if labeler is None:", "if labeler is False:", BY_HAND),
    (
        "in the order of the row",
        "combinations(sorted(ranked), 2)",
        "combinations(ranked, 2)",
        "test_order_of_responses_and_rankings_means_nothing",
    ),
    ("equal texts are compared", "if a[0] == b[0]:", "if a == b:", AGAIN),
    ("the last judgement counts", "judged.setdefault(labeler, ", "judged.__setitem__(labeler, ", AGAIN),
    (
        "the better one is worse",
        "(rank_a < rank_b) - (rank_a > rank_b)",
        "(rank_a < rank_b) - (rank_a >= rank_b)",
        BY_HAND,
    ),
    ("judged alone", "if len(judged) > 1]", "if len(judged) > 0]", BY_HAND),
    ("ties agree", "a == b != 0", "a == b", "test_pairwise_agreement_counts_pairs_that_both_decided"),
    ("first one's ties", "row[4] += a == 0", "row[4] += b == 0", LIBRARIES),
    ("items by m", "/ (len(values) - 1)", "/ len(values)", LIBRARIES),
    ("chance of ties alone", "(1 - a) * (1 - b) / 2", "(1 - a) * (1 - b)", LIBRARIES),
    ("alpha of a large sample", "(judgements - 1) * apart", "judgements * apart", LIBRARIES),
    ("alpha in one order", "(judgements - ties) ** 2 / 2", "(judgements - ties) ** 2", LIBRARIES),
    ("all items", "_share(totals[:, 3], totals[:, 2])", "_share(totals[:, 3], totals[:, 0])", BY_HAND),
    ("decided ones", "_share(totals[:, 1], totals[:, 0])", "_share(totals[:, 1], totals[:, 2])", BY_HAND),
    ("nothing of nothing", "np.full(part.shape, np.nan)", "np.zeros(part.shape)", "test_nothing_in_common"),
    ("error of a sum", "drawn.std(ddof=1)", "drawn.var(ddof=1)", "test_errors_are_over_prompts"),
    ("every prompt once", "rng.integers(size, size=size)", "rng.permutation(size)", "test_errors_are_over_prompts"),
    ("no names", "{a: judged[a], b: judged[b]}", "{a: judged[a], b: judged[a]}", LIBRARIES),
    ("kappa of all", "_agreement(prompts, draw), alpha", "_agreement(prompts, draw, True), alpha", BY_HAND),
    ("prompts without items", "len(prompts),\n        int(items)", "len(prompts) + 1,\n        int(items)", BY_HAND),
    (
        "rankings of one labeler",
        '(("a", ranks_a), ("b", ranks_b))',
        '(("a", ranks_a), ("b", ranks_a))',
        "test_pairwise_agreement_counts_pairs_that_both_decided",
    ),
    (
        "labels of rows are lost",
        "row.ranks, row.labeler)",
        "row.ranks, row.id)",
        "test_rows_are_judged_by_their_labelers",
    ),
)

GROUPS = table(
    "crossvalidation/groups.py",
    "tests/crossvalidation/test_groups.py",
    ("smallest first", "(-amounts[n], n)", "(amounts[n], n)", "test_groups_have_about_equal_data"),
    ("the first group gets all", "sizes.index(min(sizes))", "0", "test_groups_have_about_equal_data"),
    (
        "one row a pair",
        "int(source.pairs[source.units == name].sum())",
        "int(source.pairs.sum())",
        "test_pairs_of_all_sources_are_counted",
    ),
    ("the held-out group is trained on", "~np.isin(train.units, group) & ", "", APART),
    ("prompts are shared", " & ~np.isin(train.prompts, unseen)", "", APART),
    ("all of the held-out group", "(inside & ~np.isin(source.prompts, train.prompts[mine]))", "inside", APART),
    (
        "only unseen prompts",
        "np.isin(source.prompts, unseen) | (inside",
        "np.isin(source.prompts, unseen) & (inside",
        APART,
    ),
    ("one prompt too few", "round(share * len(different))", "int(share * len(different) - 1)", APART),
    ("empty folds", "if not rows:", "if rows < 0:", "test_a_fold_with_nothing_to_judge_is_named"),
    (
        "nameless rows",
        "if getattr(row, by) is None:",
        "if row.id is None and False:",
        "test_rows_without_a_labeler_are_counted_and_the_first_is_named",
    ),
)

OUTCOMES = table(
    "crossvalidation/outcomes.py",
    "tests/crossvalidation/test_crossvalidate.py",
    (
        "sides exchanged",
        "FoldCounts(counts[~inside], counts[inside])",
        "FoldCounts(counts[inside], counts[~inside])",
        "test_rankings_go_to_the_side_of_their_labeler",
    ),
    ("sum of trainings", "share = 1 / len(trainings)", "share = 1.0", "test_means_over_folds_and_seeds_by_hand"),
    ("sum in place of a gap", "(-weight, counts)", "(weight, counts)", "test_means_over_folds_and_seeds_by_hand"),
    ("deviation in place of error", "/ len(each) ** 0.5", "", "test_means_over_folds_and_seeds_by_hand"),
    (
        "seeds of one fold",
        "compare([fold[i] for fold in folds])",
        "compare([folds[0][i]])",
        "test_means_over_folds_and_seeds_by_hand",
    ),
    (
        "only the value of gaps",
        "[getattr(one, name).value for one in compared]",
        "[one.gap.value for one in compared]",
        "test_means_over_folds_and_seeds_by_hand",
    ),
)
