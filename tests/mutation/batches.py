"""Mistakes in batches without padding, and in cutting them into parts."""

from __future__ import annotations

from tests.mutation.mutation import table

TOKENS = "tests/references/test_token_formulas.py"
PACK = "rlhf_lightning/sft/packing.py::rlhf_lightning.sft.packing.pack"
BINS = "tests/sft/test_packing.py::test_bins_hold_everything_once_and_fit"
PARTS = "tests/sft/test_packing.py::test_parts_hold_whole_rows_and_the_weight_of_the_batch"
SEGMENTS = "tests/sft/test_packing.py::test_every_segment_is_a_sequence"
WEIGHT = "tests/sft/test_packing.py::test_a_batch_weighs_its_targets_and_falls_apart_into_rows"

PACKING = table(
    "sft/packing.py",
    TOKENS,
    ("examples of a row are one", "(rows + self.segments)", "(rows + (self.segments > 0))", "test_packed_rows"),
    ("rows go on in the next", "(rows + self.segments)", "(0 * rows + self.segments)", "test_packed_rows"),
    ("numbers of examples meet", "(self.segments.max() + 1)", "(self.segments.max() - 1)", SEGMENTS),
    (
        "the fewest numbers of examples",
        "(self.segments.max() + 1)",
        "self.segments.max()",
        SEGMENTS,
        "with a most of m, row b's numbers end at (b + 1) m or before, and the next row's begin one after it",
    ),
    (
        "targets by their place in the row",
        "self.loss_mask[valid].nonzero()",
        "self.loss_mask.nonzero()",
        "test_sft_loss",
    ),
    ("targets with padding", "self.loss_mask[valid].nonzero()", "self.loss_mask.flatten().nonzero()", "test_sft_loss"),
    ("padding is seen", "valid = self.segments > 0", "valid = self.segments >= 0", "test_packed_rows"),
    ("first tokens are targets", "[flag and i > 0 for", "[flag and i >= 0 for", "test_sft_loss"),
    ("first two tokens are no targets", "[flag and i > 0 for", "[flag and i > 1 for", "test_sft_loss"),
    ("prompts are targets", "[flag and i > 0 for", "[i > 0 for", "test_sft_loss"),
    ("padding is a target", "pad(targets, False)", "pad(targets, True)", WEIGHT),
    ("first example counts as padding", "enumerate(row, 1)", "enumerate(row)", "test_packed_rows"),
    ("rows overflow", "1 << (room - size)", "1 << room", "test_packed_rows"),
    ("a new row for each", "        if fitting:\n", "        if False:\n", PACK),
    ("most room first", "(fitting & -fitting).bit_length()", "fitting.bit_length()", PACK),
    ("shortest first", "np.argsort(-lengths", "np.argsort(lengths", PACK),
    ("rows in another order", "np.argsort(bins, kind", "np.argsort(-bins, kind", BINS),
    ("rows begin at 0", "self._ends[row - 1] if row else 0", "0", BINS),
    ("one row too many", "return len(self._ends)", "return len(self._ends) + 1", BINS),
    ("prompts weigh too", "float(self.loss_mask[:, 1:].sum())", "float(self.loss_mask.numel())", WEIGHT),
    ("rows up to one", "slice(index, index + 1)", "slice(0, index + 1)", WEIGHT),
    ("tokens counted by example", "return (self.segments > 0).sum(1)", "return self.segments.sum(1)", PARTS),
    ("tokens of columns", "return (self.segments > 0).sum(1)", "return (self.segments >= 0).sum(1)", PARTS),
    (
        "parts of one more",
        "split_by_tokens(self.tokens, max_tokens)",
        "split_by_tokens(self.tokens, max_tokens + 1)",
        PARTS,
    ),
    (
        "parts of one less",
        "split_by_tokens(self.tokens, max_tokens)",
        "split_by_tokens(self.tokens, max_tokens - 1)",
        PARTS,
    ),
    ("width of the shortest", ".sum(1).max())", ".sum(1).min())", PARTS),
    ("width of the batch", ".sum(1).max())", ".sum(1).max()) + len(self.tokens)", PARTS),
    ("a part weighs itself", "self.step_weight or self.weight,", "self.step_weight,", PARTS),
    ("the batch weighs itself", "self.step_weight or self.weight,", "self.weight,", PARTS),
    ("targets of other rows", "self.loss_mask[rows, :width]", "self.loss_mask[: len(rows), :width]", PARTS),
)

