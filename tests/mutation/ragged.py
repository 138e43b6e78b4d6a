"""Mistakes in which tokens look at which."""

from __future__ import annotations

from tests.mutation.mutation import table

ATTENTION = "tests/models/test_ragged_attention.py"
PLAIN, SHARED = "test_plain_sequences", "test_responses_that_share_prompts"
BUCKETS = "tests/models/test_ragged_layout.py::test_rows_of_similar_length_share_a_block"
LAYOUT = "tests/models/test_ragged_layout.py::test_what_a_layout_says"

RAGGED = table(
    "models/ragged.py",
    ATTENTION,
    (
        "first columns are queries",
        "self.keys[:, self.keys.shape[1] - self.width :]",
        "self.keys[:, : self.width]",
        SHARED,
    ),
    (
        "first columns are valid",
        "self.valid[:, self.valid.shape[1] - self.width :]",
        "self.valid[:, : self.width]",
        SHARED,
    ),
    ("every block is square", "return self.width == self.keys.shape[1]", "return True", SHARED),
    ("no block is square", "return self.width == self.keys.shape[1]", "return False", LAYOUT),
    ("the future is visible", "ones.tril(self.keys.shape[1] - self.width)", "ones", SHARED),
    ("the prompt's end is not visible", "ones.tril(self.keys.shape[1] - self.width)", "ones.tril()", SHARED),
    (
        "one token of the future",
        "ones.tril(self.keys.shape[1] - self.width)",
        "ones.tril(self.keys.shape[1] - self.width + 1)",
        SHARED,
    ),
    ("bias the wrong way round", "masked_fill_(~self.visible", "masked_fill_(self.visible", SHARED),
    ("bias that leaks", 'float("-inf")', "-10.0", SHARED),
    ("length of the blocks", "return len(self.ids)", "return len(self.layout.blocks)", PLAIN),
    ("starts are ends", "starts = lengths.cumsum(0) - lengths", "starts = lengths.cumsum(0)", PLAIN),
    (
        "positions go on",
        "torch.arange(len(ids), device=ids.device) - starts.repeat_interleave(lengths)",
        "torch.arange(len(ids), device=ids.device)",
        PLAIN,
    ),
    ("lengths not sorted along", "_buckets(lengths[order], order)", "_buckets(lengths, order)", BUCKETS),
    ("one sequence after another", "lengths.argsort(stable=True)", "torch.arange(len(lengths))", BUCKETS),
    (
        "starts of other rows",
        "_block(starts[rows], lengths[rows])",
        "_block(starts[: len(rows)], lengths[rows])",
        PLAIN,
    ),
    (
        "plain sequences share keys",
        "_layout(blocks, len(ids), shared=False)",
        "_layout(blocks, len(ids), shared=True)",
        LAYOUT,
    ),
    (
        "shared prompts are not",
        "_layout(blocks, len(ids), shared=True)",
        "_layout(blocks, len(ids), shared=False)",
        SHARED,
    ),
    ("padding is read", "from_lengths(ids[mask], lengths", "from_lengths(ids.flatten(), lengths", SHARED),
    (
        "rows without tokens",
        "lengths[lengths > 0]",
        "lengths",
        "tests/models/test_ragged_layout.py::test_rows_without_tokens_vanish",
    ),
    ("responses before prompts", "own = len(prompts) + after", "own = after", SHARED),
    ("ends of responses", "after.cumsum(0) - after", "after.cumsum(0)", SHARED),
    ("the first prompt for all", "head = starts[b] + torch", "head = starts[0] + torch", SHARED),
    ("prompts of one length", "torch.arange(int(before[b]),", "torch.arange(int(before.max()),", SHARED),
    (
        "responses of other prompts",
        "_block(own[rows], after[rows])",
        "_block(own[: len(rows)], after[: len(rows)])",
        SHARED,
    ),
    (
        "prompts are not looked at",
        "torch.ones_like(keys[:, : len(head)]",
        "torch.zeros_like(keys[:, : len(head)]",
        SHARED,
    ),
    ("positions without the prompt", "- 1 + before[prompt].unsqueeze(1))", "- 1)", SHARED),
    ("positions one further", "- 1 + before[prompt].unsqueeze(1))", "+ before[prompt].unsqueeze(1))", SHARED),
    ("positions of another prompt", "before[prompt].unsqueeze(1)", "before[prompt.flip(0)].unsqueeze(1)", SHARED),
    ("padding is valid", "valid = columns < lengths.unsqueeze(1)", "valid = columns <= lengths.unsqueeze(1)", PLAIN),
    (
        "last tokens are padding",
        "valid = columns < lengths.unsqueeze(1)",
        "valid = columns < lengths.unsqueeze(1) - 1",
        PLAIN,
    ),
    (
        "tokens of the first sequence",
        "torch.where(valid, starts.unsqueeze(1) + columns, 0)",
        "torch.where(valid, columns, 0)",
        PLAIN,
    ),
    ("everything in one block", "slack * values[start] + 64", "slack * values[-1] + 64", BUCKETS),
    ("a block for every length", "slack * values[start] + 64", "values[start]", BUCKETS),
    (
        "buckets begin with their end",
        "yield order[start:end]\n            start = end",
        "yield order[start:end]\n            start = end - 1",
        BUCKETS,
    ),
    ("the last bucket is lost", "range(1, len(values) + 1)", "range(1, len(values))", BUCKETS),
    ("places of keys", "places[queries[columns]] = columns", "places[queries] = torch.arange(len(queries))", PLAIN),
    (
        "places without padding",
        "places[queries[columns]] = columns",
        "places[queries[columns]] = torch.arange(len(columns))",
        PLAIN,
    ),
)
