"""Files made by strangers: each attack of docs/reliability.md is planted, and does nothing but give one line."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from cxr import config as door
from cxr.classifier.weights import load_local
from cxr.config import build
from cxr.data.synthetic import COLUMNS, load_synthetic, write_synthetic
from cxr.data.table import read_table
from cxr.errors import UserError
from cxr.extractor.cache import _read as read_features
from cxr.extractor.inception import _load as load_inception
from cxr.extractor.torchscript import TorchScriptExtractor
from cxr.files import below, file_sha256, read_json, write_json, write_text
from cxr.run import read_config
from cxr.run.folder import open_run
from cxr.share import KEY_FILE, Ids, clean_page
from cxr.target import SETTING, resolve_target
from cxr.task.checkpoint import load_checkpoint


class Evil:
    """What unpickles by writing the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there after the test."""
    file = tmp_path / "canary"
    yield file
    assert not file.exists(), "code out of the file ran"


def made(path: Path, name: str = "A") -> Path:
    rows = {"class": [name] * 3, "z_seed": 0, "z_index": range(3), "checkpoint_sha256": "ab", "score": np.nan}
    facts: dict[str, Any] = {
        "classes": [name],
        "seed": 0,
        "checkpoints": [],
        "trained_on": [],
        "split_fingerprint": "f",
    }
    images = np.zeros((3, 8, 8), np.uint8)
    return write_synthetic(path, images, pd.DataFrame(rows)[list(COLUMNS)], facts, None).path


def plant(path: Path) -> Path:
    """Leave the configuration of a finished GAN run at `path`."""
    path.mkdir(parents=True)
    node = {"_target_": "cxr.gan.talukdar.Generator"}
    write_text(path / "config.yaml", yaml.safe_dump({"gan": {"generator": node}, "data": {"root": "/d"}}))
    write_json(path / "status.json", {"state": "finished", "name": path.name})
    write_json(path / "manifest.json", {"trained_on": [], "split_fingerprint": "f"})
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "last.ckpt").write_bytes(b"never read")
    return path


def pickles(canary: Path) -> dict[str, bytes]:
    """The ways to wrap a pickle that torch reads: bare, as torch's zip, and as its old stream."""
    zipped, old = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": Evil(canary)}, zipped)
    torch.save({"state_dict": Evil(canary)}, old, _use_new_zipfile_serialization=False)
    return {"bare": pickle.dumps(Evil(canary)), "zip": zipped.getvalue(), "old": old.getvalue()}


def test_the_canary_sings_where_a_pickle_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "sung"
    torch.load(io.BytesIO(pickles(file)["zip"]), weights_only=False)
    assert file.exists()  # so the tests below can fail


READERS: dict[str, Callable[[Path], object]] = {
    "a checkpoint": load_checkpoint,
    "weights of a classifier": lambda file: load_local(torch.nn.Linear(1, 1), file, 1),
    "weights of Inception": load_inception,
    "a table": read_table,
    "JSON": read_json,
    "TorchScript": lambda file: TorchScriptExtractor(
        path=str(file), trust=True, input_size_px=None, input_range="0..1", channels=1
    ),
}


@pytest.mark.parametrize("wrapped", ["bare", "zip", "old"])
@pytest.mark.parametrize("what", READERS)
def test_a_pickle_gives_an_error_and_nothing_else(
    what: str, wrapped: str, canary: Path, tmp_path: Path
) -> None:
    for suffix in {"a table": (".csv", ".parquet"), "JSON": (".json",)}.get(
        what, (".ckpt", ".pth", ".safetensors")
    ):
        file = tmp_path / f"file{suffix}"
        file.write_bytes(pickles(canary)[wrapped])
        with pytest.raises(UserError, match=re.escape(str(file))) as told:
            READERS[what](file)
        assert "\n" not in str(told.value).strip()


