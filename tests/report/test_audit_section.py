"""What audits found, in a report: a table, a mark in the rows and in the summary; runs that were not audited."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cxr.metric.audit_record import Verdict, write_audit
from cxr.report.build import build_report
from cxr.report.runs import load_run

CLEAN = Verdict("a patient in two parts", "clean", "none of 40 patients", 40)
LEAK = Verdict("a file in two parts", "LEAK", "2 of 120 <images>", 120, "id-0123", "train again")


def test_the_report_carries_the_verdicts(make_run: Callable[..., Path], tmp_path: Path) -> None:
    real = [make_run(tmp_path, f"real-{seed}", seed=seed, paper=None) for seed in range(2)]
    added = make_run(tmp_path, "added", arm="synthetic", wrong=3, n_synthetic=9, paper=None)
    write_audit(real[0], [CLEAN], {})
    write_audit(added, [CLEAN, LEAK], {})
    page = build_report([*real, added], [], tmp_path / "out", "mine").read_text(encoding="utf-8")
    told = (tmp_path / "out" / "leaks.md").read_text(encoding="utf-8")
    rows = (tmp_path / "out" / "leaks.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1] == "talukdar_cnn,real images only,not audited: evaluate.py audit=real-1,1 of 2,1,0,0"
    assert (
        rows[2] == 'talukdar_cnn,with GAN images,"LEAK: a file in two parts, 2 of 120 <images>",1 of 1,1,1,0'
    )
    assert "Leaks looked for" in page and "2 of 120 &lt;images&gt;" in page and "<images>" not in page
    assert "That is no result: LEAK, an audit found one in these runs" in page.replace("\u00a0", " ")
    assert "a patient in two parts" in told
    document = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Leaks looked for" in document and "LEAK: a file in two parts" in document
    marked = {
        path.name for path in (tmp_path / "out").glob("*.csv") if ",LEAK," in path.read_text(encoding="utf-8")
    }
    assert "results.csv" in marked


def test_an_audit_of_an_older_result_counts_as_none(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path, "r", paper=None)
    write_audit(run, [LEAK], {})
    assert load_run(run).audit == (LEAK,)
    (run / "result.json").write_text((run / "result.json").read_text() + "\n")
    assert load_run(run).audit is None
