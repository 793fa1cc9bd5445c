"""E. Metrics: scores that a sweep waits for, against torchmetrics, SciPy, torch-fidelity and scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.harness import Line, agree


def lines() -> Iterator[Line]:
    """Yield E5's first line."""
    from sklearn.metrics import roc_auc_score

    from cxr.metric.ranking import auroc

    rng = np.random.default_rng(0)
    target = (rng.random((25_596, 14)) < 0.1).astype(np.int64)
    score = (rng.random((25_596, 14)) + 0.3 * target).astype(np.float32)

    def ours() -> list[float | None]:
        return [auroc(target[:, c], score[:, c]) for c in range(14)]

    def theirs() -> list[float]:
        return [float(roc_auc_score(target[:, c], score[:, c])) for c in range(14)]

    yield Line(
        "E5", "AUROC, exact, 14 × 25,596", ">=", 1.7, ours=ours, peers={"scikit-learn": theirs},
        check=lambda: agree(ours()[0] or 0.0, theirs()[0], 1e-12),
    )  # fmt: skip
