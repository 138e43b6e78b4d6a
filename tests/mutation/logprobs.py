"""Mistakes in log-probabilities, under a trained unembedding and under a frozen one."""

from __future__ import annotations

from tests.mutation.mutation import table

TOKENS = "tests/references/test_token_formulas.py"
FROZEN = "tests/references/test_frozen_logprobs.py"
SIXTEEN = f"{FROZEN}::test_a_frozen_unembedding_in_16_bit_gives_float32"
KEPT = f"{FROZEN}::test_no_logits_are_kept_for_the_backward_of_a_frozen_unembedding"

LOGPROBS = table(
    "logprobs.py",
    TOKENS,
    ("temperature multiplies", ".float() / temperature", ".float() * temperature", "test_token_logprobs"),
    ("no temperature", ".float() / temperature", ".float()", "test_token_logprobs"),
    ("probabilities", "F.log_softmax(", "F.softmax(", "test_token_logprobs"),
    ("softmax over tokens", "excluded), dim=-1)", "excluded), dim=0)", "test_token_logprobs"),
    ("precision of the model", "unembed(hidden).float()", "unembed(hidden)", "test_token_logprobs"),
    ("entropy with the wrong sign", "entropy = -(log_p", "entropy = (log_p", "test_token_logprobs"),
    (
        "entropy in the gradient",
        "-(log_p.detach().exp() * log_p.detach())",
        "-(log_p.exp() * log_p)",
        "test_token_logprobs",
    ),
    (
        "the possible are ruled out",
        "torch.where(excluded >= 0,",
        "torch.where(excluded < 0,",
        "test_a_token_that_could_not_be_drawn",
    ),
    (
        "nothing is ruled out",
        "torch.where(excluded >= 0, RULED_OUT",
        "torch.where(excluded >= 99, RULED_OUT",
        "test_a_token_that_could_not_be_drawn",
    ),
    (
        "the first chunk's tokens are ruled out",
        "no = None if excluded is None else excluded[number * size :][:size]",
        "no = None if excluded is None else excluded[: len(t)]",
        "test_a_token_that_could_not_be_drawn",
    ),
    (
        "frozen: the first chunk's tokens are ruled out",
        "rule_out(logits, excluded[number * size :][:size])",
        "rule_out(logits, excluded[: len(t)])",
        "test_a_token_that_could_not_be_drawn",
    ),
    ("first chunk only", "torch.cat(logprobs), torch.cat(entropy)", "logprobs[0], entropy[0]", "test_token_logprobs"),
    ("no gradient", "return log_p.gather(", "return log_p.detach().gather(", "test_token_logprobs"),
    (
        "logits of all chunks are kept",
        "if torch.is_grad_enabled():",
        "if not h.numel():",
        "test_logits_are_computed_again_in_the_backward_pass",
    ),
    (
        "no graph without tokens",
        "return hidden.float().sum(-1), hidden",
        "return hidden.new_zeros(0, dtype=torch.float32), hidden",
        "test_no_tokens_keep_the_graph",
    ),
    (
        "frozen: no temperature",
        "if temperature != 1.0:",
        "if temperature == 1.0:",
        "test_token_logprobs",
    ),
    ("frozen: temperature multiplies", "logits /= temperature", "logits *= temperature", "test_token_logprobs"),
    (
        "frozen: gradient at temperature 1",
        ".to(hidden.dtype) / temperature)",
        ".to(hidden.dtype))",
        "test_token_logprobs",
    ),
    (
        "frozen: gradient with the wrong sign",
        "layer.weight[t.squeeze(1)] - expected",
        "expected - layer.weight[t.squeeze(1)]",
        "test_token_logprobs",
    ),
    (
        "frozen: gradient of the target alone",
        "layer.weight[t.squeeze(1)] - expected",
        "layer.weight[t.squeeze(1)]",
        "test_token_logprobs",
    ),
    (
        "frozen: gradient without the target",
        "layer.weight[t.squeeze(1)] - expected",
        "-expected",
        "test_token_logprobs",
    ),
    (
        "frozen: unscaled probabilities in the gradient",
        "expected = p.to(",
        "expected = p.expm1().to(",
        "test_token_logprobs",
    ),
    (
        "frozen: gradient whatever comes after",
        "(grad.unsqueeze(1) * gradient)",
        "gradient",
        "test_token_logprobs",
    ),
    (
        "frozen: logits for log-probabilities",
        "log_p = logits.log_softmax(-1)",
        "log_p = logits.clone()",
        "test_token_logprobs",
    ),
    (
        "frozen: sum for the logarithm of the sum",
        "logits.log_softmax(-1)",
        "logits - logits.exp().sum(-1, keepdim=True)",
        "test_token_logprobs",
    ),
    (
        "frozen: entropy with the wrong sign",
        "entropies.append(-(p * log_p)",
        "entropies.append((p * log_p)",
        "test_token_logprobs",
    ),
    (
        "frozen: entropy of log-probabilities",
        "entropies.append(-(p * log_p)",
        "entropies.append(-(log_p * log_p)",
        "test_token_logprobs",
    ),
    (
        "frozen: probabilities over tokens",
        "log_p.softmax(-1)",
        "log_p.softmax(0)",
        "test_token_logprobs",
    ),
    ("frozen: first chunk only", "logprob = torch.cat(logprobs)", "logprob = logprobs[0]", "test_token_logprobs"),
    ("frozen: entropy of the first chunk", "torch.cat(entropies)", "entropies[0]", "test_token_logprobs"),
    (
        "frozen: gradient of the first chunk",
        "torch.cat(gradients)",
        "gradients[0].expand_as(hidden)",
        "test_token_logprobs",
    ),
    (
        "frozen: something for an entropy that was not asked",
        "if with_entropy else torch.zeros_like(logprob)",
        "if with_entropy else logprob.clone()",
        "test_token_logprobs",
    ),
    (
        "frozen: entropy is not computed",
        "            if with_entropy:",
        "            if with_entropy and need_gradient:",
        SIXTEEN,
    ),
    (
        "frozen: entropy in 16 bit under autocast",
        "-(p * log_p).sum(-1)",
        "-torch.linalg.vecdot(p, log_p)",
        f"{FROZEN}::test_autocast_does_not_round_the_entropy",
    ),
    (
        "frozen: no entropy without a gradient",
        "if not (with_entropy or need_gradient):",
        "if not need_gradient:",
        SIXTEEN,
    ),
    ("frozen: precision of the model", "logits = layer(h).float()", "logits = layer(h)", SIXTEEN),
    ("frozen: bias left out", "logits = layer(h).float()", "logits = (h @ layer.weight.mT).float()", SIXTEEN),
    (
        "frozen: gradient of another precision",
        ".to(hidden.dtype) / temperature",
        " / temperature",
        f"{FROZEN}::test_the_gradient_of_float32_states_is_not_rounded_again",
    ),
    ("frozen: a gradient for the entropy", "ctx.mark_non_differentiable(entropy)", "", SIXTEEN),
    (
        "trained unembeddings taken for frozen ones",
        " and not any(p.requires_grad for p in unembed.parameters())",
        "",
        f"{FROZEN}::test_a_trained_unembedding_gets_its_gradient",
    ),
    (
        "frozen unembeddings taken for trained ones",
        "if type(unembed) is nn.Linear and",
        "if type(unembed) is nn.Module and",
        KEPT,
    ),
    (
        "frozen: logits in one piece",
        "size = chunk_rows(hidden.device)\n        for",
        "size = len(hidden)\n        for",
        KEPT,
    ),
    (
        "frozen: states are kept",
        "ctx.save_for_backward(torch.cat(gradients))",
        "ctx.save_for_backward(torch.cat(gradients), hidden)",
        KEPT,
    ),
)
