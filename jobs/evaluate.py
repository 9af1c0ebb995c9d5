"""Judge a captioner: `ray job submit --working-dir . -- python jobs/evaluate.py --corpus … --output …`."""

import sys
from pathlib import Path

# From a working dir alone, where the package is not installed, it lies one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from captionkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
