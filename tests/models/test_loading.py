"""Causal LMs that are refused before their weights are loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.loading import load_causal_lm
from rlhf_lightning.models.sources import resolve

KEY = "model.init_args.base_model"
METHODS: list[tuple[dict[str, Any], Any]] = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, None),
    ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, None),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, 8),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, 4),
    ({"quant_method": "gptq", "bits": 4}, None),
    ({"quant_method": "gptq", "bits": 4}, 4),
    ({"quant_method": "fp8"}, None),
]


@pytest.mark.parametrize(("settings", "bits"), METHODS)
def test_a_base_that_is_quantized_already_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], bits: Any
) -> None:
    model = Path(shutil.copytree(resolve("embedded:tiny"), tmp_path / "model"))
    config = json.loads((model / "config.json").read_text()) | {"quantization_config": settings}
    (model / "config.json").write_text(json.dumps(config))

    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded the weights")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(UserError) as refusal:
        load_causal_lm(str(model), key=KEY, bits=bits)
    message = str(refusal.value)
    assert message.startswith(f"{KEY}: the weights in {str(model)!r} are quantized already ({settings['quant_method']}")
    assert "model.init_args.lora.base_bits" in message
