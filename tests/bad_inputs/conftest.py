"""The fixture of all refusals."""

from __future__ import annotations

import pytest

from tests.bad_inputs.refusal import Refusal
from tests.conftest import TinyRuns


@pytest.fixture
def refused(tiny: TinyRuns, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(tiny, capsys)
