"""Every format that hpcseg reads."""

from __future__ import annotations

from tests.fuzzing import inputs, run_files, tensors

FORMATS = (*tensors.FORMATS, *run_files.FORMATS, *inputs.FORMATS)
