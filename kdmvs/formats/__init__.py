"""One module per file format: read and write; a file that is not what it promises is a FormatError."""

MOST_PIXELS = 200_000_000
"""An image or map of more is refused from its header: a few bytes can promise more than any memory holds. The largest
photographs of phones have as many (16320 x 12240)."""
