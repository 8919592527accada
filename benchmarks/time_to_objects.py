"""Time from an empty folder to ARI >= 0.6 and FG-ARI >= 0.8 on held-out scenes.

    python benchmarks/time_to_objects.py --minutes 60
    git clone https://github.com/evelinehong/slot-attention-pytorch peer  # commit 1518c23
    python benchmarks/time_to_objects.py --minutes 60 --peer peer
    python benchmarks/time_to_objects.py --draw       # tables and figure from recorded scores

Protocol. scenes:plain and scenes:textured at 64x64, 3 to 6 objects, 7 slots; all train on the same
scenes. The time counts rendering and the regular scoring of the first 200 validation scenes, but
not loading Python and torch. A contender reaches the goal at the first validation at which both
scores of one source of its masks (of the peer: decoder) do. It is stopped then, after `--minutes`,
or when its recipe ends. Each runs in its own process, one after the other:

    slotlab         its default recipe: the presets of --stages, each started from the one before
    report          the preset slot-attention-clevrtex (the report's learning rate, batch and sizes)
        at 64x64
    peer            `SlotAttentionAutoEncoder` of --peer, trained as its train.py does; the stride
                    of its fourth transposed convolution is 1, without which it would paint 128x128
                    and cut a corner out

Curves and scores are of the source of masks that is nearer to the goals. Scores at other sizes than
64x64, of a first stage, are recorded but do not count. Re-run the same command, also with more
--minutes, to resume. The time between the last validation and an interruption does not count.
"""

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from contest import row, save, write
from reference import peer_module
from torch import Tensor, nn

from slotlab.config import RunConfig, parse_overrides, run_config
from slotlab.data import SlotDataset, evaluation_batches, training_batches
from slotlab.files import replacing
from slotlab.metrics import SegmentationScores
from slotlab.training.checkpoint import newest_checkpoint
from slotlab.training.loop import train_steps
from slotlab.training.setup import open_split

GOALS = {"ari": 0.6, "fg_ari": 0.8}
RESOLUTION = 64
KINDS = ("", "attention_", "posterior_")  # of masks; the first are the decoder's
SCORES = tuple(kind + name for kind in KINDS for name in GOALS)
COLUMNS = ("stage", "resolution", "step", "seconds", "processor", *SCORES)
CONTENDERS = {
    "slotlab": "slotlab, default recipe",
    "report": "the report's recipe, in slotlab",
    "peer": "evelinehong/slot-attention-pytorch@1518c23, its recipe",
}
REPORT = {"resolution": RESOLUTION, "broadcast": RESOLUTION, "slots": 7}
EVERY = {"slotlab": 200, "report": 10, "peer": 10}  # steps between validations: some minutes
RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "time-to-objects.png"
Row = dict[str, Any]


class Enough(Exception):
    """The goal is reached, or the time is up."""


@dataclass
class Curve:
    """The scores of a contender after so many seconds; each row rewrites the file."""

    path: Path
    minutes: float

    def __post_init__(self) -> None:
        self.rows = read(self.path)

    def begin(self, stage: str, step: int) -> None:
        """Starts the clocks where the stage resumes; drops later scores of an interrupted run."""
        self.rows = [one for one in self.rows if one["stage"] != stage or one["step"] <= step]
        last = self.rows[-1] if self.rows else {"seconds": 0.0, "processor": 0.0}
        self.stage = stage
        self.wall, self.processor = time.monotonic() - last["seconds"], time.process_time() - last["processor"]

    def add(self, step: int, resolution: int, scores: Row) -> None:
        """Records scores.

        Raises:
            Enough: this contender may stop.
        """
        clocks = {"seconds": time.monotonic() - self.wall, "processor": time.process_time() - self.processor}
        rounded = {name: round(value, 4) for name, value in {**clocks, **scores}.items()}
        self.rows.append({"stage": self.stage, "resolution": resolution, "step": step, **rounded})
        save(self.rows, self.path, COLUMNS)
        if self.is_over:
            raise Enough

    @property
    def is_over(self) -> bool:
        """Whether the goal is reached or the time is up."""
        return bool(self.rows) and (reached(self.rows[-1]) or self.rows[-1]["seconds"] >= 60 * self.minutes)


