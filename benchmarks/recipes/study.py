"""The study of recipes: equal time for each, three seeds, plain and textured scenes at 64x64.

    python benchmarks/recipes/study.py --results NEW --work NEW     # six hours; re-run to resume
    python benchmarks/recipes/summary.py --results NEW              # table and curves

A cell is a recipe (recipes.py) trained on one variant with one seed. Protocol: 20,000 training
scenes of 3 to 6 objects, of 128x128 rays, packed beforehand; no cell pays for rendering. Training
is in float32, on any machine. The first cell of a recipe times its steps; the budget divided by
that is the number of steps of all its cells, so a cell repeats exactly. Steps are timed in turns
with the 32x32 steps that most recipes begin with, three times, and the median ratio counts, which a
slow phase of the machine does not change. Stages that cells share are trained once and count for
each. The autoencoder of the diffusion recipe is trained once per variant, for `--latents-minutes`,
and counts extra. Scores: 500 test scenes of the training variant, and of camouflage and outd, whose
textures and shapes no recipe has seen; final weights (moving average where the recipe has one);
every source of masks beside the others: decoder (for diffusion: cross-attention), attention,
posterior. Curves are of the best one. A finished cell has a line in scores.csv and is not run
again.
"""

import argparse
import csv
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from recipes import RECIPES, VARIANTS, Stage

import slotlab
from slotlab.config import RunConfig, run_config
from slotlab.data import open_data, pack
from slotlab.evaluation import evaluate
from slotlab.files import replacing
from slotlab.runs import fit
from slotlab.training.checkpoint import provenance, read_history, weights_of

RESULTS = Path(__file__).parents[1] / "results" / "recipes"
UNSEEN = ("camouflage", "outd")
OBJECTS = 6
RAYS = 128  # per side, at every resolution: with one ray per pixel a fine texture is noise, which no model can paint
COUNTS = {"train": 20_000, "val": 200, "test": 500}
UNTIMED, TIMED, ROUNDS = 3, 15, 3
REFERENCE = "learned-small"  # what the steps of others are timed against
SCORES = ("ari", "fg_ari", "miou", "mbo")
COLUMNS = ("recipe", "variant", "seed", "minutes", "threads", "steps", "seconds", "data", "source", *SCORES, "mse")
CURVE_COLUMNS = ("recipe", "variant", "seed", "seconds", "resolution", "step", *SCORES[:2], "validation_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12, help="budget of a cell")
    parser.add_argument("--latents-minutes", type=float, default=6, help="budget of each variant's autoencoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"), help="data, checkpoints and pictures")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(options.work, options.results, options.minutes, options.latents_minutes, options.threads)
    for seed in options.seeds:
        for variant in options.variants:
            for recipe in options.recipes:
                study.cell(recipe, variant, seed)


