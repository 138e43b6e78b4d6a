"""Mistakes in low-rank layers, and in forwards whose rows have different adapters."""

from __future__ import annotations

from tests.mutation.mutation import table

CHECKPOINTING_TESTS = "tests/models/test_checkpointing.py"
SAME, RESTORED = "test_gradients_are_those_without", "test_the_adapter_in_use_is_again_in_use_after_a_backward"
LORA_TESTS = "tests/models/test_lora_linear.py"
PEFT, BASE = "test_outputs_and_gradients_are_pefts", "test_no_adapter_is_the_base_exactly"
AUTOCAST, DROPOUT = "test_16_bit_autocast_gives_16_bit_outputs_and_float32_gradients", "test_dropout_is_left_to_peft"
LEFT = "test_what_is_left_to_peft"
SIDE = "test_side_by_side_is_one_after_another"
ROWS_TESTS = "tests/models/test_adapter_rows.py"
PARTS = f"{ROWS_TESTS}::test_outputs_and_gradients_are_pefts_part_by_part"
TAKE = f"{ROWS_TESTS}::test_what_peft_computes_cannot_take_rows"
ONE_FORWARD = f"{ROWS_TESTS}::test_one_forward_is_one_adapter_after_another"
GATED = "tests/models/test_lean_layers.py::test_outputs_and_gradients_are_the_models_own"
GATE = "tests/models/test_lean_layers.py::test_an_adapted_gate_beside_an_up_that_is_not"

