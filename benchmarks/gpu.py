"""What a GPU does for slotlab, in minutes: is it right, how fast is it, and do slots bind on it?

    python benchmarks/gpu.py --minutes 8 --out runs/gpu          # a CUDA machine
    python benchmarks/gpu.py --minutes 8 --out runs/gpu --toy    # anywhere: the same stages, tiny models
    python benchmarks/gpu.py --arithmetic --out runs/gpu         # FLOP and memory of a step; needs no GPU

Protocol. Stages in order of worth; each has a bound in time and writes every result at once, so a
run that is cut off loses the measurement that it was in. What fails is a line of the table too.

(a) `correctness.csv`, at most 40 s: what the device computes against a CPU in float32 (TF32 off),
    on the same weights and random numbers; whether a run resumes and a checkpoint moves.
(b) `speed.csv`, at most 90 s: scenes rendered, training steps of presets on random images in memory
    (forward, losses, backward, clipping, Adam; float32, TF32, bfloat16; compiled; with CUDA graphs;
    plain PyTorch), ARI of 10,000 maps, sampling. Rates of the steps that fit into a few seconds.
(c) `slots/`, the time left: the run folder of the report's architecture (`slot-attention-clevrtex`)
    with starts and losses that bind, on scenes:textured rendered on the device, with its curves;
    with `--denoiser`, `latents/` and `denoiser/` in the last third of the time.

Without CUDA the stages run at toy size on the CPU: that tests this script and measures nothing.
"""

import argparse
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
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
from slotlab.config import run_config
from slotlab.errors import SlotlabError
from slotlab.files import replacing
from slotlab.metrics.functional import adjusted_rand_index, contingency
from slotlab.models import SlotAutoencoder, SlotDiffusion
from slotlab.models.sampling import seeded_generator
from slotlab.scenes import render
from slotlab.training.checkpoint import read_history
from slotlab.training.loop import TrainingStopped, train_steps
from slotlab.training.objectives import arrange, compile_parts, make_optimizer, memory_format
from slotlab.training.resources import bytes_for_gradient
from slotlab.training.setup import new_model

