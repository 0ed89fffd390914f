"""Q16's learned prompts as a safetensors file that lies: one line."""

from __future__ import annotations

import pytest

from harness.errors import HarnessError
from harness.evaluators.q16_prompts import read_prompts
from tests.support.hostile_tensors import GOOD, lying_headers, of


def test_a_lying_header_of_q16s_prompts_is_one_line(tmp_path):
    for data in (*lying_headers().values(), of(GOOD)):
        (tmp_path / "prompts.safetensors").write_bytes(data)
        with pytest.raises(HarnessError) as error:
            read_prompts(tmp_path / "prompts.safetensors")
        assert "\n" not in str(error.value) and "prompts.safetensors" in str(error.value)
