"""A private SLURM cluster on loopback: `python supervise.py FOLDER NODES CPUS` keeps it until stdin closes.

Run as root, with the Debian packages slurm-wlm and munge; nothing of a system-wide munge or SLURM is touched: keys,
sockets, ports, states and logs are all the cluster's own, in FOLDER. It prints `ready` when all nodes are idle, or a
reason. stdin closes when whoever started it ends, however that happens (SIGKILL too): then every descendant is killed
and FOLDER removed. Daemons that leave their parent stay descendants of this process, which adopts them
(PR_SET_CHILD_SUBREAPER).
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
START_S = 30.0

CONFIG = """
ClusterName=cxr
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired, by default two minutes; 5 s is the least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
KillWait=5
SlurmdTimeout=15
ReturnToService=2
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory=2000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL MaxTime=1 State=UP
"""


def free_ports(n: int) -> int:
    """Return the first of `n` consecutive ports that nobody has now."""
    for _ in range(100):
        first = 20000 + secrets.randbelow(12000)  # below Linux's ephemeral ports
        sockets = [socket.socket() for _ in range(n)]
        try:
            for i, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise OSError("no free ports")


def start(folder: Path, nodes: int, cpus: int) -> None:
    """Write the configuration and start the daemons; returns when all nodes are idle."""
    first = free_ports(nodes + 1)
    (folder / "state").mkdir(parents=True)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    folder.chmod(0o755)
    config = CONFIG.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        nodes=nodes,
        cpus=cpus,
        controller=first,
        first=first + 1,
        last=first + nodes,
    )
    (folder / "slurm.conf").write_text(config)
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\n"
    )  # named, as the search for one may end in an error
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    own = [f"--{key}={folder}/munge.{value}" for key, value in MUNGE.items()]
    daemon(folder, "munged", "--foreground", "--force", "--num-threads=2", *own)
    wait_for(lambda: (folder / "munge.socket").exists(), folder, "munged")
    daemon(folder, "slurmctld", "-D")
    for number in range(1, nodes + 1):
        (folder / f"n{number}").mkdir()
        daemon(folder, "slurmd", "-D", "-N", f"n{number}")
    wait_for(lambda: idle() == nodes, folder, "slurmctld and slurmd")


MUNGE = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def daemon(folder: Path, *words: str) -> None:
    """Start a daemon in the foreground, its output in a file of its own."""
    with (folder / f"{words[0]}.out").open("ab") as out:
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def idle() -> int:
    """Return how many nodes are idle."""
    words = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
    shown = subprocess.run(words, text=True, capture_output=True, check=False)
    return shown.stdout.split().count("idle")


def wait_for(done: object, folder: Path, what: str) -> None:
    """Wait until `done()`."""
    until = time.monotonic() + START_S
    while not done():  # type: ignore[operator]
        if time.monotonic() > until:
            logs = "\n".join(p.read_text(errors="replace")[-600:] for p in sorted(folder.glob("*.out")))
            raise TimeoutError(f"{what} did not start in {START_S:.0f} s: {logs}")
        time.sleep(0.05)


def descendants(root: int) -> list[int]:
    """Return all living descendants of a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        state, parent = text.rpartition(")")[2].split()[:2]
        if state != "Z":
            children.setdefault(int(parent), []).append(int(text.split()[0]))
    found, left = [], [root]
    while left:
        left += (own := children.get(left.pop(), []))
        found += own
    return found


def kill_descendants() -> None:
    """Kill every descendant, and those that they have started meanwhile."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
        bury()


def bury() -> None:
    """Take note of children that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def bury_for_ever() -> None:
    """Bury those that were adopted."""
    while True:
        bury()
        time.sleep(0.2)


def main() -> None:
    """Start, say so, wait for the end of stdin, kill."""
    folder, nodes, cpus = Path(sys.argv[1]).resolve(), int(sys.argv[2]), int(sys.argv[3])
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the end of stdin tells
    try:
        try:
            start(folder, nodes, cpus)
        except (OSError, TimeoutError) as error:
            print(f"not started: {error}", flush=True)
            return
        threading.Thread(target=bury_for_ever, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        kill_descendants()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
