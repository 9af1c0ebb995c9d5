#!/usr/bin/env bash
# A handler of SIGTERM that raises an exception of its own, while the main thread waits in ray.get().
#
# Python lets what a handler raises out of whatever the main thread was in. ray 2.60.0: ray.get() goes on waiting until the
# task is done, however long that takes, and then raises SystemError; KeyboardInterrupt and SystemExit alone get through.
# So a program that ends cleanly on SIGTERM by an exception of its own (`ray job stop` sends SIGTERM) does not end while
# it waits for a task, nor while it waits in ray.train's fit(), which waits by ray.get().
# With SystemExit it does, and where another thread waits for Ray, and the main one for that thread.
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q ray==2.60.0
cd "$home"
"$home/venv/bin/python" - <<'PYTHON'
import os
import signal
import threading
import time

import ray

SECONDS = 8


class Stopped(BaseException):
    pass


@ray.remote
def slow():
    time.sleep(SECONDS)
    return "done"


def outcome(kind, wait):
    """What came of the main thread's waiting, and whether it ended at the signal."""

    def stop(*_):
        raise kind()

    signal.signal(signal.SIGTERM, stop)
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    start = time.monotonic()
    try:
        came = wait()
    except BaseException as error:
        came = type(error).__name__
    seconds = time.monotonic() - start
    print(f"{kind.__name__:<12}{wait.__name__:<10}{came:<20}{seconds:.1f} s")
    return came, seconds < SECONDS - 2


def in_python():
    time.sleep(SECONDS)
    return "done"


def in_ray():
    return ray.get(slow.remote())


def in_thread():
    came = []
    thread = threading.Thread(target=lambda: came.append(ray.get(slow.remote())), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    return came[0]


ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
ray.get(slow.remote())  # its worker has started
assert outcome(Stopped, in_python) == ("Stopped", True)
assert outcome(Stopped, in_ray) == ("SystemError", False), "this finding is over"
assert outcome(SystemExit, in_ray)[1]
assert outcome(Stopped, in_thread) == ("Stopped", True)
PYTHON