LORA = table(
    "models/lora_linear.py",
    LORA_TESTS,
    (
        "adapter of the backward",
        "        layer._active_adapter, layer.adapter_rows = names, rows\n",
        "        pass\n",
        f"{CHECKPOINTING_TESTS}::{SAME}",
    ),
    (
        "rows of the backward",
        "layer._active_adapter, layer.adapter_rows = names, rows",
        "layer._active_adapter, layer.adapter_rows = names, None",
        PARTS,
    ),
    (
        "adapter stays",
        "layer._active_adapter, layer.adapter_rows = old",
        "pass",
        f"{CHECKPOINTING_TESTS}::{RESTORED}",
    ),
    (
        "rows stay",
        "layer._active_adapter, layer.adapter_rows = old",
        "layer._active_adapter = old[0]",
        f"{ROWS_TESTS}::test_adapters_are_back_after_an_error",
    ),
    ("state without rows", 'getattr(layer, "adapter_rows", None)', "None", ONE_FORWARD),
    ("layers of PEFT take rows", "isinstance(layer, SingleNode) and layer.computes(", "(", TAKE),
    ("other adapters matter", "if name is not None and name in layer.lora_A", "if name is not None", TAKE),
    ("precision of the input", "    dtype = _product_dtype(like)\n", "    dtype = torch.float64\n", TAKE),
    ("no scale", "(b * scale).to(x.dtype) for b", "b.to(x.dtype) for b", PEFT),
    ("no bias", "_weight(base, x.dtype), bias)", "_weight(base, x.dtype))", PEFT),
    ("no adapter", "out[span].addmm_(part, b.t())", "pass", PEFT),
    (
        "adapter for all rows",
        "out[span].addmm_(part, b.t())",
        "out[:].addmm_((rows @ a.t())[:, : b.shape[1]], b.t())",
        PARTS,
    ),
    ("adapter reads other rows", "low = rows[span] @", "low = rows.flip(0)[span] @", PARTS),
    ("base's input gradient only", "grad_x[span].addmm_(grad_low, a)", "pass", PEFT),
    (
        "adapter's input gradient only",
        "grad_x = flat[0] @ _weight(ctx.bases[0], flat[0].dtype)",
        "grad_x = 0 * (flat[0] @ _weight(ctx.bases[0], flat[0].dtype))",
        PEFT,
    ),
    ("gradient of A from the input's end", "(grad_low.t() @ rows[span])", "(grad_low.flip(0).t() @ rows[span])", PEFT),
    (
        "gradient of A from other rows",
        "own = [grad[span] for grad in flat]",
        "own = [grad.flip(0)[span] for grad in flat]",
        PARTS,
    ),
    (
        "gradient of B not scaled",
        "(grad.t() @ part).to(ctx.dtype) * scale",
        "(grad.t() @ part).to(ctx.dtype)",
        PEFT,
    ),
    (
        "gradient of A scaled again",
        "(grad_low.t() @ rows[span]).to(ctx.dtype)",
        "(grad_low.t() @ rows[span]).to(ctx.dtype) * scales[0]",
        PEFT,
    ),
    ("shape of the rows", "tuple(out.view(*x.shape[:-1], -1) for out in outs)", "tuple(outs)", PEFT),
    ("gradient's shape of the rows", "grad_x = grad_x.view(ctx.shape)", "pass", PEFT),
    (
        "frozen inputs have a gradient",
        "if ctx.needs_input_grad[0] or",
        "if not ctx.needs_input_grad[0] or",
        PEFT,
    ),
    ("only frozen adapters have a gradient", "            if any(need):", "            if not any(need):", PEFT),
    (
        "gradients in 16 bit",
        "ctx.shape, ctx.dtype = bases, parts, x.shape, factors[0].dtype",
        "ctx.shape, ctx.dtype = bases, parts, x.shape, x.dtype",
        AUTOCAST,
        "the engine casts a gradient to its parameter's dtype; the product is rounded to 16 bit before either way",
    ),
    ("the first part has all", "stop = None if number == len(rows) - 1 else start + count", "stop = None", PARTS),
    (
        "the last part is cut",
        "stop = None if number == len(rows) - 1 else start + count",
        "stop = start + max(count, 1)",
        PARTS,
    ),
    ("parts start at 0", "        start += count\n", "", PARTS),
    ("the first adapter ever", "if name in self.lora_A and self.computes", "if self.computes", BASE),
    ("disabled adapters", "self.disable_adapters or ", "", LEFT),
    ("merged adapters", " or self.merged", "", LEFT),
    ("arguments are dropped", "None if args or kwargs else self.rows", "self.rows", "test_arguments_go_to_peft"),
    ("two adapters at once", "if len(self._active_adapter) == 1 else None", "if self._active_adapter else None", LEFT),
    ("variants are plain", "name in self.lora_variant or ", "", "test_variants_go_to_peft"),
    ("an adapter's bias", " or self.lora_bias[name]", "", LEFT),
    ("dropout is skipped", " or (dropout.training and not _does_nothing(dropout))", "", DROPOUT),
    (
        "dropout in evaluation",
        "dropout.training and not _does_nothing(dropout)",
        "not _does_nothing(dropout)",
        "test_dropout_in_evaluation_is_our_own",
    ),
    ("no dropout is dropout", "isinstance(dropout, nn.Identity) or ", "", "test_one_node_in_training"),
    ("dropout of 0 is dropout", ' or getattr(dropout, "p", None) == 0.0', "", "test_one_node_in_training"),
    (
        "autocast is ignored",
        "torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype",
        "x.dtype",
        AUTOCAST,
    ),
    (
        "autocast within",
        "torch.autocast(x.device.type, enabled=False):",
        "torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type)):",
        AUTOCAST,
        "inputs, weights and both factors have the dtype of autocast already",
    ),
    (
        "any precision",
        "bool(dtype == base.weight.dtype)",
        "dtype != torch.float16",
        "test_a_float32_base_under_16_bit_autocast",
    ),
    ("scale of another adapter", "[layer.scaling[name] for", "[next(iter(layer.scaling.values())) for", LEFT),
    ("an adapter that is not there", "(name if name in self.lora_A else None, count)", "(name, count)", ONE_FORWARD),
    (
        "side by side: the first base",
        "for base, bias in zip(bases, biases,",
        "for base, bias in zip(bases[:1] * len(bases), biases,",
        SIDE,
    ),
    (
        "side by side: input gradient of the first",
        "grad_x.addmm_(grad, _weight(base, grad.dtype))",
        "grad_x.addmm_(grad, _weight(base, grad.dtype), alpha=0)",
        SIDE,
    ),
    (
        "side by side: gradients of A in another order",
        ".to(ctx.dtype).split(ranks)",
        ".flip(0).to(ctx.dtype).split(ranks)",
        SIDE,
    ),
    (
        "side by side: any adapter",
        "if rows or same is None",
        "if same is None",
        "test_layers_that_differ_go_one_by_one",
    ),
    (
        "side by side: no adapter is one",
        "if rows or same is None",
        "if rows",
        "test_layers_that_differ_go_one_by_one",
    ),
    (
        "side by side: scale of the first",
        "[layer.scaling[name] for",
        "[layers[0].scaling[name] for",
        SIDE,
    ),
    ("parts are lost", "range(0, len(items), size)", "range(0, size, size)", PARTS),
    ("gated: gate for up", "_products([layer], up, rows, gate)", "_products([layer], gate, rows, up)", GATED),
    ("gated: an adapted gate alone", " or ctx.needs_input_grad[1]:", ":", GATE),
    ("gated: up alone", "x if gate is None else F.silu(gate) * x", "x", GATED),
    ("gated: up alone in the backward", "rows = (silu * up)", "rows = up", GATED),
    ("gated: no gradient of the gate", "torch.ops.aten.silu_backward(grad_x.mul_(up), gate)", "None", GATED),
    (
        "gated: the gate's gradient without up",
        "silu_backward(grad_x.mul_(up), gate)",
        "silu_backward(grad_x, gate)",
        GATED,
    ),
    ("gated: up's gradient without the gate", "silu.mul_(grad_x), torch", "grad_x.clone(), torch", GATED),
    ("gated: the input is kept", "rows if gate is None else x, gate", "rows, gate", GATED),
    ("quantized layers too", " and type(base) is nn.Linear", "", "test_other_layers_stay_pefts"),
    ("subclasses too", "type(layer) is Linear and", "isinstance(layer, Linear) and", "test_other_layers_stay_pefts"),
)

