"""Images as people have them, taken apart: one in memory, or folders of any size into files."""

from slotlab.segmenting.fitting import FITS, Fitting, fitting
from slotlab.segmenting.folder import segment
from slotlab.segmenting.image import SegmentedImage, segment_image
from slotlab.segmenting.listing import Listing, Outcome

__all__ = ["FITS", "Fitting", "Listing", "Outcome", "SegmentedImage", "fitting", "segment", "segment_image"]
