"""A contact sheet of `slotlab segment`: every image, unselected, with what it was taken apart into below it.

    slotlab scenes write data/unseen --variant plain --max-objects 6 --count 32 --size 64 --seed 777
    python benchmarks/segment_sheet.py data/unseen --model scenes-64 --out sheet.png

docs/images/segmented.png was made so: 32 scenes of a seed that no training or validation scene has.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

import slotlab
from slotlab.data.folders import image_files

SIDE, GAP, COLUMNS = 112, 4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder")
    parser.add_argument("--model", default="scenes-64")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    options = parser.parse_args()
    files = [file for file in image_files(options.images, nested=True) if not file.stem.endswith("_flat")]
    model = slotlab.load(options.model)
    rows = -(-len(files) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, rows * (2 * SIDE + 3 * GAP) - 2 * GAP), "white")
    with tempfile.TemporaryDirectory() as folder:
        listing = slotlab.segment(model, files, out=Path(folder) / "segments")
        for place, outcome in enumerate(listing.outcomes):
            overlay = Path(folder) / "segments" / f"{outcome.name}_overlay.png"
            for line, path in enumerate((Path(outcome.image), overlay)):
                left = place % COLUMNS * (SIDE + GAP)
                top = place // COLUMNS * (2 * SIDE + 3 * GAP) + line * (SIDE + GAP)
                sheet.paste(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
