"""Mistakes in low-rank layers, gradient checkpointing and gradients gathered part by part."""

from __future__ import annotations

from tests.mutation.mutation import table

CHECKPOINTING_TESTS = "tests/models/test_checkpointing.py"
SAME, RESTORED = "test_gradients_are_those_without", "test_the_adapter_in_use_is_again_in_use_after_a_backward"
LORA_TESTS = "tests/models/test_lora_linear.py"
PEFT, BASE = "test_outputs_and_gradients_are_pefts", "test_no_adapter_is_the_base_exactly"
AUTOCAST, DROPOUT = "test_16_bit_autocast_gives_16_bit_outputs_and_float32_gradients", "test_dropout_is_left_to_peft"
LEFT = "test_what_is_left_to_peft"
SIDE = "test_side_by_side_is_one_after_another"

LORA = table(
    "models/lora_linear.py",
    LORA_TESTS,
    (
        "adapter of the backward",
        "        layer._active_adapter = names\n",
        "        pass\n",
        f"{CHECKPOINTING_TESTS}::{SAME}",
    ),
    ("adapter stays", "layer._active_adapter = old", "pass", f"{CHECKPOINTING_TESTS}::{RESTORED}"),
    ("no scale", "(lora_b * scale).to(x.dtype)", "lora_b.to(x.dtype)", PEFT),
    ("no bias", "bias).addmm_(low, b.t())", "None).addmm_(low, b.t())", PEFT),
    ("no adapter", ".addmm_(low, b.t())", "", PEFT),
    (
        "base's input gradient only",
        "(grad @ _weight(ctx.base, grad.dtype)).addmm_(grad_low, a)",
        "(grad @ _weight(ctx.base, grad.dtype))",
        PEFT,
    ),
    (
        "adapter's input gradient only",
        "(grad @ _weight(ctx.base, grad.dtype)).addmm_(grad_low, a)",
        "(grad_low @ a)",
        PEFT,
    ),
    ("gradient of A from the input's end", "grad_a = (grad_low.t()", "grad_a = (grad_low.flip(0).t()", PEFT),
    ("gradient of B not scaled", "(grad.t() @ low).to(ctx.dtype) * ctx.scale", "(grad.t() @ low).to(ctx.dtype)", PEFT),
    (
        "gradient of A scaled again",
        "(grad_low.t() @ rows).to(ctx.dtype) if",
        "(grad_low.t() @ rows).to(ctx.dtype) * ctx.scale if",
        PEFT,
    ),
    ("shape of the rows", "return out.view(*x.shape[:-1], -1)", "return out", PEFT),
    ("gradient's shape of the rows", ".addmm_(grad_low, a).view(ctx.shape)", ".addmm_(grad_low, a)", PEFT),
    (
        "frozen inputs have a gradient",
        "if ctx.needs_input_grad[0]:\n            grad_x = (grad @",
        "if not ctx.needs_input_grad[0]:\n            grad_x = (grad @",
        PEFT,
    ),
    ("frozen A", "if ctx.needs_input_grad[2] else None", "if not ctx.needs_input_grad[2] else None", PEFT),
    ("frozen B", "* ctx.scale if ctx.needs_input_grad[3]", "* ctx.scale if not ctx.needs_input_grad[3]", PEFT),
    (
        "gradients in 16 bit",
        "ctx.base, ctx.scale, ctx.shape, ctx.dtype = base, scale, x.shape, lora_a.dtype",
        "ctx.base, ctx.scale, ctx.shape, ctx.dtype = base, scale, x.shape, x.dtype",
        AUTOCAST,
        "the engine casts a gradient to its parameter's dtype; the product is rounded to 16 bit before either way",
    ),
    ("the first adapter ever", "name not in self.lora_A or", "not self.lora_A or", BASE),
    ("other layers' adapters", "name not in self.lora_A or self.dis", "name is None or self.dis", BASE),
    ("disabled adapters", " or self.disable_adapters", "", LEFT),
    ("merged adapters", " or self.merged", "", LEFT),
    ("arguments are dropped", "None if args or kwargs else self.own", "self.own", "test_arguments_go_to_peft"),
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
        "torch.autocast(x.device.type, enabled=False):\n            return",
        "torch.autocast(x.device.type, enabled=torch.is_autocast_enabled(x.device.type)):\n            return",
        AUTOCAST,
        "inputs, weights and both factors have the dtype of autocast already",
    ),
    (
        "any precision",
        "dtype == base.weight.dtype else None",
        "dtype != torch.float16 else None",
        "test_a_float32_base_under_16_bit_autocast",
    ),
    ("scale of another adapter", "self.scaling[name])", "next(iter(self.scaling.values())))", LEFT),
    ("side by side: no scale", "(b * scale).to(x.dtype) for b", "b.to(x.dtype) for b", SIDE),
    ("side by side: no bias", "bias).addmm_(part", "None).addmm_(part", SIDE),
    ("side by side: no adapter", ".addmm_(part, b.t())", "", SIDE),
    (
        "side by side: the first base",
        "for base, b, part in zip(bases, bs,",
        "for base, b, part in zip(bases[:1] * 3, bs,",
        SIDE,
    ),
    ("side by side: shape of the rows", "tuple(out.view(*x.shape[:-1], -1) for out in outs)", "tuple(outs)", SIDE),
    ("side by side: input gradients of the bases", "grad_x = grad_low @ a\n", "grad_x = 0 * (grad_low @ a)\n", SIDE),
    (
        "side by side: input gradient of the adapters",
        "grad_x.addmm_(grad, _weight(base, grad.dtype))",
        "grad_x.addmm_(grad, _weight(base, grad.dtype), alpha=0)",
        SIDE,
    ),
    ("side by side: gradient's shape of the rows", "grad_x = grad_x.view(ctx.shape)", "pass", SIDE),
    (
        "side by side: frozen inputs have a gradient",
        "if ctx.needs_input_grad[0]:\n            grad_x = grad_low",
        "if not ctx.needs_input_grad[0]:\n            grad_x = grad_low",
        SIDE,
    ),
    (
        "side by side: only frozen adapters have a gradient",
        "if any(ctx.needs_input_grad[3:]):",
        "if not any(ctx.needs_input_grad[3:]):",
        SIDE,
    ),
    (
        "side by side: gradients of A in another order",
        ".to(ctx.dtype).split(ctx.ranks)",
        ".flip(0).to(ctx.dtype).split(ctx.ranks)",
        SIDE,
    ),
    (
        "side by side: gradient of B not scaled",
        "(grad.t() @ part).to(ctx.dtype) * scale",
        "(grad.t() @ part).to(ctx.dtype)",
        SIDE,
    ),
    (
        "side by side: gradients in 16 bit",
        "ctx.shape, ctx.dtype = bases, scales, ranks, x.shape, factors[0].dtype",
        "ctx.shape, ctx.dtype = bases, scales, ranks, x.shape, x.dtype",
        "test_side_by_side_under_autocast",
        "the engine casts a gradient to its parameter's dtype; the product is rounded to 16 bit before either way",
    ),
    (
        "side by side: any adapter",
        "if names or name is None:",
        "if name is None:",
        "test_layers_that_differ_go_one_by_one",
    ),
    (
        "side by side: no adapter is one",
        "if names or name is None:",
        "if names:",
        "test_layers_that_differ_go_one_by_one",
    ),
    (
        "side by side: scale of the first",
        "layer.scaling[name] for layer in layers]",
        "layers[0].scaling[name] for layer in layers]",
        SIDE,
    ),
    ("quantized layers too", " and type(base) is nn.Linear", "", "test_other_layers_stay_pefts"),
    ("subclasses too", "type(layer) is Linear and", "isinstance(layer, Linear) and", "test_other_layers_stay_pefts"),
)

