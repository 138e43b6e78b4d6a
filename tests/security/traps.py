"""A pickle that gives itself away, and the way a directory is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_lightning.errors import UserError
from rlhf_lightning.sft.module import SFTModule

KEY = "model.init_args.base_model"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def refusal(name: Path) -> str:
    """The message with which a directory is refused, by the whole way from its name to the weights."""
    with pytest.raises(UserError) as caught:
        SFTModule(str(name)).configure_model()
    message = str(caught.value)
    assert message.startswith(f"{KEY}: ")
    return message


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
