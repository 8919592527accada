"""How close compositions are to real pictures, beside what plain reconstructions and shuffled slots reach."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from slotlab.composition.compositions import IMAGES_FOLDER, compose, image_path, read_settings, write_image
from slotlab.composition.library import ConceptLibrary
from slotlab.composition.slots import see
from slotlab.data import SlotDataset, evaluation_batches
from slotlab.distributed import from_first, place_among_processes, wait_for_all
from slotlab.errors import ConfigError
from slotlab.fidelity import (
    FeatureNet,
    FidelityWarning,
    FrechetResult,
    SetStatistics,
    compare,
    folder_statistics,
    open_network,
)
from slotlab.files import remove, replacing
from slotlab.models import Model, with_slots
from slotlab.models.building import evaluating
from slotlab.models.fingerprint import fingerprint
from slotlab.models.randomness import seeded_generator

SCORES_FILE, SCORE_FOLDER = "scores.json", "score"
DONE_FILE = "protocol.json"
OnProgress = Callable[[str, int, int], None]  # told what is being made, how much of it is done, and of how much
REAL, RECONSTRUCTIONS, SHUFFLE = "real", "reconstructions", "shuffle"


@dataclass(frozen=True)
class CompositionScores:
    """Distances to real pictures, by what is compared with them: the protocol, "reconstructions" and "shuffle".

    `protocol` says what they were measured on, as JSON values.
    """

    protocol: dict[str, Any]
    results: dict[str, FrechetResult]

    def to_json(self) -> dict[str, Any]:
        """What `scores.json` holds."""
        return {"protocol": self.protocol, **{name: result.as_dict() for name, result in self.results.items()}}


def score_compositions(
    model: Model,
    library: ConceptLibrary,
    out: str | Path,
    dataset: SlotDataset,
    *,
    features: str | Path = "inception",
    inception: str | Path | None = None,
    device: str = "cpu",
    beside: str | Path | None = None,
    on_batch: OnProgress | None = None,
) -> CompositionScores:
    """Scores the finished composition in `out` against the real images of `dataset`, and writes `scores.json` there.

    Beside it are scored plain reconstructions of the real images (as many as there are compositions, if there are that
    many), which is the best that the decoder could reach, and the `shuffle` protocol. These pictures and their features
    lie in the folder `beside`; those of an earlier call with the same library, data and seed are used again. Several
    processes paint together; the first measures.

    Args:
        model: that painted the composition; put into evaluation mode for the time.
        library: the composition's.
        out: its folder.
        dataset: real images at the model's resolution, such as the val split.
        features: feature net of the distance, see `slotlab.fidelity.open_network`.
        inception: where the Inception file is.
        device: where the feature net runs.
        beside: by default `out/score`; one folder for several compositions of a library makes them once.
        on_batch: told what is being made, how many pictures are done, and of how many.

    Raises:
        ConfigError: `out` holds no composition, an unfinished one, or one of another library; or there is no such
            feature net.
        CheckpointError: the library is of another model, or the feature net cannot be had.
        DataError: an image cannot be read.
    """
    out = Path(out)
    settings = read_settings(out)
    if settings is None:
        raise ConfigError(f"{out}: no composition to score; make one with: slotlab compose RUN LIBRARY --out {out}")
    if settings["library"]["identity"] != library.identity:
        raise ConfigError(f"{out}: composed from another library; give that one, or compose again")
    library.check(model)
    count, seed, batch_size = settings["count"], settings["seed"], settings["batch_size"]
    if not all(image_path(out, number).is_file() for number in range(count)):
        raise ConfigError(f"{out}: an unfinished composition; go on with compose, as it was begun")
    folder = Path(beside) if beside is not None else out / SCORE_FOLDER

    protocol = {
        "data": dataset.describe(),
        "library": library.identity,
        "model": fingerprint(model),
        "count": count,
        "seed": seed,
        "batch_size": batch_size,
    }
    place = place_among_processes()
    if from_first(_read(folder / DONE_FILE)) != json.loads(json.dumps(protocol)):
        if place.is_first:
            _clear(folder)
        wait_for_all()
        told = counted(on_batch, "real images, reconstructed", len(dataset))
        _write_real(model, dataset, folder, count, seed, batch_size, told)
        wait_for_all()
        if place.is_first:
            with replacing(folder / DONE_FILE) as path:
                path.write_text(json.dumps(protocol), encoding="utf-8")
    folders = {settings["protocol"]: out / IMAGES_FOLDER, "reconstructions": folder / RECONSTRUCTIONS}
    if settings["protocol"] != "shuffle":
        folders["shuffle"] = compose(
            model,
            library,
            folder / SHUFFLE,
            protocol="shuffle",
            count=count,
            seed=seed,
            batch_size=batch_size,
            weights=settings["model"].get("weights"),
            on_batch=counted(on_batch, "shuffled slots", count),
        )
    scores = None
    if place.is_first:
        scores = _measure(folders, folder, dataset, settings, open_network(features, inception, device), on_batch)
        with replacing(out / SCORES_FILE) as path:
            path.write_text(json.dumps(scores.to_json(), indent=2) + "\n", encoding="utf-8")
    return cast(CompositionScores, from_first(scores))


def counted(on_progress: OnProgress | None, what: str, total: int) -> Callable[[int], None]:
    """A function to be told how many more are done, which tells `on_progress` how many are done in all."""
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if on_progress is not None:
            on_progress(what, done, total)

    return tell


def _measure(
    folders: dict[str, Path],
    kept_in: Path,
    dataset: SlotDataset,
    settings: dict[str, Any],
    network: FeatureNet,
    on_batch: OnProgress | None,
) -> CompositionScores:
    """Distances of each folder of pictures to the real ones; the statistics of those in `kept_in` are kept there."""

    def statistics(what: str, images: Path, split: str | None = None) -> SetStatistics:
        def tell(done: int, total: int) -> None:
            if on_batch is not None:
                on_batch(f"features, {what}", done, total)

        is_kept, kept = kept_in in images.parents, kept_in / f"{what}-{network.name}.npz"
        if is_kept and kept.is_file():
            found = SetStatistics.load(kept)
            if found.information.fingerprint == network.fingerprint:
                return found
        made = folder_statistics(images, network, split, progress=tell)
        if is_kept:
            made.save(kept)
        return made

    truth = statistics(REAL, kept_in / REAL, str(dataset.describe()["split"]))
    results: dict[str, FrechetResult] = {}
    for name, generated in folders.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FidelityWarning)  # the results carry their notes
            results[name] = compare(truth, statistics(name, generated))
    first = results[settings["protocol"]]
    measured = {
        "distance": first.name,
        "features": first.real.network,
        "features_fingerprint": first.real.fingerprint,
        "resize": "clean",
        "real": {**dataset.describe(), "images": first.real.count},
        "generated": {name: result.generated.count for name, result in results.items()},
        "composition": settings,
    }
    return CompositionScores(measured, results)


@torch.inference_mode()
def _write_real(
    model: Model,
    dataset: SlotDataset,
    folder: Path,
    count: int,
    seed: int,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> None:
    """Writes the real images, and what the model paints of the first `count` of them, into folders below `folder`."""
    slot_model, process = with_slots(model), place_among_processes()
    position = process.share(len(dataset)).start
    with evaluating(model):
        for batch in evaluation_batches(dataset, batch_size=batch_size, rank=process.rank, world_size=process.count):
            images = batch["image"]
            for place, image in enumerate(images):
                write_image(image, folder / REAL / f"{position + place:06d}.png")
            wanted = max(0, min(len(images), count - position))
            if wanted:
                numbers = [int(one) for one in batch["index"][:wanted]]
                seen = see(slot_model, images[:wanted], [seeded_generator(seed, number) for number in numbers])
                painted, _ = slot_model.paint(
                    seen.slots, seen.poses, [seeded_generator(seed, number, 1) for number in numbers]
                )
                for place, image in enumerate(painted):
                    write_image(image, folder / RECONSTRUCTIONS / f"{position + place:06d}.png")
            position += len(images)
            on_batch(len(images))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear(folder: Path) -> None:
    """Removes what an earlier scoring left, and nothing else."""
    for old in (DONE_FILE, REAL, RECONSTRUCTIONS, SHUFFLE):
        remove(folder / old)
    for old in folder.glob("*.npz"):
        remove(old)
