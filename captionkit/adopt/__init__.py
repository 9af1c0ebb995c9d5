"""Captioners that people already have, as bundles: files of the PyTorch tutorial, of Keras's and of other projects.

Nothing of a file is run: pickles are walked (`pickles.py`), and what they hold is told by content, not by name.
"""
