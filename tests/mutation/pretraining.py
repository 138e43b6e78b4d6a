"""Mistakes in pretraining text, and in how PPO-ptx and SFT mix it in."""

from __future__ import annotations

from tests.mutation.mutation import table

CUT, ORDER = (
    "test_documents_are_cut_where_a_sequence_is_full",
    "test_a_pass_takes_every_sequence_once_and_passes_differ",
)
ALONE, POSITIONS = "test_a_sequence_depends_on_seed_and_position_alone", "test_sequences_at_positions"

TEXT = table(
    "pretraining_text.py",
    "tests/test_pretraining_text.py",
    ("documents begin sequences", "del held[:whole]", "del held[:]", CUT),
    ("tokens are kept", "del held[:whole]", "pass", CUT),
    ("one token of each cut is lost", "held[start : start + length]", "held[start + 1 : start + length]", CUT),
    ("one order", 'self.seed, "pretraining", pass_number', 'self.seed, "pretraining"', ORDER),
    ("one order for all seeds", "generator(self.seed, ", "generator(0, ", ALONE),
    ("the first order is kept", "self._order[0] != pass_number", "self._order[0] == -1", ORDER),
    ("in the order of the file", "int(self._order[1][place])", "place", ORDER),
    ("the first position of a pass", "divmod(position, len(self))", "divmod(position, 1)", ORDER),
    ("no shape without rows", ".view(len(rows), self.length)", "", POSITIONS),
    ("next position", "self.number(position)", "self.number(position + 1)", POSITIONS),
    ("ids of one position", "self.tokens(p) for p in positions", "self.tokens(0) for _ in positions", POSITIONS),
    ("a length of nothing", "return len(self.sequences)", "return len(self.sequences) - 1", ORDER),
    (
        "EOS alone is a document",
        "if len(ids) == 1:",
        "if len(ids) == 0:",
        "test_text_without_tokens_is_refused",
    ),
)

STEPS, SHARED = "test_steps_take_one_sequence_after_another", "test_processes_share_a_steps_sequences"
LOGPROBS = "test_log_probabilities_are_those_of_transformers"
PARTS, WEIGHTS = "test_parts_are_whole_sequences_of_at_most_so_many_tokens", "test_weights"
EQ_2, TOGETHER = "test_the_reduction_over_sequences_is_eq_2", "test_text_and_coefficient_go_together"

PTX = table(
    "ppo/ptx.py",
    "tests/ppo/test_ptx.py",
    ("a step without text", "max(1, round(", "max(0, round(", SHARED),
    ("as many as responses", "round(self.ratio * num_responses)", "round(num_responses)", STEPS),
    ("one reduction", 'if self.reduction == "token":', "if True:", WEIGHTS),
    ("the other reduction", 'if self.reduction == "token":', "if False:", WEIGHTS),
    ("tokens for targets", "(self.context_tokens - 1) * num", "self.context_tokens * num", EQ_2),
    ("responses for sequences", "num_responses / num_tokens", "num_tokens / num_responses", EQ_2),
    ("no coefficient over sequences", "return self.coef * (self", "return (self", EQ_2),
    ("coefficient without text", "settings.coef > 0 and not has_text", "settings.coef < 0", TOGETHER),
    ("text without coefficient", "has_text and not settings.coef > 0", "settings.coef < 0", TOGETHER),
    ("the same text in every iteration", "iteration * sum(counts) + sum", "sum", STEPS),
    ("the same text in every step", "+ sum(counts[:step])", "", STEPS),
    ("text of the next step", "counts[:step]", "counts[: step + 1]", STEPS),
    ("every process takes all", "first + counts[step], world_size)", "first + counts[step])", SHARED),
    ("every process takes the same", "range(first + rank", "range(first", SHARED),
    ("targets of a process", "counts[step] * (text.length - 1)", "len(ids) * (text.length - 1)", SHARED),
    ("every token a target", "counts[step] * (text.length - 1)", "counts[step] * text.length", SHARED),
    (
        "parts of any size",
        "split_by_tokens(torch.full((len(self.ids),), self.ids.shape[1])",
        "split_by_tokens(torch.ones(len(self.ids))",
        PARTS,
    ),
    ("a part of nothing", "if not len(self.ids):", "if len(self.ids) < 0:", PARTS),
    ("every token predicts itself", ")[:, :-1].flatten(0, 1)", ")[:, 1:].flatten(0, 1)", LOGPROBS),
    ("the base instead of the policy", "with backbone.using(adapter):", "with backbone.using(None):", LOGPROBS),
    (
        "a sequence for each token",
        "torch.full((len(ids),), ids.shape[1]",
        "torch.ones(ids.numel(), dtype=torch.long",
        LOGPROBS,
    ),
)

MIXING = table(
    "sft/mixing.py",
    "tests/sft/test_mixing.py",
    ("share of the demonstrations", "share / (1 - share) * tokens", "share * tokens", "test_share_is_of_tokens"),
    ("none of a little", "max(1, round", "max(0, round", "test_share_is_of_tokens"),
    (
        "the same text in every epoch",
        "number + epoch * self.per_epoch",
        "number",
        "test_epochs_take_the_next_sequences",
    ),
    (
        "no text",
        "return len(self.rows) + self.per_epoch",
        "return len(self.rows)",
        "test_epochs_take_the_next_sequences",
    ),
    ("text from the middle", "index - len(self.rows)", "index", "test_epochs_take_the_next_sequences"),
    ("no target", "[True] * len(ids)", "[False] * len(ids)", "test_every_token_of_a_text_is_a_target"),
)
