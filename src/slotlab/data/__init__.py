"""Reading pictures and masks: one reader per on-disk format, one sample type, one packed cache."""

from slotlab.data.batches import evaluation_batches, shuffled_positions, training_batches
from slotlab.data.check import DataCheck, check_data
from slotlab.data.clevrtex import ClevrTex
from slotlab.data.hdf5 import Hdf5
from slotlab.data.hub import Hub
from slotlab.data.image_folder import ImageFolder
from slotlab.data.opening import KINDS, open_data
from slotlab.data.packed import Packed
from slotlab.data.packing import pack
from slotlab.data.pixels import BrokenFile
from slotlab.data.remembered import Remembered
from slotlab.data.sample import Batch, Sample, SlotDataset
from slotlab.data.scene_dataset import Scenes

__all__ = [
    "KINDS",
    "Batch",
    "BrokenFile",
    "ClevrTex",
    "DataCheck",
    "Hdf5",
    "Hub",
    "ImageFolder",
    "Packed",
    "Remembered",
    "Sample",
    "Scenes",
    "SlotDataset",
    "check_data",
    "evaluation_batches",
    "open_data",
    "pack",
    "shuffled_positions",
    "training_batches",
]
