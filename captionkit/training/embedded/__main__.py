"""`python -m captionkit.training.embedded`: train the embedded captioner, or evaluate one."""

import tyro

from captionkit.training.embedded.train import EmbeddedOptions, main

if __name__ == "__main__":
    main(tyro.cli(EmbeddedOptions, prog="python -m captionkit.training.embedded"))
