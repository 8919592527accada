"""What a GPU does for slotlab, in minutes: is it right, how fast is it, and do slots bind on it?

    python benchmarks/gpu.py --minutes 8 --out runs/gpu          # a CUDA machine
    python benchmarks/gpu.py --minutes 8 --out runs/toy --toy    # anywhere: the same stages, tiny models
    python benchmarks/gpu.py --arithmetic --out runs/gpu         # FLOP and memory of a step; needs no GPU

Protocol. Stages in order of worth; each has a bound in time and writes every result at once, so a
run that is cut off loses the measurement that it was in. What fails is a line of the table too. The
whole takes `--minutes`, and some seconds to load torch and to save at the end.

(a) `correctness.csv`, at most 40 s: what the device computes against a CPU in float32 (TF32 off),
    on the same weights and random numbers; whether a run resumes and a checkpoint moves.
(b) `speed.csv`, at most 90 s: scenes rendered, training steps of presets on random images in memory
    (forward, losses, backward, clipping, Adam; float32, TF32, bfloat16; compiled; with CUDA graphs;
    plain PyTorch), ARI of 10,000 maps, sampling. Rates of the steps that fit into two seconds,
    after three that do not count; the clock waits for the device at the end only, as training does.
(c) `slots/`, the time left: a run of `slot-attention-clevrtex-binding` on scenes:textured rendered
    on the device, with its curves; with `--denoiser`, `latents/` and `denoiser/` in the last third
    of the time. A trial of some seconds says how many steps the schedule is for. The same command
    again, with the same `--out`, continues runs that were cut off.

Without CUDA the stages run at toy size on the CPU: that tests this script and measures nothing.
"""

import argparse
import csv
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from ari import label_maps
from contest import row, save, synchronise, write
from reference import Plain
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slotlab import checkpoints, list_models
from slotlab.config import RUN_FILE, RunConfig, read_run_config, run_config
from slotlab.data.loading import DEVICE_IMAGES
from slotlab.files import replacing
from slotlab.metrics.functional import adjusted_rand_index, contingency
from slotlab.models import SlotAutoencoder, SlotDiffusion
from slotlab.models.sampling import seeded_generator
from slotlab.scenes import render
from slotlab.training.checkpoint import read_history
from slotlab.training.loop import TrainingStopped, train_steps
from slotlab.training.optimisation import arrange, compile_parts, make_optimizer, memory_format
from slotlab.training.resources import bytes_for_gradient
from slotlab.training.setup import new_model

REPORT, DIFFUSION, LATENTS = "slot-attention-clevrtex", "slot-diffusion-clevrtex", "latents-clevrtex"
BINDING = f"{REPORT}-binding"
PRESETS = (REPORT, DIFFUSION, LATENTS, "textured-128", "scenes-64")
_SMALL = ("resolution=32", "encoder.channels=[8,8,8]", "slots=4", "batch_size=2")
_SMALL_LATENTS = ("channels=[8,8,16]", "layers=1")
TOY = {
    REPORT: (*_SMALL, "broadcast=32", "decoder.channels=8", "decoder.layers=2"),
    BINDING: (*_SMALL, "broadcast=32", "decoder.channels=8", "decoder.layers=2"),
    DIFFUSION: (*_SMALL, *(f"autoencoder.{one}" for one in _SMALL_LATENTS), "denoiser.channels=32",
                "denoiser.num_repeat=1", "denoiser.blocks=1"),
    LATENTS: ("resolution=32", "batch_size=2", *_SMALL_LATENTS),
}  # fmt: skip
PRECISIONS: dict[str, tuple[bool, bool]] = {"bf16": (True, True), "fp32": (False, False), "tf32": (False, True)}


