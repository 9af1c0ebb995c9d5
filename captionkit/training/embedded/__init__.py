"""The captioner that ships inside the package: trained on drawn scenes, judged by whether its captions are true."""