TWICE, FORWARD = "test_layers_are_computed_twice_and_without_gradients_once", "test_layers_get_their_forward_back"

CHECKPOINTING = table(
    "models/checkpointing.py",
    CHECKPOINTING_TESTS,
    ("adapter is not switched", "with active(adapted, names):", "with active([], names):", SAME),
    ("no adapter", "adapted[0]._active_adapter if adapted else []", "[]", SAME),
    (
        "an adapter is expected",
        "adapted[0]._active_adapter if adapted else []",
        "adapted[0]._active_adapter",
        "test_a_model_without_adapters",
    ),
    ("without gradients too", " and torch.is_grad_enabled()]", "]", FORWARD),
    (
        "everything is kept",
        "return checkpoint(with_adapter, *args, use_reentrant=False, **kwargs)",
        "return with_adapter(*args, **kwargs)",
        TWICE,
    ),
    (
        "other dropout the second time",
        "use_reentrant=False, **kwargs)",
        "use_reentrant=False, preserve_rng_state=False, **kwargs)",
        SAME,
    ),
    ("layers stay changed", 'object.__delattr__(layer, "forward")', "pass", FORWARD),
    (
        "layers stay changed after an error",
        "    try:\n        yield\n    finally:\n        for",
        "    yield\n    if layers:\n        for",
        FORWARD,
    ),
)