@pytest.mark.parametrize("file", ["images.npy", "index.parquet", "manifest.json"])
def test_a_pickle_in_a_synthetic_set(file: str, canary: Path, tmp_path: Path) -> None:
    path = made(tmp_path / "set")
    if file == "images.npy":
        array = np.empty(3, object)
        array[:] = [Evil(canary)] * 3
        np.save(path / file, array, allow_pickle=True)
    else:
        (path / file).write_bytes(pickle.dumps(Evil(canary)))
    if file != "manifest.json":  # the attacker can hash, too
        told = read_json(path / "manifest.json")
        key = f"{Path(file).stem}_sha256"
        told = {k: v for k, v in told.items() if k != "facts_sha256"}  # as an older cxr left it
        write_json(path / "manifest.json", {**told, key: file_sha256(path / file)})
    with pytest.raises(UserError, match=r"set"):
        load_synthetic(path)


def test_a_pickle_in_parquet_s_own_metadata(canary: Path, tmp_path: Path) -> None:
    """CVE-2023-47248: pyarrow < 14.0.1 unpickled the type of a column."""
    field = pa.field("class", pa.string(), metadata={
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickle.dumps(Evil(canary), protocol=0),
    })  # fmt: skip
    table = pa.table([pa.array(["A"])], schema=pa.schema([field]))
    pq.write_table(table, tmp_path / "index.parquet")
    assert read_table(tmp_path / "index.parquet")["class"].tolist() == ["A"]


def test_a_pickle_in_kept_features_is_no_features(canary: Path, tmp_path: Path) -> None:
    array = np.empty(1, object)
    array[0] = Evil(canary)
    np.savez(tmp_path / "x.npz", features=array)
    assert read_features(tmp_path / "x.npz", 1) is None


def test_torchscript_is_a_program_and_runs_only_when_trusted(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    file.write_bytes(b"not even opened")
    with pytest.raises(UserError, match=r"extractor\.trust: .* set extractor\.trust=true"):
        TorchScriptExtractor(path=str(file), trust=False, input_size_px=None, input_range="0..1", channels=1)


TARGETS = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.load",
    "torch.optim.optimizer.partial",  # a library's module, but no optimiser
    "torch.nn.Module.__init_subclass__",
    "torch.hub.load",
    "lightning.pytorch.Trainer",
    "lightning.pytorch.core.module.torch.load",
    "hydra.utils.get_method",
    "hydra.utils.instantiate",
    "cxr.files.write_text",
    "cxr.files.os.system",  # Hydra would find it: cxr.files imports os
    "cxr.run.provenance.subprocess.run",
    "cxr.data.synthetic.write_synthetic",
    "cxr.classifier.acrnet.nn.Linear",
    "wandb.init",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_target_outside_the_list_is_never_called(target: str, nested: bool, canary: Path) -> None:
    evil = {"_target_": target, "command": f"touch {canary}", "_partial_": False}
    node = {"_target_": "torch.nn.Sequential", "_partial_": True, "x": [{"y": evil}]} if nested else evil
    with pytest.raises(UserError, match=r"_target_: |no such key"):
        build(node)
    with pytest.raises(UserError, match=r"_target_: "):
        resolve_target(target, "x")


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"_target_": "torch.nn.Identity", "_args_": ["x"]}, "_args_"),
        ({"_target_": "torch.nn.Linear", "in_features": "${oc.env:HOME}", "out_features": 1}, r"\$\{"),
        ({"_target_": ["os", "system"]}, "dotted name"),
        ({"_target_": "cxr.data.phantom.Phantom; import os"}, "dotted name"),
        ({"_target_": "cxr.gan.covidgan.Generator", "evil": 1}, "evil: no such key"),
    ],
)
def test_other_ways_past_the_signature(node: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(node)


def test_what_conf_names_and_parts_of_the_libraries_are_built() -> None:
    assert isinstance(
        build({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}), torch.nn.Linear
    )
    assert resolve_target("torch.optim.AdamW", "x") is torch.optim.AdamW
    assert (
        resolve_target("lightning.pytorch.callbacks.LearningRateMonitor", "x").__name__
        == "LearningRateMonitor"
    )
    with pytest.raises(UserError, match="did you mean 'Phantom'"):
        resolve_target("cxr.data.phantom.Fantom", "x")


def test_a_class_of_one_s_own_needs_the_environment_to_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=f"set {SETTING}=fractions.Fraction"):
        resolve_target("fractions.Fraction", "x")
    for named in ("fractions", "other,fractions.Fraction"):
        monkeypatch.setenv(SETTING, named)
        assert resolve_target("fractions.Fraction", "x").__name__ == "Fraction"
    with pytest.raises(UserError):
        resolve_target("fractions_evil.Fraction", "x")


