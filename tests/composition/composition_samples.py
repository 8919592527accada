"""A library of made-up slots, for tests that need no model."""

import numpy as np

from slotlab.composition import ConceptLibrary, SlotTable


def made_up_table(images=20, slots=5, dim=6, seed=0, dropped=()):
    """Slot 0 of each image is the background; the others lie around one of three centres, far apart.

    `dropped`: (image, slot) pairs that are not there. Image numbers are 100 + 3 * position.
    """
    random = np.random.default_rng(seed)
    rows = [(image, slot) for image in range(images) for slot in range(slots) if (image, slot) not in dropped]
    image, number = np.array(rows).T
    kind = random.integers(3, size=len(rows))
    vectors = 10 * np.eye(dim)[kind] + random.normal(scale=0.1, size=(len(rows), dim))
    vectors[number == 0] = -10
    return SlotTable(
        slots=vectors.astype(np.float32),
        position=image,
        index=100 + 3 * image,
        number=number,
        area=np.where(number == 0, 0.6, 0.02).astype(np.float32),
        centre=random.uniform(-0.9, 0.9, (len(rows), 2)).astype(np.float32),
        background=number == 0,
        facts={
            "model": {},
            "fingerprint": "0" * 64,
            "data": {"data": "made up"},
            "seed": 0,
            "slots_per_image": slots,
            "images": images,
            "dropped": len(dropped),
            "rules": {},
        },
    )


def made_up_library(concepts=4, **options):
    return ConceptLibrary.fit(made_up_table(**options), concepts=concepts)