EARLY_BACKWARD = table(
    "fitting/early_backward.py",
    "tests/fitting/test_early_backward.py",
    (
        "no graph to the parameters",
        "_Computed.apply(self.total, self.gradients, *self._parameters)",
        "_Computed.apply(self.total.clone().requires_grad_(), self.gradients)",
        "test_parts_add_up_to_one_backward",
    ),
    ("no value", "return total.clone()", "return torch.zeros_like(total)", "test_parts_add_up_to_one_backward"),
    ("what comes after is ignored", "g.mul_(grad.to(g.dtype))", "g", "test_parts_add_up_to_one_backward"),
    (
        "none for all",
        "g if g is None else g.mul_(grad.to(g.dtype))",
        "torch.zeros(2) if g is None else g.mul_(grad.to(g.dtype))",
        "test_a_parameter_that_no_part_uses_gets_no_gradient",
    ),
    (
        "every parameter is in every part",
        "allow_unused=True",
        "allow_unused=False",
        "test_a_parameter_that_no_part_uses_gets_no_gradient",
    ),
    ("the last part only", "held.add_(gradient)", "self.gradients[i] = gradient", "test_parts_add_up_to_one_backward"),
    ("the first part only", "held.add_(gradient)", "pass", "test_parts_add_up_to_one_backward"),
    (
        "lost where a part has none",
        "held if gradient is None else gradient",
        "gradient",
        "test_a_parameter_that_only_some_parts_use",
    ),
    ("the scale stays", "if self._scale != 1.0:", "if self._scale == 1.0:", "test_the_loss_scale_is_taken_out_again"),
    ("no scale", "loss * self._scale", "loss", "test_the_loss_scale_is_taken_out_again"),
    (
        "scaled after the backward",
        "torch.autograd.grad(loss * self._scale, self._parameters, allow_unused=True)",
        "[g if g is None else g * self._scale for g in torch.autograd.grad(loss, self._parameters, allow_unused=True)]",
        "test_small_16_bit_gradients_survive_by_the_scale",
    ),
    (
        "autocast in the backward",
        "torch.autocast(self._device_type, enabled=False)",
        "torch.autocast(self._device_type, enabled=torch.is_autocast_enabled(self._device_type))",
        "test_the_backward_of_a_part_is_not_cast_to_16_bit",
    ),
    ("parts of the graph are kept", "loss = loss.detach()", "pass", "test_the_sum_keeps_no_graph_of_its_parts"),
    (
        "graphs are kept",
        "allow_unused=True)\n",
        "allow_unused=True, retain_graph=True)\n        self.kept = [*getattr(self, 'kept', []), loss]\n",
        "test_a_part_is_freed_before_the_next_is_computed",
    ),
    (
        "the last part's loss",
        "self.total = loss if self.total is None else self.total + loss",
        "self.total = loss",
        "test_parts_add_up_to_one_backward",
    ),
    (
        "another sum is emptied",
        "g if g is None else g.clone()",
        "g",
        "test_a_sum_takes_in_another_and_leaves_it_as_it_is",
    ),
    (
        "another sum's gradients alone",
        "for g in other.gradients), other.total)",
        "for g in other.gradients), 0 * other.total)",
        "test_a_sum_takes_in_another_and_leaves_it_as_it_is",
    ),
    (
        "an empty sum is none",
        "if other.total is not None:",
        "if other.total is None:",
        "test_a_sum_takes_in_another_and_leaves_it_as_it_is",
    ),
    (
        "a tensor handed out twice",
        "storage.data_ptr() in seen or ",
        "",
        "test_gradients_that_share_memory_are_kept_apart",
    ),
    (
        "an expanded tensor",
        " or storage.nbytes() != gradient.nbytes",
        "",
        "test_gradients_that_share_memory_are_kept_apart",
    ),
    (
        "no loss scale",
        "return None if scaler is None else float(scaler.get_scale())",
        "return None",
        "test_the_loss_scale_is_the_trainers",
    ),
)

NORMS = "tests/models/test_rms_norm.py"
AGREE, OTHER = "test_outputs_are_equal_and_gradients_agree", "test_another_formula_stays_as_it_is"
TRAINED = "test_a_norm_that_is_trained_keeps_its_own_graph"

