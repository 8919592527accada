"""The losses and scores of a run, row by row: `history.csv` and TensorBoard."""

import csv
from collections.abc import Iterable
from pathlib import Path

from slotlab.atomic import replacing

DIAGNOSED = ("slots_used", "mask_entropy", "attention_change")
COLUMNS: tuple[str, ...] = (
    "step",
    "epoch",
    "images",
    "seconds",
    "train_loss",
    "validation_loss",
    "learning_rate",
    "gradient_norm",
    "images_per_second",
    "ari",
    "fg_ari",
    "attention_ari",
    "attention_fg_ari",
    "posterior_ari",
    "posterior_fg_ari",
    *DIAGNOSED,
)
Row = dict[str, float]


class History:
    """Rows of a run so far; every `add` rewrites `history.csv` as a whole and appends to TensorBoard.

    Args:
        folder: the run folder.
        rows: what an interrupted run had recorded; later rows on disk are dropped.
    """

    def __init__(self, folder: Path, rows: Iterable[Row] = ()) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = folder / "history.csv"
        self.rows = list(rows)
        purge = int(self.rows[-1]["step"]) + 1 if self.rows else 0
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=purge)
        if self.rows:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def add(self, row: Row) -> None:
        """Records a row; its keys are among `COLUMNS`."""
        self.rows.append(row)
        self._write()
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        """Writes what TensorBoard has not written yet, and ends its thread."""
        self._board.close()

    def _write(self) -> None:
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(self.rows)


def read_history(folder: Path) -> list[Row]:
    """The rows of `history.csv` in `folder`; cells left empty are absent."""
    with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
