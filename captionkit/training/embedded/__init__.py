"""The embedded captioner: how it is trained on drawn scenes, and evaluated by whether its captions are true."""
