"""Mistakes in sampling and decoding."""

from __future__ import annotations

from tests.mutation.mutation import table

TOKENS = "tests/references/test_token_formulas.py"
GENERATION = "tests/rollouts/test_decoding.py"
LAYOUT = "test_draws_do_not_depend_on_the_layout_of_the_logits"
PREFIX = "test_equal_prompts_are_computed_once"
FIXED = "test_fixed_shapes_change_no_token"

SAMPLING = table(
    "rollouts/inverse_cdf.py",
    GENERATION,
    ("no temperature", "weights.div_(temperature)", "weights.div_(1.0)", f"{TOKENS}::test_sampling"),
    ("temperature multiplies", "weights.div_(temperature)", "weights.mul_(temperature)", f"{TOKENS}::test_sampling"),
    (
        "draws of 0",
        "torch.searchsorted(inside, share * inside[:, -1:], right=True)",
        "torch.searchsorted(inside, share * inside[:, -1:])",
        f"{TOKENS}::test_a_token_without_probability_is_never_drawn",
    ),
    (
        "draws beyond the total",
        "point = uniforms.to(totals).unsqueeze(1) * totals[:, -1:]",
        "point = uniforms.to(totals).unsqueeze(1) * torch.ones_like(totals[:, -1:])",
        f"{TOKENS}::test_sampling",
    ),
    (
        "least likely token",
        "logits.argmax(1)",
        "logits.argmin(1)",
        "test_greedy_decoding_equals_a_fresh_forward_at_every_step",
    ),
    ("the last block is left out", "if whole < weights.shape[1]:", "if whole < 0:", LAYOUT),
    ("large logits overflow", "amax(0).amax(0)", "amax(0).amin(0)", "test_very_large_logits_do_not_overflow"),
    (
        "large logits overflow at the end",
        "torch.maximum(highest, rest.amax(1))",
        "highest",
        "test_very_large_logits_do_not_overflow",
    ),
    (
        "the wrong order of the workspace",
        "room.view(vocabulary, size).t() if logits.stride(0) == 1",
        "room.view(vocabulary, size).t() if logits.stride(0) != 1",
        LAYOUT,
        "only slower: the numbers are copied into whatever order there is",
    ),
    ("log-probability without temperature", ".to(totals) / (temperature or 1.0)", ".to(totals)", LAYOUT),
    ("log-probability of weights", "totals[:, -1:].log()", "totals[:, -1:]", LAYOUT),
    ("tokens of another block", "columns = block * BLOCK", "columns = 0 * block", LAYOUT),
    ("token within the block", "(block * BLOCK + offset)", "(block + offset)", LAYOUT),
    (
        "one number for all rows",
        "return draw(logits, temperature, uniforms)[0]",
        "return draw(logits, temperature, uniforms[:1].expand_as(uniforms))[0]",
        "test_samples_follow_the_distribution",
    ),
)

DECODING = table(
    "rollouts/decoding.py",
    GENERATION,
    (
        "positions stand still",
        "self.position.add_(1)",
        "self.position.add_(0)",
        "test_positions_count_on_from_the_prompt",
    ),
    (
        "prompts' padding is seen",
        "self.mask = torch.cat([prompt_mask, prompt",
        "self.mask = torch.cat([torch.ones_like(prompt_mask), prompt",
        "test_positions_count_on_from_the_prompt",
    ),
    (
        "rows are lost track of",
        "= self.rows[keep], self.alive[keep]",
        "= self.rows[: len(keep)], self.alive[keep]",
        "test_a_rows_sample_does_not_depend_on_its_neighbours",
    ),
    (
        "draws by place in the batch",
        "self.uniforms[self.rows, self.step]",
        "self.uniforms[: len(self.rows), self.sampled]",
        "test_a_rows_sample_does_not_depend_on_its_neighbours",
    ),
    (
        "EOS outside of the mask",
        "self.response_mask.index_put_(place, self.alive)",
        "self.response_mask.index_put_(place, self.alive & (token != self.eos_id))",
        "test_eos_ends_a_response_and_belongs_to_it",
    ),
    (
        "EOS does not end",
        "(token != self.eos_id)",
        "(token != self.pad_id)",
        "test_eos_ends_a_response_and_belongs_to_it",
    ),
    (
        "truncated the wrong way round",
        "self.logprobs[:, :width], ~has_eos)",
        "self.logprobs[:, :width], has_eos)",
        "test_eos_ends_a_response_and_belongs_to_it",
    ),
    (
        "EOS looked for in padding",
        "((ids == self.eos_id) & mask)",
        "(ids == self.eos_id)",
        "test_eos_ends_a_response_and_belongs_to_it",
        "a response without EOS has as many tokens as there are columns, so there is no padding behind it",
    ),
    ("another prompt's cache", "batch_select_indices(prompt_of)", "batch_select_indices(prompt_of.flip(0))", PREFIX),
    ("another prompt's first token", "hidden[prompt_of]", "hidden[prompt_of.flip(0)]", PREFIX),
    ("prompts equal up to padding alone", "same.append(found[key])", "same.append(0)", PREFIX),
    ("rows never leave", "if alive <= shrink_at * len(batch.rows):", "if alive < 0:", FIXED, "only slower"),
    ("a column too few", "self._make_room(self.filled + 1)", "self._make_room(self.filled)", FIXED),
    ("buffers a column too small", "self.cache, columns, self.column)", "self.cache, columns - 1, self.column)", FIXED),
    (
        "columns counted wrong",
        "+ self.sampled - 1",
        "+ self.sampled - 2",
        "test_positions_count_on_from_the_prompt",
    ),
    (
        "the last hidden state but one",
        "hidden[:, -1]",
        "hidden[:, 0]",
        "test_greedy_decoding_equals_a_fresh_forward_at_every_step",
    ),
    ("buffers are not released", "release_shapes(self.cache, self.filled)", "pass", FIXED),
    (
        "step of the mask",
        "self.mask.index_fill_(1, self.column, True)",
        "self.mask.index_fill_(1, self.step, True)",
        "test_positions_count_on_from_the_prompt",
    ),
    ("a new workspace for every token", "if self._work is None:", "if True:", LAYOUT, "only slower"),
)

