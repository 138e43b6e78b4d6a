"""Base models by name, each loaded once however many adapters sit on it."""

from __future__ import annotations

import torch

from rlhf_lightning.artefacts import Source
from rlhf_lightning.errors import UserError
from rlhf_lightning.models.backbone import Backbone
from rlhf_lightning.models.building import attach_adapter
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.lora import LoraSettings


class Bases:
    """Loads the bases of sources when they are needed, and lets go of those that are not needed any more."""

    def __init__(self, dtype: torch.dtype, device: torch.device, trust_remote_code: bool = False) -> None:
        """
        Args:
            dtype: Precision of the weights.
            device: Where to compute.
            trust_remote_code: Run code that comes with a model. Only for authors you trust.
        """
        self.dtype, self.device, self.trust_remote_code = dtype, device, trust_remote_code
        self._loaded: dict[str, Backbone] = {}

    def place(self, name: str, source: Source, key: str) -> tuple[Backbone, str | None]:
        """The backbone that a source is on, and the name of its adapter there (None without one).

        Args:
            name: Of the adapter, unique among sources on one base.
            source: What to load.
            key: Configuration key to name in an error.
        """
        if source.model not in self._loaded:
            lm = load_causal_lm(source.model, self.dtype, key, self.trust_remote_code)
            self._loaded[source.model] = Backbone(lm).to(self.device)
        base = self._loaded[source.model]
        if source.adapter and name not in base.adapters:
            attach_adapter(base, name, source, LoraSettings(), key, trainable=False)
            base.to(self.device)
        return base, name if source.adapter else None

    def keep_only(self, models: set[str]) -> None:
        """Let go of every base but these (`Source.model`), so that large models need not all be in memory at once."""
        for model in [m for m in self._loaded if m not in models]:
            del self._loaded[model]

    @property
    def loaded(self) -> list[str]:
        """`Source.model` of the bases in memory."""
        return list(self._loaded)


def usable_device(name: str) -> torch.device:
    """The device of that name, tried out; "auto" is a GPU where there is one.

    Raises:
        UserError: It cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
