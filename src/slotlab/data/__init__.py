"""Reading pictures and masks: one reader per on-disk format, one sample type, one packed cache."""

from slotlab.data.arrays import Hdf5, Hub, Npz
from slotlab.data.coco import Coco, CocoClasses, CocoPanoptic, YoutubeVis
from slotlab.data.dataset import BrokenFile
from slotlab.data.folders import ClevrTex, ImageFolder
from slotlab.data.loading import evaluation_batches, shuffled_positions, training_batches
from slotlab.data.open import KINDS, DataCheck, check_data, open_data
from slotlab.data.packed import Packed
from slotlab.data.packing import pack
from slotlab.data.photographs import Bsds, Davis, Voc, VocClasses
from slotlab.data.published import copy_samples, download
from slotlab.data.sample import Batch, Sample, SlotDataset
from slotlab.data.scenes import Scenes, ScenesInMemory
from slotlab.data.shards import Shards, TfRecords
from slotlab.data.video import Clips, Films

__all__ = ["KINDS"]
__all__ += ["Batch", "BrokenFile", "Bsds", "ClevrTex", "Clips", "Coco", "CocoClasses", "CocoPanoptic", "DataCheck"]
__all__ += ["Davis", "Films", "Hdf5", "Hub", "ImageFolder", "Npz", "Packed", "Sample", "Scenes", "ScenesInMemory"]
__all__ += ["Shards", "SlotDataset", "TfRecords", "Voc", "VocClasses", "YoutubeVis"]
__all__ += ["check_data", "copy_samples", "download", "evaluation_batches", "open_data", "pack", "shuffled_positions"]
__all__ += ["training_batches"]
