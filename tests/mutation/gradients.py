"""Mistakes in gradient checkpointing, gradients gathered part by part, and layers with a backward of their own."""

from __future__ import annotations

from tests.mutation.mutation import table

CHECKPOINTING_TESTS = "tests/models/test_checkpointing.py"
SAME, NONE = "test_gradients_are_those_without", "test_a_trained_model_without_such_layers_is_refused"
TWICE, FORWARD = "test_layers_are_computed_twice_and_without_gradients_once", "test_layers_get_their_forward_back"

CHECKPOINTING = table(
    "models/checkpointing.py",
    CHECKPOINTING_TESTS,
    ("adapter is not switched", "with active(adapted, *then):", "with active([], *then):", SAME),
    ("no adapter", "state(adapted[0]) if adapted else ([], None)", "([], None)", SAME),
    (
        "an adapter is expected",
        "state(adapted[0]) if adapted else ([], None)",
        "state(adapted[0])",
        "test_a_model_without_adapters",
    ),
    ("without gradients too", " if torch.is_grad_enabled() else []", "", FORWARD),
    ("other modules too", "if isinstance(m, GradientCheckpointingLayer)]", "if hasattr(m, 'weight')]", NONE),
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
    (
        "some layers are enough",
        "return len(layers) > 0 and all(",
        "return len(layers) > 0 and any(",
        "tests/models/test_adapter_rows.py::test_other_layers_take_turns",
    ),
    ("gate for up", "gated(self.down_proj, gate, up)", "gated(self.down_proj, up, gate)", OWN),
    (
        "gate for up without gradients",
        "F.silu(gate, inplace=True).mul_(up)",
        "F.silu(up, inplace=True).mul_(gate)",
        OWN,
    ),
    ("in place with gradients", "if torch.is_grad_enabled():", "if not gate.ndim:", OWN),
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
