"""Segments a user's own images into objects: one in memory, or folders of any size into files."""

from slotlab.segmenting.clips import SegmentedClip, find_clips, segment_clips
from slotlab.segmenting.folder import Outcome, SegmentedFolder, find_inputs, segment
from slotlab.segmenting.formats import FORMATS, Photo, write_formats
from slotlab.segmenting.image import FITS, Fitting, SegmentedImage, fitting, segment_image

__all__ = ["FITS", "FORMATS", "Fitting", "Outcome", "Photo", "SegmentedFolder", "SegmentedImage"]
__all__ += ["find_inputs", "fitting", "segment", "segment_image", "write_formats"]
__all__ += ["SegmentedClip", "find_clips", "segment_clips"]
