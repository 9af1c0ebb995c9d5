"""`python -m captionkit`: the `captionkit` command."""

import sys

from captionkit.cli import main

sys.exit(main())
