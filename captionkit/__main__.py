"""`python -m captionkit`: the `captionkit` command."""

import os
import sys

# `-m` puts the current folder first, where a stranger's numpy.py may lie.
if not getattr(sys.flags, "safe_path", False) and os.path.abspath(sys.path[0]) == os.getcwd():
    del sys.path[0]

from captionkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
