"""Compiled functions: kept for the next process, and compiled anew where nothing can be kept."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import types

from cxr.jit import compiled

SOURCE = """
from numba import types
from cxr.jit import compiled
@compiled(types.int64(types.int64))
def twice(x):
    return 2 * x
"""


def loaded(file: Path):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "some_loops.py"
    file.write_text(SOURCE)
    return file


def test_code_is_kept_and_damaged_code_is_made_anew(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    assert loaded(file)(4) == 8
    kept = [one for one in (tmp_path / "kept").rglob("*") if one.is_file()]
    assert len(kept) == 2  # an index, the code
    again = loaded(file)
    assert again(4) == 8 and sum(again.stats.cache_hits.values()) == 1
    for one in kept:
        one.write_bytes(one.read_bytes()[:20])
    assert loaded(file)(4) == 8


def test_no_place_to_keep_code(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "a-file" / "kept"))
    assert loaded(file)(4) == 8
    namespace: dict[str, object] = {}
    exec(SOURCE, namespace)  # no file at all
    assert namespace["twice"](4) == 8  # type: ignore[operator]


def test_other_types_are_refused_and_threads_are_not_held_up() -> None:
    def total(values: np.ndarray) -> int:
        return int(values.sum())

    whole = compiled(types.int64(types.uint8[::1]))(total)
    assert whole(np.ones(3, np.uint8)) == 3
    assert whole.targetoptions["nogil"]  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        whole(np.ones((3, 3), np.float32))


def test_nobody_waits_for_numba_who_does_not_use_it() -> None:
    code = "import cxr.data.warp, cxr.data.recipe, cxr.data.cache, sys; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout == "False\n"
