"""What S3 Standard asks for requests in us-east-1: dollars a million, list price of 2025. Other storage has others."""

from typing import Final

READ_PER_MILLION: Final = 0.40
"""A request that reads or asks about an object."""
WRITE_PER_MILLION: Final = 5.0
"""A request that writes an object, or lists a thousand of them."""