REPORT, DIFFUSION = "slot-attention-clevrtex", "slot-diffusion-clevrtex"
PRESETS = (REPORT, DIFFUSION, "latents-clevrtex", "textured-128", "scenes-64")
# The report's architecture with the starts, losses and schedule of textured-128, which bind.
BINDING = (
    "initialisation=learned", "slot_attention.gradient=last-iteration", "pixel_sigma=0.3", "background_penalty=0.004",
    "final_background_penalty=0.0002", "attention_loss=0.02", "colour_loss=1.0", "ema_decay=0.99", "schedule=cosine",
    "warmup_steps=500",
)  # fmt: skip
_SMALL = ("resolution=32", "encoder.channels=[8,8,8]", "slots=4", "batch_size=2")
_SMALL_LATENTS = ("channels=[8,8,16]", "layers=1")
TOY = {
    REPORT: (*_SMALL, "broadcast=32", "decoder.channels=8", "decoder.layers=2"),
    DIFFUSION: (*_SMALL, *(f"autoencoder.{one}" for one in _SMALL_LATENTS), "denoiser.channels=32",
                "denoiser.num_repeat=1", "denoiser.blocks=1"),
    "latents-clevrtex": ("resolution=32", "batch_size=2", *_SMALL_LATENTS),
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

    def model(self, preset: str, *changes: str) -> tuple[Any, Any]:
        """A preset's config, small in a toy run, and its model with the weights of seed 0."""
        config = run_config(preset, [*(TOY[preset] if self.toy else ()), *changes])
        torch.manual_seed(0)
        return config, new_model(config)

    def presets(self) -> tuple[str, ...]:
        """Those that are measured."""
        return tuple(TOY) if self.toy else PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, required=True, help="a folder; what is in it is written over")
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
    rate = 0.0
    if "b" in options.stages:
        bench.spend(90, 0.25)
        rate = speed(bench)
    if "c" in options.stages:
        training(bench, rate, options.denoiser)


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
    lines = ["check,difference,bound,result"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for name, (bound, check) in checks.items():
        difference, result = "", "no time left"
        if not bench.over():
            try:
                found = check(bench)
                difference, result = f"{found:.3g}", "good" if found <= bound else "OUT OF BOUNDS"
            except Exception as error:
                result = f"FAILED {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        lines.append(f'"{name}",{difference},{bound},"{result[:200]}"'.replace('""', '"'))
        print(f"{name:52} {difference:>10} (at most {bound})  {result}", flush=True)
        with replacing(bench.folder / "correctness.csv") as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


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
    (_, here), (_, there) = bench.model(preset), bench.model(preset)
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
    slots = torch.randn(2, here.slots, here.encoder.slot_attention.dim, generator=seeded_generator(2))
    painted = [
        model.eval().generate(slots.to(device), steps=3, generator=[seeded_generator(3, n) for n in range(len(images))])
        for model, device in ((there, bench.device), (here, "cpu"))
    ]
    return _apart(*painted)


def moved(bench: Bench) -> float:
    _, model = bench.model(REPORT)
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


def speed(bench: Bench) -> float:
    """Writes speed.csv; returns training images/s of the report's preset in bfloat16, or 0."""
    rows: list[dict[str, object]] = []

    def measure(work: str, contender: str, images: int, unit: str, make: Callable[[], Callable[[], object]]) -> float:
        if bench.over():
            return 0.0
        try:
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            step, seconds = make(), 0.3 if bench.toy else 2.0
            for _ in range(1 if bench.toy else 3):
                step()
            synchronise()
            began, steps = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                step()
                synchronise()
                steps += 1
            rate = images * steps / (time.perf_counter() - began)
            peak = torch.cuda.max_memory_allocated() / 2**20 if bench.device.type == "cuda" else None
            rows.append(row(work, contender, rate, unit, rounds=steps, peak_mib=peak))
        except Exception as error:
            rate, failed = 0.0, f"{contender}: {type(error).__name__} {str(error).splitlines()[0][:80]}"
            rows.append(row(work, failed, float("nan"), unit, rounds=0))
        print(f"{work:64} {rows[-1]['contender']:44} {rows[-1]['value']:>10} {unit}", flush=True)
        save(rows, bench.folder / "speed.csv")
        return rate

    def train(preset: str, contender: str, precision: str, mode: str = "") -> float:
        config, _ = bench.model(preset)
        work = f"training, {preset}, batch {config.training.batch_size}, {bench.device}"
        make = lambda: training_step(bench, preset, precision, mode)  # noqa: E731
        return measure(work, f"{contender}, {precision}", config.training.batch_size, "images/s", make)

    rate = train(REPORT, "slotlab", "bf16")
    scenes = 8 if bench.toy else 64
    for size, rays in ((32, 1), (32, 2)) if bench.toy else ((128, 1), (128, 2), (64, 1)):
        work = f"rendering, scenes:textured, {size}x{size}, {bench.device}"
        measure(work, f"batch {scenes}, {rays} rays a pixel's side", scenes, "scenes/s", rendering(bench, size, rays))
    train(REPORT, "plain PyTorch", "bf16", "plain")
    for precision in ("tf32", "fp32"):
        train(REPORT, "slotlab", precision)
        train(REPORT, "plain PyTorch", precision, "plain")
    for preset in bench.presets()[1:]:
        train(preset, "slotlab", "bf16")
    count_maps = 200 if bench.toy else 10_000
    measure(f"ARI, {bench.device}", f"{count_maps} maps of 128x128", count_maps, "maps/s", scoring(bench, count_maps))
    measure(f"sampling, {DIFFUSION}, {bench.device}", "25 steps", 2, "images/s", sampling(bench))
    if not bench.toy:  # minutes of compiling on a CPU
        train(REPORT, "slotlab, compiled", "bf16", "compile")
        train(REPORT, "slotlab, CUDA graphs", "bf16", "graphs")
    return rate


def training_step(bench: Bench, preset: str, precision: str, mode: str) -> Callable[[], object]:
    """One update on random images; `mode`: "", "plain", "compile" or "graphs"."""
    config, model = bench.model(preset)
    settings, (autocast, tf32) = config.training, PRECISIONS[precision]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    model = model.to(bench.device) if mode == "plain" else arrange(model, bench.device, settings.without)
    if mode == "compile":
        compile_parts(model)
    elif mode == "graphs":
        network = cast(Any, model)
        for part in (network.encoder.backbone, network.decoder):
            part.compile(mode="reduce-overhead")
    optimizer = torch.optim.Adam(model.parameters()) if mode == "plain" else make_optimizer(model, settings)
    forward: nn.Module = Plain(cast(SlotAutoencoder, model)) if mode == "plain" else model
    images = torch.rand(settings.batch_size, 3, model.resolution, model.resolution, device=bench.device)
    if mode != "plain":
        images = images.contiguous(memory_format=memory_format(settings.without))
    steps = count()

    def step() -> None:
        number = next(steps)
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


def rendering(bench: Bench, size: int, rays: int) -> Callable[[], Callable[[], object]]:
    numbers, scenes = count(), 8 if bench.toy else 64

    def step() -> None:
        first = next(numbers) * scenes
        render(range(first, first + scenes), resolution=size, supersample=rays, device=bench.device)

    return lambda: step


def scoring(bench: Bench, images: int) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        predicted, target = (labels.to(bench.device) for labels in label_maps(images, 128, 11))
        return lambda: adjusted_rand_index(predicted, target)

    return make


def sampling(bench: Bench) -> Callable[[], Callable[[], object]]:
    def make() -> Callable[[], object]:
        _, model = bench.model(DIFFUSION)
        model = model.to(bench.device).eval()
        slots = torch.randn(2, model.slots, model.encoder.slot_attention.dim, device=bench.device)
        return lambda: model.generate(slots, steps=2 if bench.toy else 25, generator=seeded_generator(0))

    return make


# --- (c) does it bind ---


def training(bench: Bench, rate: float, denoiser: bool) -> None:
    """Trains in the time that is left; each run folder has its curves and can be resumed."""
    left = bench.end - time.monotonic()
    fit(bench, "slots", REPORT, BINDING, left * (0.67 if denoiser else 1), rate)
    if denoiser:
        fit(bench, "latents", "latents-clevrtex", ("warmup_steps=100",), left * 0.1, 0)
        frozen = (f"pretrained={bench.folder / 'latents'}", f"start_from={bench.folder / 'slots'}", "encoder_steps=0",
                  "initialisation=learned", "slot_attention.gradient=last-iteration", "warmup_steps=100")  # fmt: skip
        small = [one for one in TOY[DIFFUSION] if bench.toy and not one.startswith("autoencoder.")]
        fit(bench, "denoiser", DIFFUSION, (*small, *frozen), bench.end - time.monotonic(), 0, whole=True)


def fit(
    bench: Bench, name: str, preset: str, changes: tuple[str, ...], seconds: float, rate: float, whole: bool = False
) -> None:
    """Trains for some seconds, then saves; `rate`, images/s, gives the steps of the schedule."""
    until = time.monotonic() + seconds
    small = () if whole or not bench.toy else TOY[preset]
    batch = run_config(preset, [*small]).training.batch_size
    # Half of the rate is for rendering, validation and starting up.
    steps = max(20, int(0.5 * (rate or 100) * seconds / batch))
    every = max(1, steps // 12)
    often = [f"{thing}_every={every}" for thing in ("evaluate", "checkpoint")]
    counts = [f"steps={steps}", f"preview_every={steps}", f"validation_count={8 if bench.toy else 200}"]
    try:
        config = run_config(preset, [*small, *changes, *often, *counts])
        for event in train_steps(config, bench.folder / name, device=bench.device.type):
            if event.kind == "validated":
                shown = {key: value for key, value in event.run.rows[-1].items() if isinstance(value, float | int)}
                print(name, {key: round(value, 4) for key, value in shown.items()}, flush=True)
            if event.kind == "step" and time.monotonic() >= until:
                os.kill(os.getpid(), signal.SIGINT)  # the loop saves, then stops
    except TrainingStopped as stopped:
        print(f"{name}: {stopped}", flush=True)
    except SlotlabError as error:
        print(f"{name}: FAILED {error}", flush=True)


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
