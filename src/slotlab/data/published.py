"""Photographs and data sets to start with: the samples that ship with the package."""

import filecmp
import shutil
from pathlib import Path

from slotlab.errors import ConfigError
from slotlab.files import replacing

SAMPLES = Path(__file__).parents[1] / "samples"


def copy_samples(out: str | Path) -> list[Path]:
    """Copies five sample photographs (COCO, CC BY 2.0) and their credits into a folder.

    Returns:
        The photographs' paths in `out`, sorted.

    Raises:
        ConfigError: `out` has another file of the same name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in copy_samples(folder)]
        ['bus.jpg', 'cyclist.jpg', 'flowers.jpg', 'fruit.jpg', 'giraffes.jpg']
    """
    files = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".md"))
    out = Path(out)
    for file in files:
        target = out / file.name
        if target.exists() and not (target.is_file() and filecmp.cmp(file, target, shallow=False)):
            raise ConfigError(f"{target}: exists and is another file; name a new folder")
    for file in files:
        with replacing(out / file.name) as temporary:
            shutil.copyfile(file, temporary)
    return [out / file.name for file in files if file.suffix == ".jpg"]
