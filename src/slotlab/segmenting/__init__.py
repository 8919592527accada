"""Images as people have them, taken apart: one in memory, or folders of any size into files."""

from slotlab.segmenting.folder import Listing, Outcome, segment
from slotlab.segmenting.image import FITS, Fitting, SegmentedImage, fitting, segment_image

__all__ = ["FITS", "Fitting", "Listing", "Outcome", "SegmentedImage", "fitting", "segment", "segment_image"]
