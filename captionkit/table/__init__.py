"""The caption table: all that reads, writes, checks or mends it. No Ray, no torch."""
