"""The engine of this project: decoding in the training process, on the weights that are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.rollouts.decoding import decode
from rlhf_lightning.rollouts.engine import Generated, Request
from rlhf_lightning.rollouts.gpu_decoder import GpuDecoder
from rlhf_lightning.rollouts.lean_decoder import LeanDecoder, agrees, fits
from rlhf_lightning.rollouts.settings import SamplingSettings
from rlhf_lightning.rollouts.skinny import skinny_linears


class NativeEngine:
    """Decodes prompts of similar length together, equal prompts computed once, with a uniform number per token.

    A row's tokens depend on its row number and not on its neighbours, up to rounding.
    """

    def __init__(self) -> None:
        self._lean: WeakKeyDictionary[Backbone, bool] = WeakKeyDictionary()
        """Whether a model's steps can be computed by a `LeanDecoder`: found out once."""

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
        with self._weights(backbone, adapter) as lean, skinny_linears(backbone.lm):
            for rows in request.in_order_of_length(settings.batch_size):
                ids, mask = request.trimmed(rows)
                eos_id, pad_id = request.eos_id, request.pad_id
                part = decode(backbone.lm, ids, mask, settings, uniforms[rows], eos_id, pad_id, on_token, lean=lean)
                parts.append((rows, part))
        return Generated.in_rows(len(request.prompt_ids), parts, request.pad_id)

    @contextmanager
    def _weights(self, backbone: Backbone, adapter: str | None) -> Iterator[LeanDecoder | None]:
        """Bring the adapter into the weights, for decoding in the model or with copies of them."""
        lean = self._lean_decoder(backbone, adapter)
        if lean:
            with backbone.using(None), lean.in_model():  # for the prompts
                yield lean
        else:
            with backbone.merged(adapter):
                yield None

    def _lean_decoder(self, backbone: Backbone, adapter: str | None) -> LeanDecoder | None:
        if not self._lean.get(backbone, fits(backbone.lm)):
            return None
        on_gpu = backbone.lm.get_input_embeddings().weight.is_cuda
        decoder = GpuDecoder(backbone.lm, adapter) if on_gpu else LeanDecoder(backbone.lm, adapter)
        if backbone not in self._lean:
            with backbone.using(adapter):
                self._lean[backbone] = agrees(backbone.lm, decoder)
        return decoder if self._lean[backbone] else None