RMS_NORM = table(
    "models/rms_norm.py",
    NORMS,
    ("no weight", "return weight * (wide * inverse)", "return (wide * inverse)", AGREE),
    ("precision of the model", "wide = x.to(torch.float32)", "wide = x", AGREE),
    ("no epsilon", "keepdim=True) + eps)", "keepdim=True))", AGREE),
    ("sum of squares", ".pow(2).mean(-1", ".pow(2).sum(-1", AGREE),
    ("gradient without weight", "(grad * weight).to(torch.float32)", "grad.to(torch.float32)", AGREE),
    ("scale taken for constant", "(grad - normal * along)", "grad", AGREE),
    ("gradient not scaled", ".mul_(inverse).to(x.dtype), None", ".to(x.dtype), None", AGREE),
    ("sum for the mean", ".div_(x.shape[-1])", "", AGREE),
    ("the input for the normal", "normal = x.to(torch.float32) * inverse", "normal = x.to(torch.float32)", AGREE),
    ("weights that are trained", "if self.weight.requires_grad:", "if not self.weight.ndim:", TRAINED),
    ("the first token's numbers", "if torch.equal(module(x), _RmsNorm.apply(x, weight, eps)):", "if len(x):", OTHER),
    ("no norm is changed", 'type(module).__name__.endswith("RMSNorm")', "False", AGREE),
)

LEAN = "tests/models/test_lean_layers.py"
OWN, ROTATION = "test_outputs_and_gradients_are_the_models_own", "test_rotation_and_its_gradient"
OTHER_MODELS, OTHER_LAYERS = (
    "test_other_models_keep_their_layers",
    "test_other_layers_under_a_known_name_stay_as_they_are",
)
CACHED = "test_padded_batches_and_caches_go_the_models_own_way"

LEAN_LAYERS = table(
    "models/lean_layers.py",
    LEAN,
    ("turned the other way", "-= x[..., half:] * sin[..., :half]", "+= x[..., half:] * sin[..., :half]", ROTATION),
    ("angles of the other half", "-= x[..., half:] * sin[..., :half]", "-= x[..., half:] * sin[..., half:]", ROTATION),
    ("second half not turned", "        out[..., half:] += x[..., :half] * sin[..., half:]\n", "", ROTATION),
    ("precision of the input", "x = x.to(torch.promote_types(x.dtype, cos.dtype))", "cos = cos.to(x.dtype)", ROTATION),
    ("gradient turned with the output", "sin[..., :half], value=-1)", "sin[..., :half])", ROTATION),
    (
        "gradient's angles of the other half",
        "addcmul_(grad[..., half:], sin[..., half:])",
        "addcmul_(grad[..., half:], sin[..., :half])",
        ROTATION,
    ),
    (
        "gradient in the precision of the angles",
        "return out.to(ctx.dtype), None, None",
        "return out, None, None",
        ROTATION,
        "the engine casts a gradient to its input's dtype",
    ),
    ("queries not turned", "for x in (q, k))\n        out", "for x in (k, k))\n        out", OWN),
    ("no dropout", "self.attention_dropout if self.training else 0.0", "0.0", "test_dropout_of_attention_is_kept"),
    (
        "dropout in evaluation",
        "self.attention_dropout if self.training else 0.0",
        "self.attention_dropout",
        "test_dropout_of_attention_is_kept",
    ),
    ("no scale", "layout, self.scaling,", "layout, 1.0,", OWN),
    ("padded batches too", "if layout is None or", "if", CACHED),
    ("gate for up", "F.silu(gate) * up if", "F.silu(up) * gate if", OWN),
    (
        "gate for up without gradients",
        "F.silu(gate, inplace=True).mul_(up)",
        "F.silu(up, inplace=True).mul_(gate)",
        OWN,
    ),
    ("in place with gradients", "F.silu(gate) * up if torch.is_grad_enabled() else ", "", OWN),
    (
        "any model",
        "lm.config.model_type not in MODELS or ",
        "",
        OTHER_MODELS,
        "the comparison with the model's own forward refuses it too, a moment later",
    ),
    (
        "any activation",
        ' or lm.config.hidden_act != "silu"',
        "",
        OTHER_MODELS,
        "the comparison with the model's own forward refuses it too, a moment later",
    ),
    ("layers stay after a failure", "            module.__class__ = own\n", "            pass\n", OTHER_LAYERS),
)