ROLLOUT_TESTS = "tests/ppo/test_rollout.py"
SEQUENCES = "test_sequences_are_the_rows_without_padding"
ROWS, SILENT = "test_samples_go_by_row_numbers", "test_a_row_without_a_response_predicts_nothing"
SEEDS = "test_seeds_go_by_row_numbers"
TRIMMED = "tests/ppo/test_experience.py::test_rows_are_trimmed_to_their_own_longest_prompt_and_response"

ROLLOUT = table(
    "ppo/rollout.py",
    ROLLOUT_TESTS,
    ("token predicts itself", "number[:, width - 1 : -1]", "number[:, width:]", SEQUENCES),
    ("two tokens before", "number[:, width - 1 : -1]", "number[:, width - 2 : -2]", SEQUENCES),
    ("numbers from 1", "(mask.flatten().cumsum(0) - 1)", "mask.flatten().cumsum(0)", SEQUENCES),
    ("numbers count padding", "mask.flatten().cumsum(0)", "torch.ones_like(mask).flatten().cumsum(0)", SEQUENCES),
    ("one number for each row", "(mask.flatten().cumsum(0) - 1).view(mask.shape)", "mask.cumsum(1) - 1", SEQUENCES),
    ("first token of a response", "number[:, -1])", "number[:, width])", SEQUENCES),
    ("last token of a prompt", "number[:, -1])", "number[:, width - 1])", SEQUENCES),
    ("predictors of padding", "[self.response_mask], ", "[torch.ones_like(self.response_mask)], ", SEQUENCES),
    ("padding is read", "from_padded(ids, mask)", "from_padded(ids, mask | True)", SEQUENCES),
    (
        "prompts do not count",
        "self.prompt_mask.sum(1) + self.response_mask.sum(1)",
        "self.response_mask.sum(1)",
        SEQUENCES,
    ),
    ("columns count", "self.prompt_mask.sum(1) +", "self.prompt_mask.shape[1] +", SEQUENCES),
    ("first columns of prompts", "self.prompt_ids[index, left:]", "self.prompt_ids[index, : -left or None]", SEQUENCES),
    ("shortest prompt", "int(prompts.sum(1).max())", "int(prompts.sum(1).min())", TRIMMED),
    ("shortest response", "max(1, int(responses.sum(1).max()))", "max(1, int(responses.sum(1).min()))", TRIMMED),
    ("no column", "max(1, int(responses.sum(1).max()))", "int(responses.sum(1).max())", SILENT),
    (
        "other rows' lengths",
        "self.prompt_mask[index], self.response_mask[index]",
        "self.prompt_mask, self.response_mask",
        TRIMMED,
    ),
    ("length of the responses", "return len(self.prompt_ids)", "return self.prompt_ids.shape[1]", SEQUENCES),
    (
        "other sampled log-probabilities",
        "self.sampler_logprobs[index, :right]",
        "self.sampler_logprobs[: len(index), :right]",
        SEQUENCES,
    ),
    ("another key", "Draws(seed, batch.rows)", "Draws((*seed[:2], 0, 0), batch.rows)", ROWS),
    ("draws by place in the batch", "Draws(seed, batch.rows)", "Draws(seed, list(range(len(batch.rows))))", ROWS),
    (
        "the base samples",
        "engine.generate(backbone, adapter,",
        "engine.generate(backbone, None,",
        "test_the_adapter_samples_and_the_weights_are_put_back",
    ),
)

