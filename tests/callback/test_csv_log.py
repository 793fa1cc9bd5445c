"""metrics.csv: rows by step, text that reads back, what a restored log makes of an older file."""

from __future__ import annotations

from pathlib import Path

from cxr.callback.csv_log import CSVLog


def test_values_of_a_step_share_a_row_and_columns_may_come_late(tmp_path: Path) -> None:
    log = CSVLog(save_dir=tmp_path)
    log.log_metrics({"loss": 0.5}, step=1)
    log.log_metrics({"epoch": 0}, step=1)
    log.log_metrics({"loss": 0.1}, step=3)
    log.save()
    assert log.path.read_text() == "step,loss,epoch\n1,0.5,0\n"  # the last row may still get values
    log.log_metrics({"kid": 1e-20}, step=3)
    log.log_metrics({"loss": float("nan")}, step=4)
    log.finalize("success")
    assert log.path.read_text() == "step,loss,epoch,kid\n1,0.5,0,\n3,0.1,,1e-20\n4,nan,,\n"


def test_rows_are_appended_not_rewritten(tmp_path: Path) -> None:
    log = CSVLog(save_dir=tmp_path)
    log.log_metrics({"loss": 1.5}, step=0)
    log.finalize("")
    inode = log.path.stat().st_ino
    log.log_metrics({"loss": 1.5}, step=0)  # a repeat changes nothing
    log.log_metrics({"loss": 2.5}, step=1)
    log.finalize("")
    assert log.path.stat().st_ino == inode
    log.log_metrics({"loss": 3.5}, step=1)  # a correction of a row on the disk does
    log.finalize("")
    assert log.path.read_text() == "step,loss\n0,1.5\n1,3.5\n"


def test_restore_forgets_what_a_killed_process_wrote_after_its_checkpoint(tmp_path: Path) -> None:
    log = CSVLog(save_dir=tmp_path)
    log.log_metrics({"loss": 1 / 3}, step=0)
    saved = log.text()
    log.log_metrics({"loss": 9.0, "later": 1.0}, step=1)
    log.finalize("")
    again = CSVLog(save_dir=tmp_path)
    again.restore(saved)
    again.log_metrics({"loss": 0.25}, step=1)
    again.finalize("")
    assert again.path.read_text() == f"step,loss\n0,{1 / 3!r}\n1,0.25\n"


def test_a_fresh_start_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,old\n7,7\n")
    log = CSVLog(save_dir=tmp_path)
    log.log_metrics({"loss": 1.0}, step=0)
    log.finalize("")
    assert log.path.read_text() == "step,loss\n0,1\n"
