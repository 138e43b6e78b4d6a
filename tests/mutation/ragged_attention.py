"""Mistakes in attention without padding."""

from __future__ import annotations

from tests.mutation.mutation import table

ATTENTION = "tests/models/test_ragged_attention.py"
LAYOUT = "tests/models/test_ragged_layout.py"
PLAIN, SHARED = "test_plain_sequences", "test_responses_that_share_prompts"
SIXTEEN = "test_16_bit_outputs_and_gradients_are_as_near_as_the_kernels_own"

RAGGED_ATTENTION = table(
    "models/ragged_attention.py",
    ATTENTION,
    (
        "keys for queries",
        "qb, kb, vb = _rows(q, block.queries), _rows(k, block.keys), _rows(v, block.keys)\n            part",
        "qb, kb, vb = _rows(q, block.keys), _rows(k, block.keys), _rows(v, block.keys)\n            part",
        SHARED,
    ),
    (
        "no scale",
        "0.0, block.square, attn_mask=mask, scale=scale\n    )\n    return out, [",
        "0.0, block.square, attn_mask=mask\n    )\n    return out, [",
        PLAIN,
    ),
    (
        "the kernel's backward without scale",
        "out, lse, 0.0, block.square, attn_mask=mask, scale=scale",
        "out, lse, 0.0, block.square, attn_mask=mask",
        PLAIN,
    ),
    (
        "everything visible",
        "mask = None if block.square else block.bias.to(q.dtype)\n    out, lse",
        "mask = None\n    out, lse",
        SHARED,
    ),
    (
        "everything visible in the backward",
        "mask = None if block.square else block.bias.to(q.dtype)\n    gq",
        "mask = None\n    gq",
        SHARED,
    ),
    ("outputs at other places", "out = _placed(outputs, layout, len(q))", "out = torch.cat(outputs)[: len(q)]", PLAIN),
    (
        "heads before tokens",
        "outputs.append(out.transpose(1, 2).flatten(0, 1))\n            kept",
        "outputs.append(out.reshape(-1, *q.shape[1:]))\n            kept",
        PLAIN,
    ),
    ("padded queries have a gradient", " * block.query_valid[:, None, :, None]", "", PLAIN),
    (
        "gradients of queries at other places",
        "_placed(grads_q, layout, size)",
        "torch.cat(grads_q)[:size]",
        PLAIN,
    ),
    (
        "gradients of values for keys",
        "gather(grads_k, layout, size), gather(grads_v, layout, size)",
        "gather(grads_v, layout, size), gather(grads_k, layout, size)",
        PLAIN,
    ),
    (
        "one row's gradient of a shared key",
        "gather, size = _sum_by_token if layout.shared else _placed, len(q)",
        "gather, size = _placed, len(q)",
        SHARED,
    ),
    (
        "sums where nothing is shared",
        "gather, size = _sum_by_token if layout.shared else _placed, len(q)",
        "gather, size = _sum_by_token, len(q)",
        PLAIN,
        "a sum of one term is that term; picking it is only faster",
    ),
    (
        "rows and heads exchanged",
        ".view(*index.shape, *x.shape[1:]).transpose(1, 2)",
        ".view(len(index), x.shape[1], -1, x.shape[2])",
        PLAIN,
    ),
    ("heads repeated in turn", "x.repeat_interleave(repeats, 1)", "x.repeat(1, repeats, 1, 1)", PLAIN),
    (
        "bias by token",
        "to(wide).repeat(heads // groups, 1)",
        "to(wide).repeat_interleave(heads // groups, 0)",
        SHARED,
    ),
    (
        "scores in 16 bit",
        "wide = torch.promote_types(q.dtype, torch.float32)",
        "wide = q.dtype",
        SIXTEEN,
    ),
    ("products without scale", "k.mT, alpha=scale)", "k.mT)", PLAIN),
    ("products' gradient without scale", ".mul_(scale)", "", PLAIN),
    ("scores for probabilities", "alpha=scale).softmax(-1)", "alpha=scale).exp()", PLAIN),
    ("softmax over queries", "alpha=scale).softmax(-1)", "alpha=scale).softmax(-2)", PLAIN),
    ("outputs of keys", "(p @ v.flatten(0, 1).to(wide))", "(p @ k)", PLAIN),
    ("softmax without its sum", "torch.ops.aten._softmax_backward_data(grad_p, p, -1, q.dtype)", "(grad_p * p)", PLAIN),
    ("gradients of queries from queries", "(grad_scores @ k).view", "(grad_scores @ v).view", PLAIN),
    ("gradients of keys from keys", "(grad_scores.mT @ q)", "(p.mT @ q)", PLAIN),
    ("gradients of values from scores", "(p.mT @ grad)", "(grad_scores.mT @ grad)", PLAIN),
    (
        "gradient of one of the heads that share a key",
        "gk.unflatten(1, (groups, repeats)).sum(2)",
        "gk.unflatten(1, (groups, repeats))[:, :, 0]",
        PLAIN,
    ),
    (
        "mean over the heads that share a value",
        "gv.unflatten(1, (groups, repeats)).sum(2)",
        "gv.unflatten(1, (groups, repeats)).mean(2)",
        PLAIN,
    ),
    (
        "groups and repeats exchanged",
        "gk.unflatten(1, (groups, repeats)).sum(2)",
        "gk.unflatten(1, (repeats, groups)).sum(1)",
        PLAIN,
    ),
    (
        "gradients of keys in their order",
        "out = torch.cat(parts)[layout.places]",
        "out = torch.cat(parts)[: len(layout.places)]",
        PLAIN,
    ),
    (
        "sums over padding of other tokens",
        "valid = torch.cat([b.valid.flatten() for b in layout.blocks])",
        "valid = slice(None)",
        SHARED,
        "padded queries have no gradient and no other query sees a padded key: its gradient is 0",
    ),
    (
        "the last of several gradients",
        "total.index_add_(0, index, values)",
        "total.index_copy_(0, index, values)",
        SHARED,
    ),
    (
        "sums in 16 bit",
        "dtype=torch.promote_types(values.dtype, torch.float32)",
        "dtype=values.dtype",
        f"{LAYOUT}::test_sums_by_token_are_float32",
    ),
    ("taken by place", "return x[index]", "return x[index.sort(-1).values]", PLAIN),
    (
        "gradient of the first taken",
        "_summed(ctx.size, index.flatten(), grad.flatten(0, index.ndim - 1))",
        "_summed(ctx.size, index.flatten(), grad.flatten(0, index.ndim - 1) / 2)",
        PLAIN,
    ),
    ("queries of all columns", "_Take.apply(q, block.queries)", "_Take.apply(q, block.keys)", SHARED),
    (
        "keys not repeated by group",
        "_repeated(_Take.apply(k, block.keys).transpose(1, 2), repeats)",
        "_Take.apply(k, block.keys).transpose(1, 2).repeat(1, repeats, 1, 1)",
        PLAIN,
    ),
    ("the future without a kernel", "is_causal=block.square", "is_causal=False", PLAIN),
    (
        "everything visible without a kernel",
        "attn_mask=None if block.square else block.visible",
        "attn_mask=None",
        SHARED,
    ),
    (
        "outputs without a kernel at other places",
        "_Take.apply(torch.cat(outputs), layout.places)",
        "torch.cat(outputs)[: len(q)]",
        PLAIN,
    ),
    ("no scale without a kernel", "            scale=scale,\n", "", PLAIN),
    (
        "scale upside down",
        "q.shape[-1] ** -0.5 if scaling",
        "q.shape[-1] ** 0.5 if scaling",
        f"{LAYOUT}::test_the_interface_scales_as_sdpa",
    ),
    (
        "a model's own scale",
        "q.shape[-1] ** -0.5 if scaling is None else scaling",
        "q.shape[-1] ** -0.5",
        f"{LAYOUT}::test_the_interface_scales_as_sdpa",
    ),
    (
        "dropout is forgotten",
        'q.device.type == "cpu" and not dropout',
        'q.device.type == "cpu"',
        f"{LAYOUT}::test_the_interface_drops_out",
    ),
    (
        "dropout of 0",
        "dropout_p=dropout",
        "dropout_p=0.0",
        f"{LAYOUT}::test_the_interface_drops_out",
    ),
    (
        "a soft cap is forgotten",
        "if kwargs.get(k) is not None]",
        "if kwargs.get(k) is None and kwargs]",
        f"{LAYOUT}::test_what_it_cannot_do_is_refused",
    ),
    (
        "padded batches are ragged",
        "if ragged is None:",
        "if ragged is None and attention_mask is None:",
        f"{LAYOUT}::test_without_a_layout_it_is_sdpa",
    ),
    (
        "products where they are not wanted",
        "return layout.products and block",
        "return block",
        f"{LAYOUT}::test_a_layout_without_products",
    ),
    (
        "products for rows of any length",
        "block.width * block.keys.shape[1] <= SMALL",
        "block.width > 0",
        f"{LAYOUT}::test_a_layout_without_products",
    ),
)
