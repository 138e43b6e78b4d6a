"""The engine of this project: decoding in the training process, on the weights that are trained."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.decoding import decode
from rlhf_lightning.rollouts.engine import Generated, Request
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.rollouts.skinny import skinny_linears


class NativeEngine:
    """Decodes prompts of similar length together, equal prompts computed once, with a uniform number per token.

    A row's tokens depend on its row number and not on its neighbours, up to rounding.
    """

    def generate(
        self,
        backbone: Backbone,
        adapter: str | None,
        request: Request,
        settings: SamplingSettings,
        on_token: Callable[[int], None] | None = None,
    ) -> Generated:
        """See `RolloutEngine`."""
        uniforms = request.draws.uniforms(settings.max_response_tokens).to(request.prompt_ids.device)
        parts = []
        with backbone.merged(adapter), skinny_linears(backbone.lm):
            for rows in request.in_order_of_length(settings.batch_size):
                ids, mask = request.trimmed(rows)
                part = decode(
                    backbone.lm, ids, mask, settings, uniforms[rows], request.eos_id, request.pad_id, on_token
                )
                parts.append((rows, part))
        return Generated.in_rows(len(request.prompt_ids), parts, request.pad_id)
