"""The data of a run, as its config names it."""

import torch

from slotlab.data import Remembered, Scenes, SlotDataset, open_data
from slotlab.errors import ConfigError
from slotlab.presets.config import RunConfig

ENDLESS = 1_000_000_000
MOST_REMEMBERED = 100_000


def open_split(config: RunConfig, split: str, device: torch.device | str = "cpu") -> SlotDataset:
    """The train or val split that `config.data` names, at the model's resolution.

    Scenes are rendered on `device`, fresh ones for ever in training unless `train_count` is set; on a CPU a limited
    number of them is kept in memory.

    Raises:
        DataError: the data set is missing or broken.
        ConfigError: the config does not say the model's resolution.
    """
    data = config.data
    count = data.train_count if split == "train" else data.validation_count
    resolution = config.model.get("resolution")
    if type(resolution) is not int or resolution < 1:
        raise ConfigError(f"model.resolution: a whole number of pixels is needed, not {resolution!r}")
    if data.source.startswith("scenes:"):
        scenes = open_data(
            data.source,
            split=split,
            resolution=resolution,
            count=count or (ENDLESS if split == "train" else None),
            seed=data.scene_seed,
            min_objects=data.min_objects,
            max_objects=data.max_objects,
            supersample=data.supersample,
            device=device,
        )
        on_cpu = torch.device(device).type == "cpu"
        return (
            Remembered(scenes) if on_cpu and isinstance(scenes, Scenes) and len(scenes) <= MOST_REMEMBERED else scenes
        )
    return open_data(
        data.source,
        split=split,
        resolution=resolution,
        crop=data.crop,
        count=count or None,
        skip_broken=data.skip_broken,
    )