class Study:
    """Where a study keeps its data, runs and results, and what every cell of it shares."""

    def __init__(self, work: Path, results: Path, minutes: float, latents_minutes: float, threads: int) -> None:
        self.work, self.results = work, results
        self.minutes, self.latents_minutes, self.threads = minutes, latents_minutes, threads
        results.mkdir(parents=True, exist_ok=True)

    def cell(self, recipe: str, variant: str, seed: int) -> None:
        """Trains and scores one cell, unless that is done."""
        place = {"recipe": recipe, "variant": variant, "seed": seed}
        if any(all(row[key] == str(value) for key, value in place.items()) for row in self._rows("scores.csv")):
            print(f"-- {recipe} on {variant}, seed {seed}: is in {self.results / 'scores.csv'}", flush=True)
            return
        print(f"== {recipe} on {variant}, seed {seed}", flush=True)
        runs: list[Path] = []
        stages = RECIPES[recipe][variant]
        for stage in stages:
            trained_on = stage.variant or variant
            run = self.work / f"{stage.name}-{trained_on}-{seed}"
            finish(self.config(stage, trained_on, seed, runs[-1] if runs else None), run)
            runs.append(run)
        points = curve(runs, [self._step_seconds()[stage.timed_as or stage.name] for stage in stages])
        scores = self.scores(runs[-1], variant)
        steps = "+".join(str(int(read_history(run)[-1]["step"])) for run in runs)
        whole = place | {"minutes": self.minutes, "threads": self.threads, "steps": steps}
        whole["seconds"] = round(points[-1]["seconds"])
        self._write("curves.csv", CURVE_COLUMNS, [place | point for point in points])
        self._write("scores.csv", COLUMNS, [whole | row for row in scores])

    def config(self, stage: Stage, variant: str, seed: int, before: Path | None) -> RunConfig:
        """The settings of a stage, with as many steps as its share of the budget has room for."""
        changes = dict(stage.changes)
        if before is not None:
            changes["start_from"] = str(before)
        if "diffusion" in stage.preset:
            changes["autoencoder.pretrained"] = str(self.latents(variant))
        budget = 60 * self.minutes * stage.share
        steps = self.steps(stage.timed_as or stage.name, stage.preset, changes, variant, budget)
        changes |= {name: round(share * steps) for name, share in stage.scaled.items()}
        changes |= {
            "evaluate_every": max(1, steps // 5),
            "preview_every": steps,
            "checkpoint_every": max(1, steps // 5),
        }
        return self._config(stage.preset, changes | {"training.steps": steps, "seed": seed}, variant)

    def latents(self, variant: str) -> Path:
        """Stage 1 of the diffusion recipe, trained if need be."""
        run, preset = self.work / f"latents-{variant}", "scenes-64-latents"
        steps = self.steps("latents", preset, {}, variant, 60 * self.latents_minutes)
        finish(self._config(preset, {"training.steps": steps, "checkpoint_every": 500}, variant), run)
        return run

    def steps(self, name: str, preset: str, changes: dict[str, Any], variant: str, seconds: float) -> int:
        """How many steps `seconds` have room for, as timed when first asked."""
        known = self._step_seconds()
        if name not in known:
            reference = self._config("scenes-32", {}, "plain")
            known.setdefault(REFERENCE, round(statistics.median(time_step(reference) for _ in range(ROUNDS)), 4))
            if name != REFERENCE:
                config = self._config(preset, changes, variant)
                ratio = statistics.median(time_step(config) / time_step(reference) for _ in range(ROUNDS))
                known[name] = round(ratio * known[REFERENCE], 4)
            with replacing(self.results / "step_seconds.json") as path:
                path.write_text(json.dumps(known, indent=2) + "\n")
        return max(10, int(seconds / known[name]))

    def _step_seconds(self) -> dict[str, float]:
        path = self.results / "step_seconds.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def scores(self, run: Path, variant: str) -> list[dict[str, Any]]:
        """Test scores of a run's final weights, a row for each data set and source of masks."""
        model = slotlab.load(run)
        rows = []
        for data in (variant, *UNSEEN):
            scenes = open_data(str(self.packed(data, model.resolution)), split="test", resolution=model.resolution)
            result = evaluate(model, scenes, weights=weights_of(run))
            for source, scores in result.segmentation.items():
                row = {name: round(scores[name].mean, 4) for name in SCORES}
                rows.append({"data": data, "source": source, **row, "mse": round(result.reconstruction["mse"].mean, 6)})
        return rows

    def packed(self, variant: str, resolution: int) -> Path:
        """The scenes of a variant, rendered once; of unseen variants the test split alone."""
        folder = self.work / f"{variant}-{resolution}"
        if not folder.is_dir():
            counts = COUNTS if variant in VARIANTS else {"test": COUNTS["test"]}
            pack(
                f"scenes:{variant}",
                folder,
                resolution=resolution,
                count=counts,
                max_objects=OBJECTS,
                supersample=RAYS // resolution,
            )
        return folder

    def _config(self, preset: str, changes: dict[str, Any], variant: str) -> RunConfig:
        resolution = run_config(preset).model["resolution"]
        fixed = {"data.source": str(self.packed(variant, resolution)), "train_count": 0, "precision": "fp32"}
        return run_config(preset, changes | fixed)

    def _rows(self, name: str) -> list[dict[str, str]]:
        path = self.results / name
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _write(self, name: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        with replacing(self.results / name) as path, path.open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            cell = {key: str(rows[0][key]) for key in ("recipe", "variant", "seed")}
            others = [row for row in self._rows(name) if any(row[key] != cell[key] for key in cell)]
            table.writerows([*others, *rows])
        with replacing(self.results / "machine.json") as path:
            path.write_text(json.dumps(provenance(), indent=2) + "\n")


def finish(config: RunConfig, run: Path) -> None:
    """Trains to the last step, from the newest checkpoint if there is one; skips a finished run."""
    known = run / "training.json"
    if not known.is_file() or json.loads(known.read_text())["steps"] < config.training.steps:
        fit(config, run, resume=(run / "run.json").is_file(), show_progress=True)


def curve(runs: list[Path], step_seconds: list[float]) -> list[dict[str, Any]]:
    """Validation scores of the best masks over the seconds of a whole training.

    Seconds are steps by what one takes on a quiet machine, so that they do not tell what else a
    machine had to do.
    """
    points, before = [], 0.0
    for run, step_time in zip(runs, step_seconds, strict=True):
        model = slotlab.load(run)
        prefix = "" if model.finer_masks == "masks" else f"{model.finer_masks}_"
        rows = read_history(run)
        for row in rows:
            known = {"step": row["step"], "validation_loss": row["validation_loss"], "resolution": model.resolution}
            known |= {name: row.get(prefix + name) for name in SCORES[:2]}
            points.append({"seconds": round(before + row["step"] * step_time, 1), **known})
        before += rows[-1]["step"] * step_time
    return points


def time_step(config: RunConfig) -> float:
    """Median seconds of a training step, with all that a run does in one."""
    last = UNTIMED + TIMED
    short = {"steps": last, "evaluate_every": UNTIMED, "preview_every": last, "checkpoint_every": last}
    settings = config.training.model_copy(update=short)
    data = config.data.model_copy(update={"validation_count": 1})
    with tempfile.TemporaryDirectory() as folder:
        run = fit(config.model_copy(update={"training": settings, "data": data}), Path(folder) / "run")
        seconds = [row["seconds"] for row in read_history(run)]
    return statistics.median((after - before) / UNTIMED for before, after in pairwise(seconds))


if __name__ == "__main__":
    main()
