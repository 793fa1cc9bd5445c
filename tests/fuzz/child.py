"""The process that the readers are tried in: it answers one line of JSON for every line that it is sent.

    {"reader": NAME}                                       sets it up; {"seeds": n, "insides": […]}
    {"reader": NAME, "seed": i, "inside": …, "edits": […]}  tries one input
    {"reader": NAME, "raw": BASE64}                        tries these bytes

An answer: `end` (value, refused, error), `told`, `cpu_s`, `wall_s`, `mib` (by how much the memory in use rose at its
highest), `did` (what the audit hook saw that a reader has no business with). The input lies in HERE/NAME.input while it is read,
so that whoever started this process knows what killed it.

    python child.py HERE
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from model_readers import READERS
from mutate import mutated
from readers import Reader

from cxr.errors import UserError

ADDRESS_SPACE = 3 << 30  # bytes above what the process has when it is ready: a bomb ends in a MemoryError
CODE = {
    *(
        "os.system",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "pty.spawn",
    ),
    *("subprocess.Popen", "socket.connect", "ctypes.dlopen", "pickle.find_class"),
}
CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """An audit hook, deaf until `armed`; it cannot be taken off again, which is why this is a process of its own."""

    def __init__(self, here: Path) -> None:
        self.here, self.armed, self.did = f"{here}{os.sep}", False, set[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in CODE:
            self.did.add(f"{event} {arguments!r:.100}")
        elif event == "exec" and getattr(arguments[0], "co_filename", "<").startswith("<string"):
            self.did.add(f"exec of {arguments[0]!r:.100}")
        elif event in CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        ):
            place = arguments[0]
            if not isinstance(place, int) and not os.path.abspath(os.fsdecode(place)).startswith(self.here):  # noqa: PTH100
                self.did.add(f"{event} {arguments!r:.150}")


def _memory_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    room = int(_memory_mib("VmSize")) * (1 << 20) + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _try(reader: Reader, data: bytes, watch: Watch) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # the highest memory in use is counted from here
    before, end, told = _memory_mib("VmRSS"), "value", ""
    cpu, wall = time.process_time(), time.monotonic()
    watch.did, watch.armed = set(), True
    try:
        reader.read(data)
    except UserError as error:
        end, told = "refused", str(error)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in at if f"{os.sep}cxr{os.sep}" in f.filename]
        end, told = (
            "error",
            f"{type(error).__name__} at {(ours or [f'{Path(at[-1].filename).name}:{at[-1].lineno}'])[-1]}: {error!s:.300}",
        )
    finally:
        watch.armed = False
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    rose = max(0.0, _memory_mib("VmHWM") - before)
    return {"end": end, "told": told, "cpu_s": cpu, "wall_s": wall, "mib": rose, "did": sorted(watch.did)}


def main() -> None:
    """Answer until standard input ends."""
    here = Path(sys.argv[1]).resolve()
    os.chdir(here)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    watch, ready = Watch(here), dict[str, Reader]()
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked["reader"]
        if not name:
            print(json.dumps({"readers": list(READERS)}), file=answers, flush=True)
            continue
        if name not in ready:
            resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
            place = here / name
            place.mkdir()
            ready[name] = READERS[name](place)
            for seed in ready[name].seeds:  # what is imported late is imported now, and good files are taken
                with suppress(UserError if "program" in name else ()):
                    ready[name].read(seed)
            if (torch := sys.modules.get("torch")) is not None:
                str(
                    torch.zeros(1)
                )  # as a message that names a tensor does: torch makes a named tuple on the way
            _limit()
        reader = ready[name]
        if "raw" in asked or "edits" in asked:
            data = (
                base64.b64decode(asked["raw"])
                if "raw" in asked
                else mutated(reader.seeds, asked["seed"], asked["inside"], asked["edits"])
            )
            (here / f"{name}.input").write_bytes(data)
            answer: dict[str, Any] = _try(reader, data, watch)
        else:
            answer = {"seeds": len(reader.seeds), "insides": reader.insides}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
