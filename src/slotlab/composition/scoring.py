"""The distance of compositions to real images, beside reconstructions and shuffled slots."""

import json
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from slotlab.composition.compositions import IMAGES_FOLDER, SETTINGS_FILE, compose, image_path, write_image
from slotlab.composition.library import ConceptLibrary
from slotlab.composition.slots import check_still
from slotlab.data import SlotDataset
from slotlab.distributed import from_first, place_among_processes, wait_for_all
from slotlab.errors import ConfigError
from slotlab.evaluation import outputs
from slotlab.fidelity import FeatureNet, FidelityWarning, FrechetResult, SetStatistics, compare
from slotlab.fidelity.statistics import folder_statistics
from slotlab.files import read_json, remove, write_json
from slotlab.models import Model, SlotDiffusion, that_paints
from slotlab.models.building import fingerprint
from slotlab.models.sampling import seeded_generator
from slotlab.progress import Stage, in_steps, stage

SCORES_FILE, SCORE_FOLDER = "scores.json", "score"
REAL, RECONSTRUCTIONS, SHUFFLE = "real", "reconstructions", "shuffle"
CEILING = "autoencoder"  # its reconstructions of the real images: the best that slot diffusion can reach


class CompositionScores(NamedTuple):
    """What was measured, as JSON values; and the distances of each set of images to real ones."""

    protocol: dict[str, Any]
    results: dict[str, FrechetResult]


@in_steps
def score_compositions(
    model: Model,
    library: ConceptLibrary,
    out: str | Path,
    dataset: SlotDataset,
    network: FeatureNet,
    beside: str | Path | None = None,
) -> Generator[Stage, None, CompositionScores]:
    """Scores the finished composition in `out` against real images; writes `scores.json` there.

    Also scored are reconstructions of the real images (as many as there are compositions, if there
    are that many), the best that the decoder can reach, and the `shuffle` protocol; with slot
    diffusion also what its autoencoder makes of the real images. Their images and features are kept
    in the folder `beside`, and used again for the same library, data and seed. Several processes
    paint together; the first one measures.

    Args:
        model: the composition's model.
        library: the composition's library.
        out: the composition's folder.
        dataset: real images at the model's resolution, such as the val split.
        network: of the distance, from `slotlab.fidelity.open_network`.
        beside: by default `out/score`; several compositions of a library can share one folder.

    Returns:
        Results by name: the composition's protocol, "reconstructions", "shuffle", and "autoencoder"
        for slot diffusion.

    Raises:
        ConfigError: `out` holds no composition, an unfinished one, or one of another library.
        CheckpointError: the library is another model's.
        DataError: an image cannot be read, or the data set holds clips.
    """
    out = Path(out)
    check_still(dataset)
    remedy = f"make a composition with: slotlab compose RUN LIBRARY --out {out}"
    settings = read_json(out / SETTINGS_FILE, remedy, ConfigError)
    if settings["library"]["identity"] != library.identity:
        raise ConfigError(f"{out}: composed from another library; give that one, or compose again")
    library.check(model)
    same = {name: settings[name] for name in ("count", "seed", "batch_size")}
    count, seed, batch_size = same.values()
    if not all(image_path(out, number).is_file() for number in range(count)):
        raise ConfigError(f"{out}: an unfinished composition; re-run the command that began it")
    folder = Path(beside) if beside is not None else out / SCORE_FOLDER
    protocol = {"data": dataset.describe(), "library": library.identity, "model": fingerprint(model), **same}
    of_diffusion = [CEILING] if isinstance(model, SlotDiffusion) else []
    protocol |= dict.fromkeys(of_diffusion, True)
    is_first, done = place_among_processes().is_first, folder / "protocol.json"
    kept = is_first and done.is_file() and read_json(done, "remove it") == json.loads(json.dumps(protocol))
    if not from_first(kept):
        if is_first:  # removes what an earlier scoring left, and nothing else
            for name in (done.name, REAL, RECONSTRUCTIONS, CEILING, SHUFFLE, "*.npz"):
                for old in folder.glob(name):
                    remove(old)
        wait_for_all()
        real = _write_real(model, dataset, folder, count, seed, batch_size)
        yield from stage("reconstructing real images", len(dataset), real)
        wait_for_all()
        if is_first:
            write_json(done, protocol)
    folders = {settings["protocol"]: out / IMAGES_FOLDER}
    folders |= {name: folder / name for name in (RECONSTRUCTIONS, *of_diffusion)}
    if settings["protocol"] != SHUFFLE:
        weights, path = settings["model"].get("weights"), folder / SHUFFLE
        shuffled = compose.steps(model, library, path, protocol=SHUFFLE, **same, weights=weights)
        folders[SHUFFLE] = yield from stage("composing shuffled slots", count, shuffled)
    scores = None
    if is_first:
        found: dict[str, SetStatistics] = {}
        for name, images in {REAL: folder / REAL, **folders}.items():
            file = folder / f"{name}-{network.name}.npz"
            if folder in images.parents and file.is_file():
                found[name] = SetStatistics.load(file)
                if found[name].information.fingerprint == network.fingerprint:
                    continue
            split = str(dataset.describe()["split"]) if name == REAL else None
            statistics = folder_statistics.steps(images, network, split)
            found[name] = yield from stage(f"features of {name}", None, statistics)
            if folder in images.parents:
                found[name].save(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FidelityWarning)  # the results carry their notes
            results = {name: compare(found[REAL], found[name]) for name in folders}
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
        scores = CompositionScores(measured, results)
        content = {"protocol": measured, **{name: result.as_dict() for name, result in results.items()}}
        write_json(out / SCORES_FILE, content)
    return cast(CompositionScores, from_first(scores))


@torch.inference_mode()
def _write_real(
    model: Model, dataset: SlotDataset, folder: Path, count: int, seed: int, batch_size: int
) -> Generator[int, None, None]:
    """Writes the real images, and reconstructions of the first `count`, into two folders."""
    position = place_among_processes().share(len(dataset)).start
    for batch, output in outputs(model, dataset, batch_size=batch_size, seed=seed, segment_only=True):
        groups = {REAL: batch["image"]}
        indices = batch["index"][: max(0, count - position)].tolist()
        if indices:
            generators = [seeded_generator(seed, index, 1) for index in indices]
            groups[RECONSTRUCTIONS] = that_paints(model).generate(output.slots[: len(indices)], generator=generators)
            if isinstance(model, SlotDiffusion):
                latents = model.latents(batch["image"][: len(indices)].to(output.slots.device))
                groups[CEILING] = model.decode_latents(latents)
        for name, images in groups.items():
            for number, image in enumerate(images, start=position):
                write_image(image, folder / name / f"{number:06d}.png")
        position += len(batch["index"])
        yield len(batch["index"])
