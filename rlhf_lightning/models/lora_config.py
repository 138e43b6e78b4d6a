"""Reading an adapter's `adapter_config.json`: numbers and names of layers, and nothing that makes PEFT do more."""

from __future__ import annotations

from pathlib import Path

from peft import LoraConfig

from rlhf_lightning.errors import UserError
from rlhf_lightning.models.directory_checks import read_json

CONFIG_FILE = "adapter_config.json"
_READ = {
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "bias", "fan_in_fan_out", "lora_bias"),
    *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "task_type", "inference_mode"),
}
_ABOUT = {"base_model_name_or_path", "revision", "peft_version", "auto_mapping", "peft_type"}
"""What only describes the adapter. The base model is the one in `stage.json`, which has its fingerprint."""


def read_lora_config(directory: Path, key: str) -> LoraConfig:
    """The LoRA settings of an adapter directory.

    PEFT's other settings can name files to read and modules to import, or change the base model's weights; they
    must have their defaults.

    Raises:
        UserError: The file is missing or damaged, or sets something else.
    """
    file = directory / CONFIG_FILE
    settings = read_json(file, key)
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{key}: {file} is not of a LoRA adapter (peft_type {settings.get('peft_type')!r:.40}).")
    defaults = vars(LoraConfig())
    for name, value in settings.items():
        if name not in _READ | _ABOUT and value and value != defaults.get(name):
            raise UserError(
                f"{key}: {file} sets `{name}` to {value!r:.60}, which adapters trained here do not need and which can "
                "make PEFT read other files or change the base model. Remove it if you know what it does."
            )
    try:
        return LoraConfig(**{name: value for name, value in settings.items() if name in _READ})
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {file} is damaged: {error}") from error
