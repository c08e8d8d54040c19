"""Self-supervised multi-view stereo by knowledge distillation (KD-MVS), as a library of file-producing stages."""

import os

MOST_PIXELS = 200_000_000
"""An image of more is refused: a few bytes can promise more than any memory holds. The largest photographs of phones
have as many (16320 x 12240)."""
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))  # read when cv2 is imported, wherever that is