class Bench:
    """The device, the folder, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        chosen = "cuda" if torch.cuda.is_available() and not options.toy else "cpu"
        self.device, self.folder = torch.device(chosen), options.out
        self.toy, self.minutes = chosen == "cpu", options.minutes
        self.started, self.until = time.monotonic(), 0.0

    def spend(self, most: float, share: float) -> None:
        """Begins a stage of `most` seconds, or of that share of all minutes if that is less."""
        self.until = min(time.monotonic() + min(most, share * 60 * self.minutes), self.end)

    @property
    def end(self) -> float:
        """When all is over."""
        return self.started + 60 * self.minutes

    def over(self) -> bool:
        """Whether the stage has no time left."""
        return time.monotonic() >= self.until

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """Interrupts what runs in it when the stage has no time left: compiling takes minutes."""

        def interrupt(number: int, frame: object) -> None:
            raise TimeoutError("the time of its stage was over")

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, max(0.1, self.until - time.monotonic()), 2.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def config(self, preset: str, *changes: str) -> RunConfig:
        """A preset, small if this is a toy run."""
        return run_config(preset, [*(TOY[preset] if self.toy else ()), *changes])

    def model(self, preset: str) -> Any:
        """Its model, with the weights of seed 0."""
        torch.manual_seed(0)
        return new_model(self.config(preset))

    def presets(self) -> list[str]:
        """Those that are measured."""
        return [preset for preset in PRESETS if preset in TOY or not self.toy]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder; its tables are written over, its runs continue"
    )
    parser.add_argument("--stages", default="abc", help="some of them, such as bc")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU, as where there is no CUDA device")
    parser.add_argument("--denoiser", action="store_true", help="train a denoiser on the slots in the last third")
    parser.add_argument("--arithmetic", action="store_true", help="count FLOP and bytes of steps, and end")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.arithmetic:
        arithmetic(options.out / "arithmetic.csv")
        return
    bench = Bench(options)
    if "a" in options.stages:
        bench.spend(40, 0.1)
        correctness(bench)
    if "b" in options.stages:
        bench.spend(90, 0.25)
        speed(bench)
    if "c" in options.stages:
        training(bench, options.denoiser)


# --- (a) is it right ---


def correctness(bench: Bench) -> None:
    """Writes correctness.csv: the largest difference of each check, and its bound."""
    checks: dict[str, tuple[float, Callable[[Bench], float]]] = {
        "renderer: part of the masks' pixels that differ": (1e-3, lambda bench: renderer(bench)[0]),
        "renderer: mean difference of images": (1e-3, lambda bench: renderer(bench)[1]),
        "ARI and contingency of 256 maps": (1e-9, maps),
        "slot attention, decoder: reconstruction": (2e-3, lambda bench: forward(bench, REPORT)),
        "slot attention, decoder: gradient, relative": (2e-2, lambda bench: backward(bench, REPORT)),
        "U-Net: prediction": (2e-3, lambda bench: forward(bench, DIFFUSION)),
        "sampler: images of 3 steps": (1e-2, sampled),
        "checkpoint to the device and back": (0.0, moved),
        "resumed run: loss, relative": (1e-3, resumed),
    }
    lines: list[tuple[str, ...]] = [("check", "difference", "bound", "result")]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, (bound, check) in checks.items():
        difference, result = "", "no time left"
        if not bench.over():
            try:
                with bench.bounded():
                    found = check(bench)
                difference, result = f"{found:.3g}", "good" if found <= bound else "OUT OF BOUNDS"
            except Exception as error:
                if not bench.over():  # an import that is interrupted may raise an error of another kind
                    result = f"FAILED {fault(error)}"
        lines.append((name, difference, str(bound), result))
        print(f"{name:52} {difference:>10} (at most {bound})  {result}", flush=True)
        with replacing(bench.folder / "correctness.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)


def fault(error: Exception) -> str:
    """Its kind and the first words of its first line."""
    return f"{type(error).__name__} {str(error).strip().partition(chr(10))[0][:150]}"


def renderer(bench: Bench) -> tuple[float, float]:
    size = 32 if bench.toy else 128
    here, there = (render(range(8), resolution=size, device=device) for device in ("cpu", bench.device))
    differing = (there.mask.cpu() != here.mask).double().mean()
    return float(differing), float((there.image.cpu() - here.image).abs().mean())


def maps(bench: Bench) -> float:
    predicted, target = label_maps(256, 64, 11)
    there = predicted.to(bench.device), target.to(bench.device)
    if not contingency(*there).cpu().equal(contingency(predicted, target)):
        return float("inf")
    return _apart(adjusted_rand_index(*there), adjusted_rand_index(predicted, target))


def _apart(there: Tensor, here: Tensor) -> float:
    return float((there.detach().cpu().double() - here.detach().double()).abs().max())


def _both(bench: Bench, preset: str) -> tuple[Any, Any, Tensor, list[torch.Generator]]:
    """A model on the CPU and the same on the device; images; and fresh generators, for one call."""
    here, there = bench.model(preset), bench.model(preset)
    images = torch.rand(2, 3, here.resolution, here.resolution, generator=seeded_generator(1))
    return here, there.to(bench.device), images, [seeded_generator(0, number) for number in range(2)]


def forward(bench: Bench, preset: str) -> float:
    here, there, images, generators = _both(bench, preset)
    with torch.no_grad():
        outputs = [here(images, generators)]
        outputs.append(there(images.to(bench.device), [seeded_generator(0, number) for number in range(2)]))
    if isinstance(here, SlotDiffusion):
        return _apart(outputs[1].loss, outputs[0].loss)
    return max(_apart(outputs[1].reconstruction, outputs[0].reconstruction), _apart(outputs[1].slots, outputs[0].slots))


def backward(bench: Bench, preset: str) -> float:
    here, there, images, generators = _both(bench, preset)
    for model, seen, drawn in (
        (here, images, generators),
        (there, images.to(bench.device), [seeded_generator(0, number) for number in range(2)]),
    ):
        model.losses(model(seen, drawn), seen).mean().backward()
    one, other = (torch.cat([part.grad.flatten().cpu() for part in model.parameters()]) for model in (there, here))
    return float((one - other).norm() / other.norm())


def sampled(bench: Bench) -> float:
    here, there, images, _ = _both(bench, DIFFUSION)
    slots = torch.randn(2, here.slots, here.slot_width, generator=seeded_generator(2))
    painted = [
        model.eval().generate(slots.to(device), steps=3, generator=[seeded_generator(3, n) for n in range(len(images))])
        for model, device in ((there, bench.device), (here, "cpu"))
    ]
    return _apart(*painted)


def moved(bench: Bench) -> float:
    model = bench.model(REPORT)
    with TemporaryDirectory() as folder:
        checkpoints.save(model, folder)
        there = checkpoints.load(folder).to(bench.device)
        checkpoints.save(cast(Any, there), folder)
        back = checkpoints.load(folder).state_dict()
    return max(_apart(back[name], value) for name, value in model.state_dict().items())


def resumed(bench: Bench) -> float:
    tiny = [*TOY[REPORT], "validation_count=4", "steps=4", "evaluate_every=2", "checkpoint_every=2", "precision=fp32"]
    config, losses = run_config(REPORT, tiny), []
    with TemporaryDirectory() as folder:
        for name, stops in (("whole", (4,)), ("parts", (2, 4))):
            run = Path(folder) / name
            for stop in stops:
                events = train_steps(config, run, resume=stop == 4 and len(stops) == 2, device=str(bench.device))
                for event in events:
                    if event.kind == "step" and event.run.step > stop:
                        break  # killed after its checkpoint
                events.close()
            losses.append(float(cast(float, read_history(run)[-1]["train_loss"])))
    return abs(losses[0] - losses[1]) / losses[0]


# --- (b) how fast ---


def speed(bench: Bench) -> None:
    """Writes speed.csv: a rate and a peak of memory for each measurement."""
    rows: list[dict[str, object]] = []

    def measure(work: str, contender: str, images: int, unit: str, make: Callable[[], Callable[[], object]]) -> None:
        if bench.over():
            return
        try:
            with bench.bounded():
                if bench.device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                step, one = make(), 0.0
                for _ in range(1 if bench.toy else 3):
                    began = time.perf_counter()
                    step()
                    synchronise()
                    one = time.perf_counter() - began
                began, steps = time.perf_counter(), max(1, int((0.3 if bench.toy else 2.0) / one))
                for _ in range(steps):
                    step()
                synchronise()
                rate = images * steps / (time.perf_counter() - began)
            peak = torch.cuda.max_memory_allocated() / 2**20 if bench.device.type == "cuda" else None
            rows.append(row(work, contender, rate, unit, rounds=steps, peak_mib=peak))
        except Exception as error:
            if bench.over():
                return
            rows.append(row(work, f"{contender}: {fault(error)}", float("nan"), unit, rounds=0))
        print(f"{work:64} {rows[-1]['contender']:44} {rows[-1]['value']:>10} {unit}", flush=True)
        save(rows, bench.folder / "speed.csv")

    def train(preset: str, contender: str, precision: str, mode: str = "") -> None:
        batch = bench.config(preset).training.batch_size
        work = f"training, {preset}, batch {batch}, {bench.device}"
        make = lambda: training_step(bench, preset, precision, mode)  # noqa: E731
        measure(work, f"{contender}, {precision}", batch, "images/s", make)

    train(REPORT, "slotlab", "bf16")
    scenes = 8 if bench.toy else DEVICE_IMAGES  # as many as training renders at a time
    for size, rays in ((32, 1), (32, 2)) if bench.toy else ((128, 1), (128, 2), (64, 1)):
        work = f"rendering, scenes:textured, {size}x{size}, {bench.device}"
        make = rendering(bench, scenes, size, rays)
        measure(work, f"batch {scenes}, {rays} rays a pixel's side", scenes, "scenes/s", make)
    train(REPORT, "plain PyTorch", "bf16", "plain")
    for precision in ("tf32", "fp32"):
        train(REPORT, "slotlab", precision)
        train(REPORT, "plain PyTorch", precision, "plain")
    for preset in bench.presets()[1:]:
        train(preset, "slotlab", "bf16")
    count_maps, images = (200, 2) if bench.toy else (10_000, 16)
    measure(f"ARI, {bench.device}", f"{count_maps} maps of 128x128", count_maps, "maps/s", scoring(bench, count_maps))
    make = sampling(bench, images)
    measure(f"sampling, {DIFFUSION}, batch {images}, {bench.device}", "25 steps", images, "images/s", make)
    if not bench.toy:  # minutes of compiling on a CPU
        train(REPORT, "slotlab, compiled", "bf16", "compile")
        train(REPORT, "slotlab, CUDA graphs", "bf16", "graphs")


def training_step(bench: Bench, preset: str, precision: str, mode: str) -> Callable[[], object]:
    """One update on random images; `mode`: "", "plain", "compile" or "graphs"."""
    model: Any = bench.model(preset)
    settings, (autocast, tf32) = bench.config(preset).training, PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    model = model.to(bench.device) if mode == "plain" else arrange(model, bench.device, settings.without)
    if mode == "compile":
        compile_parts(model)
    elif mode == "graphs":
        for part in (model.encoder.backbone, model.decoder):
            part.compile(mode="reduce-overhead")
    optimizer = torch.optim.Adam(model.parameters()) if mode == "plain" else make_optimizer(model, settings)
    forward: nn.Module = Plain(cast(SlotAutoencoder, model)) if mode == "plain" else model
    images = torch.rand(settings.batch_size, 3, model.resolution, model.resolution, device=bench.device)
    if mode != "plain":
        images = images.contiguous(memory_format=memory_format(settings.without))
    steps = count()

    def step() -> None:
        number = next(steps)
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        generators = [seeded_generator(0, number, place) for place in range(len(images))]
        with torch.autocast(bench.device.type, torch.bfloat16) if autocast else nullcontext():
            output = forward(images, generators)
        if mode == "plain":
            loss = (2 * (output.float() - images)).square().sum(dim=1).mean()
        else:
            loss = model.losses(output, images).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rendering(bench: Bench, scenes: int, size: int, rays: int) -> Callable[[], Callable[[], object]]:
    numbers = count()

    def step() -> None:
        first = next(numbers) * scenes
        render(range(first, first + scenes), resolution=size, supersample=rays, device=bench.device)

    return lambda: step


def scoring(bench: Bench, images: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        predicted, target = (labels.to(bench.device) for labels in label_maps(images, 128, 11))
        return lambda: adjusted_rand_index(predicted, target)

    return make


def sampling(bench: Bench, images: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        model = bench.model(DIFFUSION).to(bench.device).eval()
        slots = torch.randn(images, model.slots, model.slot_width, device=bench.device)
        return lambda: model.generate(slots, steps=2 if bench.toy else 25, generator=seeded_generator(0))

    return make


# --- (c) does it bind ---


def training(bench: Bench, denoiser: bool) -> None:
    """Trains in the time that is left; each run folder has its curves and can be resumed."""
    left = bench.end - time.monotonic()
    fit(bench, "slots", bench.config(BINDING), left * (0.67 if denoiser else 1))
    if denoiser:
        fit(bench, "latents", bench.config(LATENTS), left * 0.1)
        frozen = [f"pretrained={bench.folder / 'latents'}", f"start_from={bench.folder / 'slots'}", "encoder_steps=0",
                  "initialisation=learned", "slot_attention.gradient=last-iteration"]  # fmt: skip
        small = [one for one in TOY[DIFFUSION] if bench.toy and not one.startswith("autoencoder.")]
        fit(bench, "denoiser", run_config(DIFFUSION, [*small, *frozen]), bench.end - time.monotonic())


def fit(bench: Bench, name: str, config: RunConfig, seconds: float) -> None:
    """Trains for some seconds with a schedule that ends then, or continues a run; then saves."""
    until, folder = time.monotonic() + seconds, bench.folder / name
    try:
        if (folder / RUN_FILE).is_file():
            config = read_run_config(folder / RUN_FILE)
        else:
            pace = steps_per_second(bench, config, min(20.0, 0.05 * seconds))
            # A tenth is for validation and checkpoints.
            steps = max(20, int(0.9 * pace * (until - time.monotonic())))
            config = with_steps(config, steps, max(1, steps // 12), 8 if bench.toy else 200)
        for event in train_steps(config, folder, resume=True, device=bench.device.type):
            if event.kind == "validated":
                shown = {key: value for key, value in event.run.rows[-1].items() if isinstance(value, float | int)}
                print(name, {key: round(value, 4) for key, value in shown.items()}, flush=True)
            if event.kind == "step" and time.monotonic() >= until:
                os.kill(os.getpid(), signal.SIGINT)  # the loop saves, then stops
    except TrainingStopped as stopped:
        print(f"{name}: {stopped}", flush=True)
    except Exception as error:  # the next part may be possible
        print(f"{name}: FAILED {fault(error)}", flush=True)


def with_steps(config: RunConfig, steps: int, every: int, scored: int) -> RunConfig:
    """The config for so many steps, validated and saved so often, on so many scenes."""
    training = {"steps": steps, "warmup_steps": min(500, steps // 10), "preview_every": steps}
    training |= {"evaluate_every": every, "checkpoint_every": every}
    data = config.data.model_copy(update={"validation_count": scored})
    return config.model_copy(update={"training": config.training.model_copy(update=training), "data": data})


def steps_per_second(bench: Bench, config: RunConfig, seconds: float) -> float:
    """Trains for some seconds, rendering included, after the steps of the first scenes rendered."""
    began, first, last = 0.0, max(1, DEVICE_IMAGES // config.training.batch_size) if not bench.toy else 2, 0
    with TemporaryDirectory() as folder:
        trial = with_steps(config, 10**9, 10**9, 2)
        events = train_steps(trial, Path(folder) / "run", device=bench.device.type)
        for event in events:
            if event.kind == "step" and event.run.step == first:
                synchronise()
                began = time.monotonic()
            elif event.kind == "step" and event.run.step > first and time.monotonic() >= began + seconds:
                last = event.run.step
                break
        synchronise()
        taken = time.monotonic() - began
        events.close()
    return (last - first) / taken


# --- without a GPU ---


def arithmetic(path: Path) -> None:
    """Counts floating-point operations of a step, and bytes kept for the gradient, of one image."""
    rows: list[dict[str, object]] = []
    for preset in [name for name in list_models() if name in PRESETS]:
        whole = [] if preset == "latents-clevrtex" else ["slot_attention.gradient=full"]  # all that the counter knows
        model = new_model(run_config(preset, whole))
        images = torch.rand(1, 3, model.resolution, model.resolution)
        with FlopCounterMode(display=False) as counter:
            model.losses(model(images), images).mean().backward()
        work = f"{preset}, one image"
        rows.append(row(work, "arithmetic of a step", counter.get_total_flops() / 1e9, "GFLOP", rounds=0))
        kept = bytes_for_gradient(model, torch.device("cpu")) / 2**20
        rows.append(row(work, "memory kept for the gradient, float32", kept, "MiB", rounds=0))
        state = 4 * sum(parameter.nbytes for parameter in model.parameters()) / 2**20
        rows.append(row(work, "weights, gradient and Adam, float32 (any batch)", state, "MiB", rounds=0))
        save(rows, path)
    write(rows, path)


if __name__ == "__main__":
    main()
