"""Broken input of every kind, each refused with one message before any training.

Checkpoints that cannot be resumed belong here too, in a file of their own.
"""

import pytest

pytest.register_assert_rewrite("tests.bad_inputs.refusal")