REQUESTS = table(
    "rollouts/engine.py",
    ROLLOUT_TESTS,
    ("draws by place", "dtype=torch.float32)[self.rows]", "dtype=torch.float32)[: len(self.rows)]", ROWS),
    ("no draw for the last row", "(max(self.rows) + 1, count)", "(max(self.rows), count)", ROWS),
    ("every iteration the same", "generator=generator(*self.key)", "generator=generator(*self.key[:2])", ROWS),
    ("prompts without their ends", "self.prompt_ids[index, left:]", "self.prompt_ids[index, : -left or None]", ROWS),
    ("width of the shortest prompt", "int(mask.sum(1).max())", "int(mask.sum(1).min())", ROWS),
    ("rows left out", "range(0, len(order), batch_size)", "range(0, len(order) - 1, batch_size)", ROWS),
    (
        "rows in the order of lengths",
        "out.response_ids[index, :own] = part",
        "out.response_ids[: len(index), :own] = part",
        ROWS,
    ),
    (
        "masks of other rows",
        "out.response_mask[index, :own] = part",
        "out.response_mask[: len(index), :own] = part",
        ROWS,
    ),
    (
        "log-probabilities of other rows",
        "out.logprobs[index, :own] = part",
        "out.logprobs[: len(index), :own] = part",
        ROWS,
    ),
    ("truncated other rows", "out.truncated[index] = part", "out.truncated[: len(index)] = part", ROWS),
    ("padding is a token", "new_full((size, width), pad_id)", "new_full((size, width), pad_id + 1)", ROWS),
    ("responses at the end", "out.response_ids[index, :own] =", "out.response_ids[index, width - own :] =", ROWS),
    ("equal seeds of rows", "derive_seed(*self.key, self.rows[index])", "derive_seed(*self.key)", SEEDS),
    ("seeds by place", "derive_seed(*self.key, self.rows[index])", "derive_seed(*self.key, index)", SEEDS),
    (
        "equal seeds of batches",
        "derive_seed(*self.key, *(self.rows[i] for i in indices))",
        "derive_seed(*self.key)",
        SEEDS,
    ),
    ("batches by place", "*(self.rows[i] for i in indices)", "*indices", SEEDS),
)

RANKINGS = "tests/reward/test_ranking_batches.py"
ONCE = "test_every_prompt_and_response_once"
WHOLE = "test_parts_hold_whole_prompts_and_the_weight_of_the_batch"
UNFINISHED = "test_an_unfinished_response_has_no_eos"
CENTRED = "test_scores_are_centred_on_the_best_response"

