"""Which rows of a data set are train, val and test."""

from collections.abc import Mapping

from slotlab.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


def by_order(total: int) -> dict[str, range]:
    """The published CLEVRTex rule, on rows in sorted order: test [0, 10 %), val [10, 20 %), train [20, 100 %)."""
    tenth, fifth = total // 10, total // 5
    return {"test": range(tenth), "val": range(tenth, fifth), "train": range(fifth, total)}


def choose(splits: Mapping[str, range], split: str, total: int, data: str) -> tuple[range, str]:
    """The rows of `split`, and the name to report for them.

    A data set with no splits at all (empty `splits`) is used whole under every name, and reported as "all".

    Raises:
        ConfigError: if `split` is not one of train, val, test, all.
        DataError: if the data set has no such split, or nothing in it.
    """
    if split not in (*SPLITS, "all"):
        raise ConfigError(f"split={split!r}: expected one of {', '.join((*SPLITS, 'all'))}")
    if split == "all" or not splits:
        return range(total), "all"
    if split not in splits:
        raise DataError(f"{data}: no split {split!r}; it has {', '.join(splits)}: ask for one of these, or for 'all'")
    rows = splits[split]
    if not rows:
        filled = ", ".join(f"{name} {len(r)}" for name, r in splits.items())
        raise DataError(f"{data}: split {split!r} is empty ({filled}); add images, or ask for split 'all'")
    return rows, split
