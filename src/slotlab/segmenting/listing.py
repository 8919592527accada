"""What became of each image."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from slotlab.atomic import replacing

Status = Literal["written", "kept", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        image: its path.
        name: path of its outputs below the output folder, without suffix.
        status: "written"; "kept", because an earlier call had written it; "skipped", because it cannot be read.
        reason: why it was skipped; else empty.
    """

    image: str
    name: str
    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Listing:
    """What became of all images, in their order.

    Attributes:
        protocol: fit, source of the masks, seed, and what the model says of itself, as JSON values.
        outcomes: one for each image.
    """

    protocol: dict[str, Any]
    outcomes: Sequence[Outcome]

    @property
    def skipped(self) -> list[Outcome]:
        """The images that could not be read."""
        return [outcome for outcome in self.outcomes if outcome.status == "skipped"]

    def count(self, status: Status) -> int:
        """How many images had this outcome."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Protocol, counts and all outcomes, as JSON values."""
        counts = {status: self.count(status) for status in ("written", "kept", "skipped")}
        return {"protocol": self.protocol, **counts, "images": [asdict(outcome) for outcome in self.outcomes]}

    def write_csv(self, path: Path) -> None:
        """Writes a row for each image, whole or not at all."""
        columns = [field.name for field in fields(Outcome)]
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(asdict(outcome) for outcome in self.outcomes)