def best(recorded: Row) -> dict[str, float]:
    """ARI and FG-ARI of the kind of masks that is nearer to the goals."""
    kinds = [{name: recorded.get(kind + name, -1.0) for name in GOALS} for kind in KINDS]
    return max(kinds, key=lambda scores: min(scores[name] / goal for name, goal in GOALS.items()))


def reached(recorded: Row) -> bool:
    """Whether a row has both scores, of one kind of masks, at the size that counts."""
    return int(recorded["resolution"]) == RESOLUTION and all(best(recorded)[name] >= GOALS[name] for name in GOALS)


def train_slotlab(curve: Curve, folder: Path, stages: Sequence[RunConfig]) -> None:
    before: Path | None = None
    for config in stages:
        if before is not None:
            started = config.training.model_copy(update={"start_from": str(before)})
            config = config.model_copy(update={"training": started})
        out = folder / config.preset
        checkpoint = newest_checkpoint(out)
        done = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        if done < config.training.steps:
            curve.begin(config.preset, done)
            with closing(train_steps(config, out, resume=True)) as events:
                for event in events:
                    if event.kind == "validated":
                        latest = event.run.rows[-1]
                        scores = {name: latest[name] for name in SCORES if name in latest}
                        curve.add(event.run.step, event.run.model.resolution, scores)
        before = out


