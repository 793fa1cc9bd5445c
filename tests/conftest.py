"""What every test may use: the repository, the real data packs, one thread each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cxr  # noqa: F401  # first: arranges that torchvision can be imported

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout under test."""
    return REPOSITORY


@pytest.fixture(scope="session")
def pack() -> Callable[[str], Path]:
    """Return the folder of a real data pack; skip, with the reason, where it is absent."""

    def find(name: str) -> Path:
        root = Path(os.environ.get("CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / name
        if not root.is_dir():
            pytest.skip(f"real images are not here: no {name} under the data folder (CXR_TEST_DATA)")
        return root

    return find


class Written:
    """A part of docs/reliability.md, between `<!-- NAME: written by TEST -->` and `<!-- NAME: end -->`.

    `CXR_RENEW=1` lets the test that finds its numbers write them; else a page that says something else fails it.
    """

    renew = bool(os.environ.get("CXR_RENEW"))
    page = REPOSITORY / "docs" / "reliability.md"

    def __init__(self, name: str) -> None:
        self.name = name

    def _cut(self) -> tuple[str, str, str]:
        """Return the page up to and with the first mark, what is between, and the rest."""
        found = re.search(
            rf"(?s)^(.*<!-- {re.escape(self.name)}: written by [^\n]* -->\n)(.*)(\n<!-- {re.escape(self.name)}: end -->.*)$",
            self.page.read_text(encoding="utf-8"),
        )
        assert found, f"docs/reliability.md has no part '{self.name}'"
        return found[1], found[2], found[3]

    def read(self) -> str:
        """Return what the page says."""
        return self._cut()[1]

    def write(self, text: str) -> None:
        """Put `text` there where CXR_RENEW is set; do nothing else."""
        if self.renew:
            before, _, after = self._cut()
            self.page.write_text(f"{before}{text.strip()}{after}", encoding="utf-8")

    def agree(self, text: str) -> None:
        """Write `text`, or fail where the page says something else: for what every machine must find alike."""
        self.write(text)
        assert self.read() == text.strip(), (
            f"docs/reliability.md, '{self.name}': renew with CXR_RENEW=1 python -m pytest THIS_FILE"
        )


@pytest.fixture(scope="session")
def written() -> Callable[[str], Written]:
    """Return a part of docs/reliability.md by its name (`Written`)."""
    return Written


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `train`, `generate` or `evaluate` as a user would, in a fresh process in `tmp_path`."""

    def run(
        script: str, *overrides: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(REPOSITORY / f"{script}.py"), *overrides],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(env or {})},
            text=True,
            capture_output=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torch-fidelity's Inception with random weights: every machine has these, few the published ones.

    Variance-keeping weights, lest all images look alike after 48 layers.
    """
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Unloaded(theirs.FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity is untyped
        def load_state_dict(self, *_: object, **__: object) -> None:
            """Its constructor insists on weights."""

    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        network = Unloaded("inception-v3-compat", ["2048"])
        for layer in network.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(layer.weight)
        file = tmp_path_factory.mktemp("weights") / "random-inception.pth"
        torch.save(network.state_dict(), file)
    return file
