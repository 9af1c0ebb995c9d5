"""Where the processes that captionkit starts import from: never from the current folder, where strangers' files lie."""

from __future__ import annotations

import os
import sys
import sysconfig


def safe_search_path() -> list[str]:
    """`sys.path` without the current folder and relative entries, and with captionkit's own place.

    That place comes last where it is not there by itself, so that nothing beside the package shadows a library.
    """
    library = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # the folder is gone
        here = ""
    folders = [
        path
        for path in sys.path
        if os.path.isabs(path) and (os.path.realpath(path) != here or os.path.realpath(path) in library)
    ]
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return folders if own in folders else [*folders, own]


def safe_environment() -> dict[str, str]:
    """The variables by which a Python process of ours gets that search path.

    PYTHONSAFEPATH keeps the current folder away from `python -c` and the children of multiprocessing; Python 3.10
    does not know it.
    """
    return {"PYTHONPATH": os.pathsep.join(safe_search_path()), "PYTHONSAFEPATH": "1"}
