"""Let `import torchvision` work beside a CPU-only torch.

The torchvision wheel on PyPI is built for CUDA. Beside a CPU-only torch its compiled
operators cannot load, and `import torchvision` (hence lightning, torchmetrics, timm) dies
with "operator torchvision::nms does not exist", because it registers meta kernels for
operators that were never declared. Declaring the two schemas first is enough: nothing in
cxr calls non-maximum suppression.

It has to happen before the first import of torchvision, also inside a job that a launcher
unpickles on another node, yet importing cxr must not import torch (5 s). So a finder on
`sys.meta_path` waits for that first import, declares the schemas, and steps aside.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["install"]

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[object] = []  # a torch.library.Library must outlive its schemas


class _BeforeTorchvision(MetaPathFinder):
    """Declare the missing schemas when torchvision is about to be imported, then find nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.machinery.PathFinder.find_spec(fullname, path)
            if spec is not None and spec.origin is not None:
                _declare_missing_schemas(Path(spec.origin).parent)
        return None


def _declare_missing_schemas(package: Path) -> None:
    """Declare `nms` and `qnms` unless torchvision's own operators load."""
    import torch
    from torch import library as torch_library

    for library in sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return
        except OSError:
            continue
    declared = torch_library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        declared.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(declared)


def install() -> None:
    """Wait for the first import of torchvision; idempotent."""
    if "torchvision" not in sys.modules and not any(isinstance(f, _BeforeTorchvision) for f in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())