EVIL_CONFIGS = {
    "a target": "gan: {generator: {_target_: os.system, command: 'touch CANARY'}}",
    "a nested target": "gan: {generator: {a: [{_target_: subprocess.Popen, args: 'touch CANARY', _partial_: true}]}}",
    "a tag of YAML": "gan: !!python/object/apply:os.system ['touch CANARY']",
    "the environment": "gan: {generator: {name: '${oc.env:WANDB_API_KEY}'}}",
    "a program": "data: {_target_: cxr.extractor.torchscript.TorchScriptExtractor, path: x, trust: true}",
    "a list": "[1, 2]",
    "no YAML": "gan: [",
    "a pickle": "",
}


@pytest.mark.parametrize("what", EVIL_CONFIGS)
def test_a_run_s_configuration_that_asks_for_more(what: str, canary: Path, tmp_path: Path) -> None:
    run = plant(tmp_path / "runs" / "x")
    text = EVIL_CONFIGS[what].replace("CANARY", str(canary)).encode()
    (run / "config.yaml").write_bytes(text or pickle.dumps(Evil(canary)))
    with pytest.raises(UserError, match=r"x/config\.yaml: ") as told:
        read_config(run)
    assert "\n" not in str(told.value)


def cli(script: str, *overrides: str) -> tuple[int, str]:
    """Run an entry point in this process; return its exit code and what it wrote on stderr."""
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    module = __import__(f"cxr.script.{script}", fromlist=["main"])
    sys.argv = [f"{script}.py", *overrides]
    try:
        module.main()
    except SystemExit as ended:
        return int(ended.code or 0), ""
    return 0, ""


