"""Reader of data sets of the `datasets` library, from a local folder or the hub; needs the `hub` extra."""

from pathlib import Path
from typing import Any

from slotlab.data.decoding import Picture, check_sizes, decode_image, decode_mask
from slotlab.data.pixels import PixelDataset
from slotlab.data.splits import SPLIT_NAMES, SPLITS, by_order
from slotlab.errors import DataError


def holds_saved_dataset(root: Path) -> bool:
    """Whether `root` was written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`."""
    return (root / "dataset_dict.json").is_file() or (
        (root / "state.json").is_file() and (root / "dataset_info.json").is_file()
    )


class Hub(PixelDataset):
    """A `datasets` data set with image columns.

    Dataset format:

    * a folder written by `save_to_disk`, or `owner/name` on the hub (`load_dataset`, which downloads it)
    * column `image`: feature `Image`
    * column `mask`, optional unless it is named by `mask=`: feature `Image`, a palette or grey picture of object ids,
      0 = background

    Splits by their names (train; val, validation, valid or dev; test); a data set without named splits, or with one
    only, is split by row as CLEVRTex: test [0, 10 %), val [10, 20 %), train [20, 100 %). Crop 1.0 of the shorter side.
    """

    kind = "hub"

    def __init__(
        self,
        source: str | Path,
        *,
        image: str = "image",
        mask: str | None = None,
        split: str = "train",
        resolution: int | None = None,
        crop: float | None = None,
        count: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        parts = _load(source)
        columns = sorted({name for part in parts.values() for name in part.column_names})
        if mask is not None and mask not in columns:
            raise DataError(f"{source}: no column {mask!r}; it has {', '.join(columns)}: pass another mask=, or none")
        mask = mask or "mask"
        self._image, self._mask = image, mask
        self._parts: list[Any] = []
        splits: dict[str, range] = {}
        total = 0
        for name, part in parts.items():
            self._parts.append(_undecoded(part, image, mask, f"{source}"))
            splits[name] = range(total, total + len(part))
            total += len(part)
        masked: dict[str, bool] = {name: mask in part.column_names for name, part in parts.items()}
        if len(parts) == 1:
            masked = {name: all(masked.values()) for name in (*SPLITS, "all")}
            splits = by_order(total)
        super().__init__(
            data=str(source),
            root=Path(source) if Path(source).exists() else None,
            total=total,
            splits=splits,
            has_masks=masked[split] if split in masked else all(masked.values()),
            split=split,
            resolution=resolution,
            crop=crop,
            count=count,
            skip_broken=skip_broken,
        )

    def read(self, row: int) -> Picture:
        """Decodes one row's image and mask."""
        part, offset = self._located(row)
        record, name = part[offset], self.name(row)
        image, mode = decode_image(_content(record[self._image], name), name)
        if self._mask not in record:
            return Picture(image, None, mode)
        mask_name = f"{name}, column {self._mask!r}"
        mask = decode_mask(_content(record[self._mask], mask_name), mask_name)
        check_sizes(image, mask, name, mask_name)
        return Picture(image, mask, mode)

    def name(self, row: int) -> str:
        """The data set and the row."""
        return f"{self.data}[{row}]"

    def _located(self, row: int) -> tuple[Any, int]:
        for part in self._parts:
            if row < len(part):
                return part, row
            row -= len(part)
        raise IndexError(row)


def _load(source: str | Path) -> dict[str, Any]:
    """The parts by split name; one part only is named "all"."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{source}: this kind needs the datasets library; pip install 'slotlab[hub]'") from error
    loaded: Any
    try:
        loaded = datasets.load_from_disk(str(source)) if Path(source).exists() else datasets.load_dataset(str(source))
    except Exception as error:  # datasets raises its own, huggingface_hub's, httpx's, pyarrow's, OSError, ValueError
        where = "copy the folder again" if Path(source).exists() else "check the name owner/name and the connection"
        raise DataError(f"{source}: cannot be loaded ({error}); {where}") from error
    if isinstance(loaded, datasets.Dataset):
        return {"all": loaded}
    if not isinstance(loaded, datasets.DatasetDict):
        raise DataError(f"{source}: a streaming data set; save it with save_to_disk first")
    known = {name: loaded[key] for name, keys in SPLIT_NAMES.items() for key in keys if key in loaded}
    if known:
        return known
    if len(loaded) == 1:
        return {"all": loaded[next(iter(loaded))]}
    raise DataError(f"{source}: splits {', '.join(map(str, loaded))}; expected train, validation or test: rename them")


def _undecoded(part: Any, image: str, mask: str, source: str) -> Any:
    """The image and mask columns alone, as bytes or paths, so that one decoder serves every format."""
    import datasets

    if image not in part.column_names:
        raise DataError(
            f"{source}: no column {image!r}; it has {', '.join(part.column_names)}: pass image= (and mask=)"
        )
    wanted = [name for name in (image, mask) if name in part.column_names]
    for name in wanted:
        if not isinstance(part.features[name], datasets.Image):
            raise DataError(
                f"{source}: column {name!r} is {part.features[name]}; expected the feature Image: "
                f"cast_column({name!r}, datasets.Image())"
            )
        part = part.cast_column(name, datasets.Image(decode=False))
    return part.select_columns(wanted)


def _content(value: Any, name: str) -> Path | bytes:
    if value is None:
        raise DataError(
            f"{name}: the value is missing; fill it, or pass skip_broken=True (--skip-broken) to use the next picture "
            "instead"
        )
    content = value["bytes"]
    return Path(value["path"]) if content is None else content
