"""What a data worker does with signals: its parent ends it, nobody else, and it ends with its parent.

A signal to the whole process group (Ctrl-C, `scancel`, a service manager) would end the workers at once, and the
parent, which means to finish its step, would fail for lack of images.
"""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
import sys
import threading

from cxr._parent import end_with_parent

__all__ = ["begin_worker"]


def begin_worker(worker: int) -> None:
    """Leave to the parent what the parent answers; the `worker_init_fn` of a DataLoader."""
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_unsent)  # type: ignore[attr-defined]  # a hook that the stubs lack
    # Elsewhere than on Linux a worker looks for its parent every 5 s while it waits for work (torch's own watch).
    end_with_parent(signal.SIGKILL, os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform != "linux":  # no sigwaitinfo: SIGTERM to the group ends the worker
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # for the thread below to take
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _unsent(error: BaseException, batch: object) -> None:
    """End the worker, which cannot send a batch: /dev/shm is full. Python drops it, and the parent waits for ever."""
    print(f"data worker: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    os._exit(1)


def _obey(parent: int) -> None:
    """End on the parent's own SIGTERM: DataLoader and multiprocessing send it to a worker that is left at exit."""
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)  # anything else makes torch raise an error in the parent
