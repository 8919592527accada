"""Reading a whole data set once, to know what is in it and what is broken."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group
from rich.progress import track
from rich.table import Table
from rich.text import Text

from slotlab.data.dataset import BrokenFile, PixelDataset
from slotlab.data.folders import ClevrTex
from slotlab.data.images import square, to_pixels
from slotlab.data.loading import in_order
from slotlab.data.open import open_data
from slotlab.data.packed import Packed
from slotlab.errors import DataError

MOST_SHOWN = 20


@dataclass
class DataCheck:
    """What `check_data` found.

    `objects` and `objects_cropped` count pictures by their number of distinct ids other than 0, in the stored picture
    and in what the default crop (or the one given) leaves of it. `gaps` counts masks whose ids are not 1..n:
    they are fine.
    """

    data: str
    kind: str
    splits: dict[str, int]
    count: int
    masks: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    crop: float = 1.0
    objects: dict[int, int] = field(default_factory=dict)
    objects_cropped: dict[int, int] = field(default_factory=dict)
    gaps: int = 0
    broken: list[BrokenFile] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything could be read."""
        return not self.broken

    def as_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"broken": [file._asdict() for file in self.broken], "ok": self.ok}

    def table(self) -> Group:
        """A table, with the broken files below it."""
        table = Table(title=f"{self.data} ({self.kind})", show_header=False)
        splits = ", ".join(f"{name} {size}" for name, size in self.splits.items()) or "none: used whole"
        table.add_row("pictures", f"{self.count}")
        table.add_row("splits", splits)
        table.add_row("sizes", _counted(self.sizes))
        table.add_row("modes", _counted(self.modes))
        table.add_row("with masks", f"{self.masks}")
        if self.masks:
            table.add_row("objects: pictures", _counted(self.objects))
            if self.crop < 1:
                table.add_row(f"objects after crop {self.crop:g}", _counted(self.objects_cropped))
            table.add_row("ids with gaps", f"{self.gaps} (allowed)" if self.gaps else "0")
        table.add_row("broken", Text(str(len(self.broken)), style="bold red" if self.broken else "green"))
        lines = [Text(file.reason) for file in self.broken[:MOST_SHOWN]]
        if len(self.broken) > MOST_SHOWN:
            lines.append(Text(f"... and {len(self.broken) - MOST_SHOWN} more"))
        return Group(table, *lines)

    def __rich__(self) -> Group:
        return self.table()


class _Found(NamedTuple):
    broken: list[BrokenFile]
    size: str = ""
    mode: str = ""
    objects: int | None = None
    objects_cropped: int = 0
    gaps: bool = False


def check_data(spec: str | Path, *, progress: bool = False, threads: int | None = None, **options: Any) -> DataCheck:
    """Reads every picture and mask of a data set, whatever it meets, and reports what is there.

    Args:
        spec: as for `open_data`.
        progress: show a progress bar.
        threads: how many pictures to decode at once; by default the number of cores, at most 8.
        **options: passed on to `open_data`.

    Raises:
        DataError: if there is no data set at all; broken pictures do not raise, they are listed.
    """
    opening: dict[str, Any] = {"split": "all", "skip_broken": True} | options
    dataset: Any = open_data(spec, **opening)
    splits = {name: len(rows) for name, rows in dataset.splits.items()}
    result = DataCheck(str(spec), dataset.kind, splits, len(dataset), crop=dataset.describe()["crop"])
    result.broken += dataset.broken
    if isinstance(dataset, Packed):
        result.broken += dataset.verify()
    sizes, modes, objects, cropped = Counter[str](), Counter[str](), Counter[int](), Counter[int]()
    if isinstance(dataset, PixelDataset):
        pictures = _stored(dataset, threads)
    elif dataset.has_masks or opening["split"] != "all":
        pictures = _batched(dataset)
    else:  # some of its splits may have masks
        parts = (open_data(spec, **dict[str, Any](opening, split=name)) for name in splits or ["all"])
        pictures = chain.from_iterable(map(_batched, parts))
    for found in track(pictures, f"reading {spec}", total=len(dataset), disable=not progress):
        known = {file.file for file in result.broken}
        result.broken += [file for file in found.broken if file.file not in known]
        if not found.size:
            continue
        sizes[found.size] += 1
        modes[found.mode] += 1
        if found.objects is not None:
            result.masks += 1
            objects[found.objects] += 1
            cropped[found.objects_cropped] += 1
            result.gaps += found.gaps
    result.sizes, result.modes = dict(sizes.most_common()), dict(modes.most_common())
    result.objects, result.objects_cropped = dict(sorted(objects.items())), dict(sorted(cropped.items()))
    return result


def _stored(dataset: PixelDataset, threads: int | None) -> Iterator[_Found]:
    def read(position: int) -> _Found:
        row = dataset.rows[position]
        broken: list[BrokenFile] = []
        if isinstance(dataset, ClevrTex) and dataset.paths[row].with_suffix(".json").exists():
            try:
                dataset.metadata(position)
            except DataError as error:
                broken.append(BrokenFile(str(dataset.paths[row].with_suffix(".json")), str(error)))
        try:
            picture = dataset.checked(row)
        except DataError as error:
            return _Found([*broken, BrokenFile(dataset.name(row), str(error))])
        size = f"{picture.image.shape[1]}x{picture.image.shape[0]}"
        if picture.mask is None:
            return _Found(broken, size, picture.mode)
        count, gaps = _objects(picture.mask)
        inside = square(picture, crop=dataset.crop, resolution=None).mask
        return _Found(broken, size, picture.mode, count, 0 if inside is None else _objects(inside)[0], gaps)

    return in_order(read, range(len(dataset)), threads)


def _batched(dataset: Any) -> Iterator[_Found]:
    for start in range(0, len(dataset), 64):
        images, masks = to_pixels(dataset.batch(range(start, min(start + 64, len(dataset)))))
        size = f"{images.shape[2]}x{images.shape[1]}"
        for i in range(len(images)):
            if masks is None:
                yield _Found([], size, "uint8")
            else:
                count, gaps = _objects(masks[i])
                yield _Found([], size, "uint8", count, count, gaps)


def _objects(mask: np.ndarray) -> tuple[int, bool]:
    """How many distinct ids other than 0, and whether they leave gaps in 1..n."""
    ids = np.unique(mask)
    ids = ids[ids != 0]
    return len(ids), bool(len(ids)) and int(ids.max()) != len(ids)


def _counted(counts: dict[Any, int]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in counts.items()) or "-"
