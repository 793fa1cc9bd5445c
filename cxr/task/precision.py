"""Which precision `trainer.precision=auto` is: bfloat16 where the device computes in it, else float32.

A mixed bf16 training keeps weights, gradients and optimiser in float32 and multiplies in bfloat16: 2 to 3 x faster on GPUs
since Ampere and on CPUs with AVX512-BF16, AMX or Arm's BF16. Elsewhere bfloat16
is made up from float32 and slower than it. `auto` is what a run's identity holds, whatever the machine; what it
became is in the manifest, and a run that goes on elsewhere goes on in that.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Literal

import torch

__all__ = ["Precision", "native_precision"]

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux names them; the last is Arm's
AMPERE = 8  # compute capability


def native_precision(
    accelerator: str, devices: int | list[int] | str, information: Path = Path("/proc/cpuinfo")
) -> tuple[Literal["32-true", "bf16-mixed"], str]:
    """Return the precision that `auto` is, and why, in words.

    accelerator, devices: as of `make_trainer`; of several GPUs the oldest decides. information: Linux' on the CPU.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        numbers = devices if isinstance(devices, list) else range(torch.cuda.device_count())
        oldest = min(numbers, key=torch.cuda.get_device_capability)
        native = torch.version.hip is not None or torch.cuda.get_device_capability(oldest)[0] >= AMPERE
        return _told(native, torch.cuda.get_device_name(oldest))
    name = platform.machine() or "this CPU"
    if accelerator == "auto" and torch.backends.mps.is_available():
        return _told(False, "Apple's GPU")
    try:
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux: it cannot say
        return _told(False, name)
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    has = sorted(CPU_FLAGS & set(flags.partition(":")[2].split()))
    return _told(bool(has), f"this CPU ({', '.join(has)})" if has else f"this CPU ({name})")


def _told(native: bool, device: str) -> tuple[Literal["32-true", "bf16-mixed"], str]:
    if native:
        return "bf16-mixed", f"{device} computes in bfloat16"
    return "32-true", f"{device} does not compute in bfloat16 by itself"
