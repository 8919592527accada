"""Damages each kind of file that slotlab reads, 100 ways each, and reads it.

    python benchmarks/faults/mutations.py [--quick] [--only config.json hdf5] [--trial N]

Protocol. Each trial has a fresh copy of the inputs with one damaged file: of ten trials one has
something in its place that is no file (nothing, a folder, a link to itself, a named pipe, a
device), four have bytes cut, flipped, removed, doubled or replaced, and five lie in their format:
values, keys, types, shapes and headers. Then one command reads it; the commands of a kind take
turns. "fine": status 0; the damage is harmless, or harms values that cannot be checked, such as a
pixel. "sentence": another status and one line that says what is wrong. "unforeseen": one line, but
of an error that no one foresaw. "unnamed": a sentence that names neither the damaged file nor its
folder. "lost": status 0 but the output is missing, or another file that the command was given is
gone.
"""

import random
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import damage
import numpy as np
from commands import draw, prepare
from damage import Change
from PIL import Image
from trial import RESULTS, Runner, Table, parser, trials

COLUMNS = ("fine", "sentence", "unforeseen", "unnamed", "traceback", "hang", "memory", "lost")
FAULTS = ("unforeseen", *COLUMNS[4:])
TRIALS, QUICK = 100, 2


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        takes: inputs that each trial gets a copy of.
        files: those of them that are damaged, in turns.
        ways: of lying in the file's format.
        commands: that read it, in turns; after ` > ` a file that must be there after status 0.
    """

    takes: tuple[str, ...]
    files: tuple[str, ...]
    ways: tuple[Change, ...]
    commands: tuple[str, ...]


RUN, DATA = "--model ../inputs/run", "--data ../inputs/squares"
EVALUATE = f"evaluate run {DATA} --count 4 --json scores.json > scores.json"
TRAIN = f"{DATA} --threads 1 preview_every=9 > {{}}/model.safetensors"
REPORT, PUBLISH = "report run --images 1 > run/report.html", "publish run --to new > new/card.md"
READ = ("data check {0}", "evaluate ../inputs/run --data {0} --split all --json scores.json > scores.json")
PACKED, HDF5 = ([one.format(name) for one in READ] for name in ("packed", "data.h5"))
LIBRARY = (
    f"concepts show library {RUN} {DATA} --members 1 --out found.png > found.png",
    "compose ../inputs/run library --count 2 --sheet 0 --out new > new/images/000001.png",
)
PICTURES = (
    "data check {0}",
    f"segment {{0}}/images {RUN} --out segments > segments/segments.csv",
    "data pack {0} packed --resolution 16 > packed/packed.json",
    f"show {{0}}/images/000.{{0}} {RUN} --out figures > figures/000-run.png",
)
OF_MASKS = PICTURES[0], PICTURES[2]
FID = "fid real.npz ../inputs/photos --features ../inputs/net.pt --json found.json > found.json"
KINDS = {
    "config.json": Kind(("run",), ("run/config.json",), (damage.json_of,), (EVALUATE, EVALUATE, EVALUATE, REPORT)),
    "model.safetensors": Kind(
        ("run",), ("run/model.safetensors",), (damage.safetensors_of,), (*[EVALUATE] * 6, PUBLISH)
    ),
    "trainer state": Kind(
        ("half",),
        ("half/checkpoints/step-00000002/trainer.pt",),
        (damage.trainer_of,),
        (f"train ../inputs/tiny.yaml --out half --resume {TRAIN.format('half')}",),
    ),
    "run.json": Kind(
        ("run",),
        ("run/run.json",),
        (damage.json_of,),
        (REPORT, f"train ../inputs/tiny.yaml --out run --resume {TRAIN.format('run')}", *["runs ."] * 3, PUBLISH),
    ),
    "training.json": Kind(("run",), ("run/training.json",), (damage.json_of,), (*[EVALUATE] * 3, REPORT, PUBLISH)),
    "history.csv": Kind(("run",), ("run/history.csv",), (damage.csv_of,), ("runs .", "runs .", "runs .", REPORT)),
    "metrics.json": Kind(("run",), ("run/metrics.json",), (damage.json_of,), (REPORT,)),
    "released": Kind(
        ("released",),
        tuple(f"released/{name}.json" for name in ("manifest", "training", "metrics", "examples")),
        (damage.json_of,),
        ("publish released --to new > new/card.md",),
    ),
    "packed.json": Kind(("packed",), ("packed/packed.json",), (damage.json_of,), tuple(PACKED)),
    "packed arrays": Kind(
        ("packed",),
        tuple(f"packed/{name}.npy" for name in ("images", "masks", "indices")),
        (damage.npy_of,),
        tuple(PACKED),
    ),
    "library.json": Kind(("library",), ("library/library.json",), (damage.json_of,), LIBRARY),
    "library arrays": Kind(("library",), ("library/slots.safetensors",), (damage.safetensors_of,), LIBRARY),
    "composition": Kind(
        ("composed",),
        ("composed/composition.json", "composed/compositions.jsonl", "composed/images/000001.png"),
        (damage.lines_of,),
        (
            "compose ../inputs/run ../inputs/library --count 4 --out composed "
            f"--score {DATA} --features ../inputs/net.pt",
        ),
    ),
    "segments": Kind(
        ("segments",),
        ("segments/segments.json", "segments/000.npz"),
        (damage.lines_of,),
        (f"segment ../inputs/photos {RUN} --out segments > segments/000.npz",),
    ),
    "hdf5": Kind(("data.h5",), ("data.h5",), (damage.hdf5_of,), tuple(HDF5)),
    "statistics of fid": Kind(("real.npz",), ("real.npz",), (damage.npz_of,), (FID,)),
    "preset": Kind(
        ("tiny.yaml",),
        ("tiny.yaml",),
        (damage.yaml_of,),
        (f"train tiny.yaml --out new steps=1 {TRAIN.format('new')}",),
    ),
    **{
        f"images, {form}": Kind(
            (form,), (f"{form}/images/000.{form}",), (damage.image_of,), tuple(one.format(form) for one in PICTURES)
        )
        for form in ("png", "jpg", "tif")
    },
    **{
        f"masks, {form}": Kind(
            (form,), (f"{form}/masks/000.{form}",), (damage.image_of,), tuple(one.format(form) for one in OF_MASKS)
        )
        for form in ("png", "tif")
    },
}


def prepare_more(runner: Runner, inputs: Path) -> None:
    """Adds what only the mutations need: a run to resume, other formats of data."""
    import h5py

    from slotlab.fidelity import open_network
    from slotlab.fidelity.statistics import folder_statistics

    words = "train ../inputs/tiny.yaml --out ../inputs/half --data ../inputs/squares --threads 1 keep_checkpoints=9"
    runner.run(words.split(), inputs.parent / "making")
    shutil.rmtree(inputs / "half" / "checkpoints" / "step-00000004")
    for form in ("png", "jpg", "tif"):
        draw(inputs / form, 3)
        for path in [*(inputs / form).rglob("*.png")] if form != "png" else ():
            Image.open(path).save(path.with_suffix(f".{form}" if path.parent.name == "images" else ".tif"))
            path.unlink()
    draw(inputs / "stack", 24)
    with h5py.File(inputs / "data.h5", "w") as file:
        for name in ("image", "mask"):
            paths = sorted((inputs / "stack" / f"{name}s").iterdir())
            file[name] = np.stack([np.asarray(Image.open(path)) for path in paths])
    folder_statistics(inputs / "stack" / "images", open_network(inputs / "net.pt")).save(inputs / "real.npz")


def damaged(path: Path, ways: tuple[Change, ...], number: int, kind: str) -> str:
    """Damages a file in way `number` of its kind; says how."""
    chance = random.Random(f"{kind} {number}")
    way = damage.thing if number % 10 == 0 else damage.bytes_of if number % 10 <= 4 else chance.choice(ways)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f"{way.__name__}, {path.name}: {way(path, chance)}"


def trial(runner: Runner, kind: Kind, name: str, number: int, inputs: Path, place: Path) -> tuple[str, str, str, int]:
    """One trial: what was done, its outcome, what the command said, and its memory."""
    place.mkdir()
    for taken in kind.takes:
        if (inputs / taken).is_dir():
            shutil.copytree(inputs / taken, place / taken)
        else:
            shutil.copy(inputs / taken, place / taken)
    path = place / kind.files[number % len(kind.files)]
    words, _, output = kind.commands[(number // len(kind.files) + number // 10) % len(kind.commands)].partition(" > ")
    how = damaged(path, kind.ways, number, name)
    there = {one for one in place.rglob("*") if one.is_file()}
    ended = runner.run(words.split(), place)
    outcome, said = ended.kind, ended.said
    gone = sorted(one.name for one in there if not one.exists() and "checkpoints" not in one.parts)
    if gone or (outcome == "fine" and output and not (place / output).is_file()):
        outcome, said = "lost", f"gone: {gone}, {output}; {said}"
    elif outcome == "sentence" and not any(part in said + ended.out for part in path.relative_to(place).parts):
        outcome = "unnamed"
    return f"trial {number} ({how}; {words.partition(' ')[0]})", outcome, said, ended.peak


def main() -> None:
    """Runs all trials."""
    made = parser(__doc__)
    made.add_argument("--trials", type=int, default=TRIALS, help="of each kind")
    made.add_argument("--trial", type=int, help="only this number")
    options = made.parse_args()
    count = QUICK if options.quick else options.trials
    numbers = [options.trial] if options.trial is not None else [7 * n % TRIALS for n in range(count)]
    with trials(options) as (runner, folder):
        inputs = prepare(runner, folder)
        prepare_more(runner, inputs)
        table = Table(COLUMNS, FAULTS, options.verbose)
        for name, kind in KINDS.items():
            for number in numbers if not options.only or name in options.only else ():
                place = folder / "work"
                done, outcome, said, peak = trial(runner, kind, name, number, inputs, place)
                table.add(name, done, outcome, said, peak)
                if options.keep and outcome in FAULTS:
                    place.rename(folder / f"{name}-{number}")
                else:
                    shutil.rmtree(place)
    whole = not (options.quick or options.only or len(numbers) < TRIALS)
    sys.exit(not table.write(options.csv or (RESULTS / "mutations.csv" if whole else None)))


if __name__ == "__main__":
    main()