@pytest.mark.parametrize(
    ("script", "overrides", "told"),
    [
        ("generate", ["run=evil"], r"config\.yaml: gan\.generator\._target_: os\.system may not be built"),
        ("generate", ["run=pickled", "accelerator=cpu"], r"last\.ckpt: not a checkpoint of cxr"),
        ("generate", ["run=../runs/good"], r"run: got '\.\./runs/good', expected a name below runs"),
        ("generate", ["run=/etc"], r"run: got '/etc', expected a name below runs"),
        ("generate", ["run=good", "name=../out"], r"name: got '\.\./out', expected a name below synthetic"),
        ("evaluate", ["runs=[../../x]"], r"runs: nothing below runs is called '\.\./\.\./x'"),
        ("evaluate", ["runs=[evil]"], r"config\.yaml: gan\.generator\._target_: os\.system may not be built"),
        ("train", ["optimizer._target_=os.system"], r"optimizer\._target_: os\.system may not be built"),
    ],
)
def test_the_door_gives_one_line_and_2(
    script: str, overrides: list[str], told: str, canary: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    plant(Path("runs/good"))
    evil = {"gan": {"generator": {"_target_": "os.system", "command": f"touch {canary}"}}}
    write_text(plant(Path("runs/evil")) / "config.yaml", yaml.safe_dump(evil))
    pickled = plant(Path("runs/pickled"))
    whole = yaml.safe_load((door.conf_dir() / "gan" / "talukdar.yaml").read_text())
    whole["generator"]["seed"] = whole["discriminator"]["seed"] = 0
    write_text(pickled / "config.yaml", yaml.safe_dump({"gan": whole}))
    (pickled / "checkpoints" / "last.ckpt").write_bytes(pickles(canary)["zip"])
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    code, _ = cli(script, *overrides)
    lines = capfd.readouterr().err.strip().splitlines()
    assert (code, len(lines)) == (2, 1), lines
    assert re.search(told, lines[0])
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/x", ""])
def test_a_name_does_not_lead_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: got"):
        below(tmp_path, name, "run")
    assert below(tmp_path, "a", "run") == tmp_path / "a"
    with pytest.raises(UserError):
        open_run(tmp_path / "runs", name, {}, {})


def test_pictures_in_a_page_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/root")
    page = '<img src="data:image/png;base64,AB/root/CD"> /root/x'
    assert clean_page(page) == '<img src="data:image/png;base64,AB/root/CD"> ~/x'


def test_ids_are_hashed_under_a_key_that_stays(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    ids, again, other = (
        Ids(tmp_path / "a", "hashed"),
        Ids(tmp_path / "a", "hashed"),
        Ids(tmp_path / "b", "hashed"),
    )
    assert re.fullmatch("id-[0-9a-f]{12}", ids("00000013_005.png"))
    assert ids("x") == again("x") != other("x")  # whoever has no key cannot try all ids
    assert ids("x") != ids("y") and Ids(tmp_path, "plain")("x") == "x"
    file = tmp_path / "a" / KEY_FILE
    assert (len(file.read_bytes()), file.stat().st_mode & 0o777) == (32, 0o600)
    assert not [p for p in (tmp_path / "a").iterdir() if p != file]
    shutil.rmtree(tmp_path / "b")
    assert Ids(tmp_path / "b", "hashed")("x").startswith("id-")  # nowhere to keep a key: one for now


SECRET = "0123456789abcdef" * 2 + "deadbeef"


def test_no_key_and_no_home_is_in_what_a_run_leaves(tmp_path: Path) -> None:
    """A run that works and one that fails, each by its command; all they leave and print is read."""
    home = tmp_path / "home" / "somebody"
    home.mkdir(parents=True)
    small = ["data.n_patients=12", "cache.size_px=32", "trainer.progress=none", "trainer.max_epochs=1"]
    small += ["classifier.image_size_px=32", "loader.num_workers=0"]
    environment = {**os.environ, "HOME": str(home), "WANDB_API_KEY": SECRET, "WANDB_MODE": "offline"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1]), "MPLCONFIGDIR": str(tmp_path / "mpl")}
    bad = home / "missing"
    good = ["name=good", *small, f"cache.dir={home}/cache"]
    commands = [good, ["name=bad", "data=folder", f"data.root={bad}", *small[1:]]]
    said = ""
    for overrides in commands:
        done = subprocess.run([sys.executable, "-m", "cxr.script.train", *overrides], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        said += done.stdout if overrides[0] == "name=good" else ""
        assert done.returncode == (0 if overrides[0] == "name=good" else 2), done.stderr
        assert SECRET not in done.stdout + done.stderr
    files = [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    assert {"manifest.json", "status.json", "config.yaml"} <= {p.name for p in files}
    for file in files:
        content = file.read_bytes()
        assert SECRET.encode() not in content, file
        # config.yaml is what the next command reads, so it says where things lie
        assert file.name == "config.yaml" or str(home).encode() not in content, file
    assert str(home) not in said


def test_the_error_of_a_failed_run_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    identity = {"data": {"root": "/home/somebody/x"}}
    with pytest.raises(OSError), open_run(tmp_path, "r", {}, identity) as run:
        run.start()
        raise OSError(f"/home/somebody/x: refused for {SECRET}")
    status = read_json(tmp_path / "r" / "status.json")
    assert (status["error"], status["identity"]["data"]["root"]) == ("OSError: ~/x: refused for ***", "~/x")
    write_text(tmp_path / "r" / "checkpoints" / "last.ckpt", "something to lose")
    with open_run(tmp_path, "r", {}, identity) as again:  # the same run, though the file has no home
        assert again.state == "failed"
    with pytest.raises(UserError, match="another configuration"):
        open_run(tmp_path, "r", {}, {"data": {"root": "/home/somebody/y"}})