RANKING_BATCHES = table(
    "reward/data.py",
    RANKINGS,
    (
        "a token after the end",
        "self.response_mask.sum(1).cumsum(0) - 1",
        "self.response_mask.sum(1).cumsum(0) - 2",
        ONCE,
    ),
    ("ends without prompts", "self.prompt_mask.sum() + self.response_mask", "self.response_mask", ONCE),
    (
        "ends by the longest response",
        "self.response_mask.sum(1).cumsum(0) - 1",
        "(self.response_mask | True).sum(1).cumsum(0) - 1",
        ONCE,
    ),
    (
        "every response to the first prompt",
        "for i, row in enumerate(rows) for _ in row.responses",
        "for row in rows for i, _ in enumerate(row.responses)",
        ONCE,
    ),
    ("prompts padded right", "pad_id, left=True)", "pad_id)", ONCE),
    ("parts of other responses", "torch.isin(self.prompt, rows)", "torch.isin(self.prompt, rows + 1)", WHOLE),
    ("prompts by their old numbers", "torch.searchsorted(rows, self.prompt[own])", "self.prompt[own]", WHOLE),
    ("ranks of the first responses", "self.ranks[own],", "self.ranks[: int(own.sum())],", WHOLE),
    ("prompts do not count", "self.prompt_mask.sum(1).index_add", "(0 * self.prompt_mask.sum(1)).index_add", WHOLE),
    ("responses do not count", "index_add(0, self.prompt, own)", "index_add(0, self.prompt, 0 * own)", WHOLE),
    ("parts of one less", "split_by_tokens(tokens, max_tokens)", "split_by_tokens(tokens, max_tokens - 1)", WHOLE),
    (
        "a part weighs itself",
        "self._rows(rows, self.step_weight or self.weight)",
        "self._rows(rows, self.step_weight)",
        WHOLE,
    ),
    (
        "the batch weighs itself",
        "self._rows(rows, self.step_weight or self.weight)",
        "self._rows(rows, self.weight)",
        WHOLE,
    ),
    ("a batch weighs its responses", "return float(len(self.prompt_ids))", "return float(len(self.ranks))", WHOLE),
    (
        "another row",
        "torch.tensor([index], device",
        "torch.tensor([index - 1], device",
        "test_a_row_is_a_prompt_with_its_responses",
    ),
    ("all unfinished", "len(ended) == len(row.responses) and ended[index] is False", "True", UNFINISHED),
    ("finished ones are cut", "ended[index] is False", "ended[index] is True", UNFINISHED),
    ("the first one's end", "ended[index] is False", "ended[0] is False", UNFINISHED),
    ("cut without EOS", " and ids[-1] == self.template.eos_id", "", UNFINISHED),
    ("nothing is left", "unfinished and len(ids) > 1 and", "unfinished and", UNFINISHED),
    ("centred on the worst", "row.ranks.index(min(row.ranks))", "row.ranks.index(max(row.ranks))", CENTRED),
    (
        "centred on the rankings",
        'self.items.get("demonstrations", self.items["train"])',
        'self.items["train"]',
        CENTRED,
    ),
    ("the last batch left out", "range(0, len(rows), size)", "range(0, len(rows) - size + 1, size)", CENTRED),
    (
        "padded with EOS",
        "self.template.tokenizer.pad_token_id",
        "self.template.eos_id",
        ONCE,
        "what stands in the padding is never read",
    ),
    ("rows twice", "min(start + size, len(rows))", "len(rows)", CENTRED),
)

FITS = "test_parts_hold_every_row_once_in_order_and_as_many_as_fit"

MEMORY = table(
    "memory.py",
    "tests/test_memory.py",
    ("a full part is too full", "held + count > limit", "held + count >= limit", "test_a_part_may_be_full"),
    ("one row too many", "held + count > limit", "held > limit", FITS),
    ("parts up to twice the limit", "held + count > limit", "held + count > 2 * limit", FITS),
    ("a part for nothing", "if parts[-1] and held", "if held", "test_a_row_above_the_limit_goes_alone"),
    ("rows instead of tokens", "held += count", "held += 1", FITS),
    ("the sum goes on", "            held = 0\n", "", FITS),
    ("positions within the part", "parts[-1].append(row)", "parts[-1].append(len(parts[-1]))", FITS),
)

ORDER = "test_parts_hold_rows_of_similar_length_and_the_tokens_of_the_step"

EXPERIENCE_PARTS = table(
    "ppo/buffer.py",
    "tests/ppo/test_experience.py",
    ("parts of rows in another order", "self.experience.rows(order[rows])", "self.experience.rows(rows)", ORDER),
    (
        "parts by other rows' tokens",
        "split_by_tokens(tokens[order], max_tokens)",
        "split_by_tokens(tokens, max_tokens)",
        ORDER,
    ),
    ("shortest first", "descending=True", "descending=False", ORDER),
    (
        "tokens of the part",
        "self.experience.rows(order[rows]), self.num_tokens)",
        "self.experience.rows(order[rows]), float(tokens[order[rows]].sum()))",
        ORDER,
    ),
    (
        "parts of one less",
        "split_by_tokens(tokens[order], max_tokens)",
        "split_by_tokens(tokens[order], max_tokens - 1)",
        ORDER,
    ),
)