def train_peer(curve: Curve, folder: Path, config: RunConfig, source: str) -> None:
    """What the peer's train.py does, on slotlab's scenes."""
    torch.manual_seed(0)
    model = peer_module(source).SlotAttentionAutoEncoder((RESOLUTION, RESOLUTION), 7, 3, 64)
    model.decoder_cnn.conv4 = nn.ConvTranspose2d(64, 64, 5, stride=1, padding=2)
    optimizer, path = torch.optim.Adam(model.parameters(), lr=4e-4), folder / "peer.pt"
    saved: dict[str, Any] = torch.load(path, weights_only=True) if path.is_file() else {"step": 0}
    if saved["step"]:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    curve.begin("peer", saved["step"])
    scenes, held_out = open_split(config, "train"), open_split(config, "val")
    batches = training_batches(scenes, batch_size=16, seed=0, start_step=saved["step"])
    for step, batch in enumerate(batches, start=saved["step"] + 1):
        rate = 4e-4 * min(1.0, step / 10_000) * 0.5 ** (step / 100_000)
        optimizer.param_groups[0]["lr"] = rate
        loss = nn.functional.mse_loss(model(batch["image"])[0], batch["image"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY["peer"] == 0:
            scores = scored(lambda images: model(images)[2][..., 0].argmax(dim=1), held_out)
            print(f"peer, step {step}: loss {float(loss):.5f}, {scores}", flush=True)
            state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing(path) as temporary:
                torch.save(state, temporary)
            curve.add(step, RESOLUTION, scores)


@torch.no_grad()
def scored(segment: Callable[[Tensor], Tensor], held_out: SlotDataset) -> Row:
    scores = SegmentationScores(slots=7)
    for batch in evaluation_batches(held_out, batch_size=16):
        assert "mask" in batch
        scores.update(segment(batch["image"]), batch["mask"])
    return {name: score.mean for name, score in scores.compute().items() if name in GOALS}


def config_of(preset: str, variant: str, every: int, changes: dict[str, Any]) -> RunConfig:
    shared = {"source": f"scenes:{variant}", "max_objects": 6, "validation_count": 200}
    return run_config(preset, {**shared, "evaluate_every": every, "checkpoint_every": every, **changes})


def run_contender(name: str, variant: str, folder: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    changes = parse_overrides(options.change)
    stages = [config_of(preset, variant, EVERY["slotlab"], changes) for preset in options.stages]
    last, curve = stages[-1], Curve(folder / "curve.csv", options.minutes)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if name == "slotlab":
            train_slotlab(curve, folder, stages)
        elif name == "report":
            settings = {**REPORT, "train_count": last.data.train_count, **changes}
            train_slotlab(curve, folder, [config_of("slot-attention-clevrtex", variant, EVERY["report"], settings)])
        else:
            train_peer(curve, folder, last, options.peer)
    except Enough:
        print(f"{CONTENDERS[name]}, scenes:{variant}: {curve.rows[-1]}")


def read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        texts = ("variant", "contender", "stage")
        return [
            {key: value if key in texts else float(value) for key, value in one.items() if value != ""}
            for one in csv.DictReader(file)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--variants", nargs="+", default=["plain", "textured"], choices=["plain", "textured"])
    parser.add_argument("--minutes", type=float, default=60, help="for each contender and variant")
    parser.add_argument("--stages", nargs="+", default=["scenes-32", "scenes-64"], help="presets of the default recipe")
    parser.add_argument("--change", nargs="+", default=[], help="settings of slotlab's contenders, key=value")
    parser.add_argument("--peer", help="a clone of evelinehong/slot-attention-pytorch")
    parser.add_argument("--folder", type=Path, default=Path("runs/time-to-objects"), help="of the runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--draw", action="store_true", help="train nothing: tables and picture of what was recorded")
    options = parser.parse_args()
    if options.draw:
        recorded = read(options.results / "time-to-objects-curves.csv")
        draw(recorded, options.picture)
        return
    if options.peer is None and "peer" in options.contenders:
        print("the peer is left out: --peer names a clone of it (see --help)")
        options.contenders.remove("peer")
    for variant in options.variants:
        for name in options.contenders:
            folder = options.folder / variant / name
            if not Curve(folder / "curve.csv", options.minutes).is_over:
                process = get_context("spawn").Process(target=run_contender, args=(name, variant, folder, options))
                process.start()
                process.join()
                if process.exitcode:
                    parser.error(f"{name}, scenes:{variant}: ended with an error; give the command again to go on")
            recorded = gathered(options.folder)
            save(recorded, options.results / "time-to-objects-curves.csv", ("variant", "contender", *COLUMNS))
            write(summary(recorded), options.results / "time-to-objects.csv")
            draw(recorded, options.picture)


def gathered(folder: Path) -> list[Row]:
    return [
        {"variant": variant, "contender": name, **one}
        for variant in ("plain", "textured")
        for name in CONTENDERS
        for one in read(folder / variant / name / "curve.csv")
    ]


def summary(recorded: Sequence[Row]) -> list[dict[str, object]]:
    lines = []
    for variant in dict.fromkeys(one["variant"] for one in recorded):
        last = {one["contender"]: one for one in recorded if one["variant"] == variant}
        for name, end in last.items():
            known = "ARI {ari:z.2f}, FG-ARI {fg_ari:z.2f}".format(**best(end))
            who = CONTENDERS[name] if reached(end) else f"{CONTENDERS[name]}: not reached, stopped at {known}"
            others = last.get("slotlab")
            both = others is not None and reached(others) and reached(end)
            ratio = others["seconds"] / end["seconds"] if both and others is not None else None
            numbers = {"processor": end["processor"] / 60, "ratio": ratio}
            work = f"time to ARI {GOALS['ari']} and FG-ARI {GOALS['fg_ari']}, scenes:{variant}, 64x64"
            lines.append(row(work, who, end["seconds"] / 60, "min", rounds=1, **numbers))
    return lines


def draw(recorded: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(one["variant"] for one in recorded))
    figure = Figure(figsize=(9, 3.2 * len(variants)), layout="constrained")
    colours = dict(zip(CONTENDERS, ("tab:blue", "tab:orange", "0.45"), strict=True))
    for panels, variant in zip(figure.subplots(len(variants), 2, squeeze=False), variants, strict=True):
        for axes, (score, goal) in zip(panels, GOALS.items(), strict=True):
            axes.axhline(goal, color="0.7", linewidth=1, linestyle=":")
            for name, label in CONTENDERS.items():
                mine = [one for one in recorded if (one["variant"], one["contender"]) == (variant, name)]
                for resolution in dict.fromkeys(one["resolution"] for one in mine):
                    part = [one for one in mine if one["resolution"] == resolution]
                    counts = resolution == RESOLUTION
                    axes.plot(
                        [one["seconds"] / 60 for one in part],
                        [best(one)[score] for one in part],
                        "-" if counts else "--",
                        color=colours[name],
                        label=label if counts else f"its first stage, {resolution:.0f}x{resolution:.0f}",
                        linewidth=1.4,
                        marker="o",
                        markersize=2.5,
                    )
            title = "ARI" if score == "ari" else "FG-ARI"
            axes.set(xlabel="minutes", ylabel=title, ylim=(min(0, axes.get_ylim()[0]), 1), title=f"scenes:{variant}")
            axes.spines[["right", "top"]].set_visible(False)
            axes.grid(alpha=0.25)
        panels[0].legend(frameon=False, fontsize=7.5)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    print(path)


if __name__ == "__main__":
    main()
