"""What pages and pictures are drawn with: text made safe to show, thumbnails, attention maps, and captions of several
searches beside each other (`Comparison`)."""
