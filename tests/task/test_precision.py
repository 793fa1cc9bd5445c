"""What `trainer.precision=auto` is, by device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.task.precision import native_precision

AMX = "processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 amx_bf16\n"
AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f notbf16\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd sve bf16\n"


@pytest.mark.parametrize(
    ("content", "expected", "why"),
    [(AMX, "bf16-mixed", "amx_bf16, avx512_bf16"), (AVX2, "32-true", "does not"), (GRAVITON, "bf16-mixed", "bf16"),
     ("", "32-true", "does not"), (None, "32-true", "does not")],
)  # fmt: skip
def test_cpu(content: str | None, expected: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    if content is not None:
        file.write_text(content)
    found, told = native_precision("cpu", 1, file)
    assert found == expected and why in told


@pytest.mark.parametrize(
    ("capabilities", "devices", "expected"),
    [([8], 1, "bf16-mixed"), ([9, 7], "auto", "32-true"), ([9, 7], [0], "bf16-mixed"), ([7], 1, "32-true")],
)
def test_gpu(capabilities: list[int], devices: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the oldest decides: all compute the same."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: (capabilities[i], 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")
    found, told = native_precision("auto", devices)
    assert found == expected and told.startswith("GPU")
    assert native_precision("cpu", 1, Path("/nowhere"))[0] == "32-true", "a GPU that is not asked for"
