"""trainer.compile: the same network, the same names, and one line where there is no compiler."""

from __future__ import annotations

import cxr  # noqa: F401  # first: it lets torchvision, and so lightning, be imported

# isort: split
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.callback.compile import CompileNetworks, check_compiler
from cxr.classifier.talukdar_cnn import TalukdarCNN
from cxr.errors import UserError


class Task(torch.nn.Module):
    """What the callback looks at."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = TalukdarCNN(image_size_px=24, channels=3, n_outputs=1, dropout=0.0, init="keras")


class Trainer:
    class strategy:  # noqa: N801 - a stand-in
        root_device = torch.device("cpu")


def setup(task: Task) -> None:
    callback: Any = CompileNetworks()
    callback.setup(Trainer(), task, "fit")


def test_without_a_compiler_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Inductor looks for g++ on the PATH and raises when the first graph is run."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    torch._dynamo.reset()
    with pytest.raises(UserError, match=r"trainer\.compile: .*set trainer\.compile=false") as caught:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(caught.value) and "g++" in str(caught.value)


def test_names_stay_and_forward_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that compiles nothing: what dynamo hands on is the network's graph, once a shape."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain = Task()
    x = torch.rand(2, 3, 24, 24)
    expected, names = plain.network(x), list(plain.state_dict())
    original = torch.nn.Module.compile
    monkeypatch.setattr("cxr.callback.compile.check_compiler", lambda device: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: original(module, backend=backend))
    setup(plain)
    torch.testing.assert_close(plain.network(x), expected)
    assert len(graphs) == 1 and list(plain.state_dict()) == names
    other = Task()
    other.load_state_dict(plain.state_dict())
    plain.network(x).sum().backward()
    assert all(p.grad is not None for p in plain.parameters())
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here: g++")
def test_inductor_computes_the_same() -> None:
    task, x = Task(), torch.rand(4, 3, 24, 24)
    expected = task.network(x).detach()
    setup(task)
    torch.testing.assert_close(task.network(x), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