LEAN = "tests/rollouts/test_lean_decoder.py"
OWN = "test_steps_are_the_models_own"
LEAN_DECODER = table(
    "rollouts/lean_decoder.py",
    LEAN,
    ("heads of the usual size", 'getattr(config, "head_dim", None) or ', "", OWN),
    (
        "values among the keys",
        "buffer[:, self.groups :, : keys.shape[2]] = values",
        "buffer[:, : self.groups, : keys.shape[2]] = values",
        OWN,
    ),
    ("the first rows go on", "buffer[: len(rows)] = buffer[rows]", "buffer[: len(rows)] = buffer[: len(rows)]", OWN),
    ("padding is seen", 'masked_fill_(~mask, float("-inf"))', "masked_fill_(~mask, 0.0)", OWN),
    ("turned the other way", "angles = cos, -sin[:half], sin[half:]", "angles = cos, sin[:half], -sin[half:]", OWN),
    ("no biases", "qkv += layer.qkv_bias", "pass", OWN),
    ("no residual of attention", "x = x + layer.out @", "x = layer.out @", OWN),
    ("gate for up", "F.silu(gate).mul_(up)", "F.silu(up).mul_(gate)", OWN),
    ("norm without eps", ".add_(self.eps)", "", OWN),
    ("norm changes its input", "(wide * square", "wide.mul_(square", OWN),
    ("keys unturned", "= rotated[heads:].permute", "= turned[heads:].permute", OWN),
    (
        "queries unturned",
        "rotated[:heads].permute(2, 0, 1).contiguous()",
        "turned[:heads].permute(2, 0, 1).contiguous()",
        OWN,
    ),
    (
        "groups and their heads exchanged",
        ".view(-1, groups, heads // groups, size)",
        ".view(-1, heads // groups, groups, size).transpose(1, 2)",
        OWN,
    ),
    ("norms exchanged", "attention_norm=layer.input_layernorm", "attention_norm=layer.post_attention_layernorm", OWN),
    ("adapter without its scale", "weight * projection.scaling[adapter]", "weight", OWN),
    ("no adapter", "and adapter in projection.lora_A", "and False", OWN),
    (
        "prompts without the adapter",
        "lent_weights(self._places)",
        "lent_weights([])",
        "test_a_model_that_only_looks_alike_is_left_to_transformers",
    ),
    ("sliding windows", "type(layer) is not DynamicLayer", "False", "test_other_models_are_left_to_transformers"),
    (
        "any difference will do",
        "0.05 * expected",
        "50 * expected",
        "test_a_model_that_only_looks_alike_is_left_to_transformers",
    ),
)

GROWS = "test_the_gpu_decoder_samples_the_same_while_rows_leave_and_columns_grow"
GPU_DECODER = table(
    "rollouts/gpu_decoder.py",
    LEAN,
    ("padding is seen", 'masked_fill_(~mask, float("-inf"))', "masked_fill_(~mask, 0.0)", OWN),
    ("always the first column", "index_copy_(2, column,", "index_copy_(2, column * 0,", OWN),
    ("values are turned", "nothing = torch.zeros_like(ones)", "nothing = ones", OWN),
    ("turned the other way", "[-sin[..., :half], sin[..., half:]]", "[sin[..., :half], -sin[..., half:]]", OWN),
    ("no biases", "None if layer.qkv_bias is None else layer.qkv_bias.squeeze(1)", "None", OWN),
    ("no residual", "torch.addmm(x, y, weight.t())", "y @ weight.t()", OWN),
    ("gate for up", "F.silu(gate).mul_(up)", "F.silu(up).mul_(gate)", OWN),
    ("norm without eps", "self.eps)", "0.0)", OWN),
    (
        "groups and their heads exchanged",
        "unflatten(1, (groups, heads // groups))",
        "unflatten(1, (heads // groups, groups)).transpose(1, 2)",
        OWN,
    ),
    ("too few columns", "return -(-columns // STEP) * STEP", "return columns // STEP * STEP", GROWS),
)
