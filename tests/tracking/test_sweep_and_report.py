"""W&B sweeps compose through our door, and saved reports show what the runs log."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from cxr.config import check_config, conf_dir
from cxr.run import default_name

PAPERS = ("acrnet", "covidgan", "densenet14", "salehinejad", "talukdar")


def trials(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what an agent is told of each trial of a grid."""
    lists = {k: p.get("values", [p.get("value")]) for k, p in sweep["parameters"].items()}
    return [
        {k: {"value": v} for k, v in zip(lists, chosen, strict=True)}
        for chosen in itertools.product(*lists.values())
    ]


@pytest.mark.parametrize("paper", PAPERS)
def test_what_an_agent_runs_passes_our_door_under_a_name_of_its_own(paper: str, repository: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    sweep = yaml.safe_load((repository / "wandb_sweep" / f"{paper}.yaml").read_text("utf-8"))
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert (repository / sweep["program"]).is_file()
    assert sweep["metric"]["name"].startswith("val/")  # never the test images
    names = set()
    found = trials(sweep)
    composed = found[:: max(1, len(found) // 4)]  # every experiment would be seconds; all names are looked at
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for trial in found:
            typed = create_sweep_command_args({"args": trial})["args_no_hyphens"]
            names.add(default_name(trial["experiment"]["value"].replace("/", "-"), typed))
            if trial in composed:
                check_config(compose("train", typed), find_data=False)
    GlobalHydra.instance().clear()
    assert len(names) == len(found)
    assert not any("logger" in name or "progress" in name or "root" in name for name in names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own, of pydantic
@pytest.mark.parametrize("paper", PAPERS)
def test_a_saved_report_shows_what_runs_log(paper: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces", reason="needs pip install 'cxr[wandb-report]'")
    from cxr.script.wandb_report import main, spec_of

    main([paper, "--entity", "me", "--print"])
    text = capsys.readouterr().out
    spec = json.loads(text)
    filters = [
        {(f["key"]["name"], f["value"]) for f in run_set["filters"]["filters"]}
        for block in spec["blocks"]
        if block["type"] == "panel-grid"
        for run_set in block["metadata"]["runSets"]
    ]
    assert filters == [{("jobType", kind), ("paper", paper)} for kind in ("evaluate", "classifier", "gan")]
    lead = spec_of(paper).lead_metric
    for shown in (f"test/{lead}.low", f"test/{lead}.value", "val/auroc", "images_seen", "samples", "worst_errors",
                  "roc_table", "wandb/area-under-curve/v0"):  # fmt: skip
        assert f'"{shown}"' in text or shown in text, shown


def test_a_paper_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from cxr.script.wandb_report import main

    with pytest.raises(SystemExit) as ended:
        main(["talukdr"])
    assert ended.value.code == 2
    assert "talukdar" in capsys.readouterr().err