COPIES = table(
    "models/ragged.py",
    ROWS_TESTS,
    ("copies look at the first", "block.keys + copy * len(self)", "block.keys", ONE_FORWARD),
    ("copies of copies", "block.valid.repeat(times, 1)", "block.valid.repeat(times, 1).fill_(True)", ONE_FORWARD),
    (
        "prompts are not shared",
        "_layout(blocks, times * len(self), self.layout.shared)",
        "_layout(blocks, times * len(self), False)",
        ONE_FORWARD,
    ),
)

REPLACED_WEIGHTS = table(
    "models/replaced_weights.py",
    "tests/models/test_backbone.py",
    (
        "other weights stay",
        """["weight"] = parameter""",
        """["weight"] = layer.weight""",
        "test_merging_gives_the_adapters_outputs_and_puts_the_base_back_bit_for_bit",
    ),
    (
        "the layers' own weights",
        "nn.Parameter(weight, requires_grad=False)",
        "layer.weight",
        "test_merging_gives_the_adapters_outputs_and_puts_the_base_back_bit_for_bit",
    ),
    (
        "trained parameters are written to",
        """layer.__dict__["weight"] = weight""",
        "layer.weight.data = weight",
        "tests/rollouts/test_lean_decoder.py::test_a_rollout_leaves_the_gradient_accumulators_of_trained_weights",
    ),
    (
        "lent weights stay",
        """layer.__dict__.pop("weight", None)""",
        """layer.__dict__.get("weight", None)""",
        "tests/rollouts/test_lean_decoder.py::test_a_rollout_leaves_the_gradient_accumulators_of_trained_weights",
    ),
)
