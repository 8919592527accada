"""The training loop: from a `RunConfig` to a run folder with checkpoints and a history."""

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from slotlab import checkpoints
from slotlab.config import RUN_FILE, RunConfig
from slotlab.data import Batch, SlotDataset, training_batches
from slotlab.distributed import make_fabric, naming_lost_processes
from slotlab.errors import SlotlabError
from slotlab.evaluation import Evaluation, evaluate
from slotlab.files import replacing
from slotlab.models import LatentAutoencoder, Model, SlotDiffusion
from slotlab.models.randomness import seeded_generator
from slotlab.training.checkpoint import (
    DIAGNOSED,
    TRAINING_FILE,
    History,
    Row,
    newest_checkpoint,
    now,
    provenance,
    prune_checkpoints,
    read_trainer,
    step_folder,
    weights_name,
    write_checkpoint,
)
from slotlab.training.console import (
    StepProfile,
    TrainingProgress,
    explaining_out_of_memory,
    keep_freed_memory,
    what_would_fit,
)
from slotlab.training.objectives import with_penalties
from slotlab.training.optimisation import (
    arrange,
    learning_rate,
    make_average,
    make_optimizer,
    memory_format,
    set_learning_rate,
    slot_noise,
)
from slotlab.training.setup import check_data, check_folder, check_latents, check_settings, open_split, start_from


@contextmanager
def noticing_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets, so that the current step ends well; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def notice(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in before:
        signal.signal(number, notice)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


FINITE_EVERY = 10
OF_LAYERS = 1  # marks the key of what layers draw themselves (dropout), from the global generator
SCALED_BY = 256  # images whose latents give an autoencoder its scaling


class TrainingStopped(SlotlabError):
    """The run was stopped by Ctrl-C or a signal, and saved; the message says how to go on."""


class TrainingDiverged(SlotlabError):
    """The loss is not finite; the message names the step, the last good checkpoint and what to change."""


@dataclass
class RunState:
    """What callbacks see of a run: its folder and config, the model to look at, and how far it is."""

    folder: Path
    config: RunConfig
    model: Model
    validation: SlotDataset
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    rows: list[Row] = field(default_factory=list)


class Callback(Protocol):
    """Hooks that draw or report while a model trains; called in the first process only."""

    def on_preview(self, run: RunState) -> None:
        """Called every `preview_every` steps and at the end."""
        ...

    def on_evaluation(self, run: RunState, evaluation: Evaluation) -> None:
        """Called after each validation; `run.rows[-1]` is its row."""
        ...


def fit(
    config: RunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    accelerator: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    show_progress: bool = True,
    profile: bool = False,
) -> Path:
    """Trains a model and writes its run folder.

    The folder holds `run.json` (the config), `history.csv`, TensorBoard logs, `checkpoints/`, and the trained model
    itself (`config.json`, `model.safetensors`, `training.json`), so that it can be given to `slotlab.load`.

    Args:
        config: from `run_config(preset, overrides)`.
        folder: a new or empty folder, or with `resume` the folder of the run to go on with.
        resume: continue from the newest checkpoint; the losses are those of a run without the interruption.
        callbacks: hooks for pictures and reports.
        accelerator: "auto", "cpu" or "cuda".
        devices: processes on this machine; under `torchrun` or SLURM theirs are used.
        nodes: machines.
        show_progress: draw a live progress bar.
        profile: after the first steps, print where their time went.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds another run, or a setting does not fit the data or the processes.
        DataError: the data cannot be read.
        TrainingStopped: after Ctrl-C, once all is saved.
        TrainingDiverged: the loss became infinite or NaN.
        OutOfMemory: a step needs more memory than there is.
        ProcessLost: another process of the training has ended.
    """
    settings = config.training
    if "kept-memory" not in settings.without:
        keep_freed_memory()
    fabric = make_fabric(
        accelerator, devices, nodes, settings.precision, parameters_without_gradient=settings.freezes_encoder
    )
    folder = Path(folder)
    checkpoint = check_folder(config, folder, resume)
    trainer = _Trainer(fabric, config, folder, callbacks, show_progress)
    if profile and fabric.is_global_zero:
        trainer.profile = StepProfile(trainer.raw_model, trainer.progress.console.print, fabric.device)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    else:
        trainer.begin()
    fabric.barrier()  # all have checked the folder before the first writes to it
    if fabric.is_global_zero and not (folder / RUN_FILE).is_file():
        with replacing(folder / RUN_FILE) as path:
            path.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    with naming_lost_processes(lambda: f"The last checkpoint is {newest_checkpoint(folder)}: go on with --resume"):
        trainer.run()
    return folder


class _Trainer:
    """One run in one process: the state that an update, a validation and a checkpoint share."""

    def __init__(
        self, fabric: Fabric, config: RunConfig, folder: Path, callbacks: Sequence[Callback], show_progress: bool
    ) -> None:
        self.fabric = fabric
        self.config = config
        self.settings = settings = config.training
        self.provenance = provenance()  # once: the source tree may change while the run goes on
        self.callbacks = callbacks if fabric.is_global_zero else ()
        self.data = open_split(config, "train", device=fabric.device)
        check_data(self.data, fabric.world_size)
        torch.manual_seed(settings.seed)
        model = checkpoints.model_from_config(config.model)
        check_settings(model, config, fabric.world_size)
        if isinstance(model, SlotDiffusion):
            model.keeps_cross_attention = settings.cross_attention_loss > 0
        model = arrange(model, fabric.device, settings.without)
        self.average = make_average(model, settings)
        if settings.compile:
            for part in _heavy_parts(model):
                part.compile()
        self.raw_model: Model = model
        self.model, self.optimizer = fabric.setup(model, make_optimizer(model, settings))
        shown = cast(Model, self.average.module) if self.average is not None else model
        self.state = RunState(folder, config, shown, open_split(config, "val", device=fabric.device))
        if isinstance(model, SlotDiffusion):
            model.autoencoder.check_scaling(self._some_images(self.state.validation, 64))
            check_latents(self.data.describe(), model.autoencoder)
        self.losses: list[Tensor] = []
        self.gradient_norm = torch.zeros(())
        self.progress = TrainingProgress(settings.steps, enabled=show_progress and fabric.is_global_zero)
        self.profile: StepProfile | None = None

    def begin(self) -> None:
        """Takes up the parts of the model that `start_from` names, if any."""
        if self.settings.start_from is not None:
            average = self.state.model if self.average is not None else None
            self.progress.say(start_from(self.settings.start_from, self.raw_model, self.settings, average))

    def restore(self, checkpoint: Path) -> None:
        """Takes up the weights, optimiser and history that a checkpoint holds."""
        saved = read_trainer(checkpoint)
        self.raw_model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.losses = list(saved["losses"].to(self.fabric.device).unbind())
        state = self.state
        state.step, state.seconds, state.best_loss = saved["step"], saved["seconds"], saved["best_loss"]
        state.rows = saved["rows"]

    def run(self) -> None:
        """Updates, validates, draws and saves until the last step, Ctrl-C, or a loss that is not finite."""
        state, settings = self.state, self.settings
        self.history = History(state.folder, state.rows) if self.fabric.is_global_zero else None
        batches = iter(
            training_batches(
                self.data,
                batch_size=settings.batch_size,
                seed=settings.seed,
                start_step=state.step,
                rank=self.fabric.global_rank,
                world_size=self.fabric.world_size,
                workers=self.config.data.workers,
            )
        )
        started = time.monotonic() - state.seconds
        epoch_steps = math.ceil(len(self.data) / settings.batch_size)
        evaluate_every = settings.evaluate_every or min(epoch_steps, settings.checkpoint_every)
        writing = nullcontext() if self.history is None else closing(self.history)
        with noticing_stop() as stop, self.progress, writing:
            self.progress.start(state.step)
            while state.step < settings.steps:
                with self._timed("data"):
                    batch = next(batches)
                with explaining_out_of_memory(self._what_would_fit):
                    self._update(batch)
                if self.profile is not None and self.profile.step(settings.batch_size):
                    self.profile = None
                state.step += 1
                state.seconds = time.monotonic() - started
                last = state.step == settings.steps
                if state.step % FINITE_EVERY == 0 or last:
                    self._check_finite()
                self.progress.update(state.step, settings.batch_size, self.losses)
                if last or state.step % evaluate_every == 0:
                    self._validate()
                if last or state.step % settings.preview_every == 0:
                    for callback in self.callbacks:
                        callback.on_preview(state)
                stopping = self._any_process(stop.is_set())
                if last or stopping or state.step % settings.checkpoint_every == 0:
                    self._check_finite()
                    self._save()
                if stopping and not last:
                    raise TrainingStopped(
                        f"stopped at step {state.step} of {settings.steps} and saved; "
                        f"go on with the same command and --resume"
                    )
            if self.profile is not None:
                self.profile.end(settings.batch_size)

    def _update(self, batch: Batch) -> None:
        settings, step = self.settings, self.state.step
        set_learning_rate(cast(torch.optim.Optimizer, self.optimizer), learning_rate(step, settings))
        if settings.encoder_steps is not None and step >= settings.encoder_steps:
            cast(torch.nn.Module, self.raw_model.encoder).requires_grad_(False)
        first = self.fabric.global_rank * len(batch["index"])
        generators = [seeded_generator(settings.seed, step, first + place) for place in range(len(batch["index"]))]
        torch.manual_seed(seeded_generator(settings.seed, step, first, OF_LAYERS).initial_seed())
        self.model.train()
        if not isinstance(self.raw_model, LatentAutoencoder):
            self.raw_model.encoder.slot_attention.noise = slot_noise(step, settings)
        losses = []
        for part in range(settings.accumulate):
            mine = slice(*(len(generators) * end // settings.accumulate for end in (part, part + 1)))
            summing = self.fabric.no_backward_sync(self.model, enabled=part + 1 < settings.accumulate)
            with summing, self._timed("loss and the rest"):
                losses.append(self._backward(batch, mine, generators[mine]))
        loss = torch.stack(losses).mean()
        with self._timed("optimiser"):
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
            self.gradient_norm = cast(Tensor, norm).detach()
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update_parameters(self.raw_model)
        self.losses.append(loss)

    def _backward(self, batch: Batch, mine: slice, generators: list[torch.Generator]) -> Tensor:
        """Adds the gradients of a part of a batch; returns its loss."""
        settings, device = self.settings, self.fabric.device
        images = batch["image"][mine].to(device, non_blocking=True)
        images = images.contiguous(memory_format=memory_format(settings.without))
        if "latents" in batch and isinstance(self.raw_model, SlotDiffusion):
            output = self.model(images, generators, latents=batch["latents"][mine].to(device))
        else:
            output = self.model(images, generators)
        loss = self.raw_model.losses(output, images).mean()
        objective = with_penalties(loss, output, images, settings, self.state.step)
        with self._timed("backward"):
            self.fabric.backward(objective / settings.accumulate)
        return loss.detach()

    def _what_would_fit(self) -> str:
        settings = self.settings
        parts, processes = settings.accumulate, self.fabric.world_size
        return what_would_fit(self.raw_model, self.fabric.device, settings.batch_size, parts, processes)

    def _timed(self, part: str) -> AbstractContextManager[None]:
        return nullcontext() if self.profile is None else self.profile.part(part)

    def _validate(self) -> None:
        state, settings = self.state, self.settings
        self._measure_scaling()
        evaluation = evaluate(
            state.model,
            state.validation,
            batch_size=settings.batch_size,
            seed=settings.seed,
            weights=weights_name(self.average is not None),
        )
        train_loss = self.fabric.all_reduce(torch.stack(self.losses).mean(), reduce_op="mean")
        self.losses = []
        if self.history is None:
            return
        images = state.step * settings.batch_size
        row: Row = {
            "step": state.step,
            "epoch": round(images / len(self.data), 4),
            "images": images,
            "seconds": round(state.seconds, 2),
            "train_loss": float(cast(Tensor, train_loss)),
            "validation_loss": evaluation.loss,
            "learning_rate": learning_rate(state.step - 1, settings),
            "gradient_norm": float(self.gradient_norm),
            "images_per_second": round(images / state.seconds, 2),
        }
        for source, scores in evaluation.segmentation.items():
            prefix = "" if source == "masks" else f"{source}_"
            row.update({prefix + name: scores[name].mean for name in ("ari", "fg_ari")})
        row.update({name: evaluation.diagnostics[name] for name in DIAGNOSED if name in evaluation.diagnostics})
        self.history.add(row)
        state.rows = self.history.rows
        self.progress.tell(row, evaluation.warnings)
        for callback in self.callbacks:
            callback.on_evaluation(state, evaluation)
        if evaluation.loss < state.best_loss:
            state.best_loss = evaluation.loss
            write_checkpoint(state.folder / "checkpoints" / "best", state.model, self._training())

    def _save(self) -> None:
        state = self.state
        self._measure_scaling()
        losses = torch.zeros(0)
        if self.losses:  # of all processes, so that whichever resume take the same on
            losses = cast(Tensor, self.fabric.all_reduce(torch.stack(self.losses), reduce_op="mean")).cpu()
        if self.fabric.is_global_zero:
            trainer: dict[str, Any] = {
                "step": state.step,
                "seconds": state.seconds,
                "best_loss": state.best_loss,
                "rows": state.rows,
                "losses": losses,
                "model": self.raw_model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            if self.average is not None:
                trainer["average"] = self.average.state_dict()
            write_checkpoint(step_folder(state.folder, state.step), state.model, self._training(), trainer)
            prune_checkpoints(state.folder, self.settings.keep_checkpoints)
            checkpoints.save(state.model, state.folder)
            with replacing(state.folder / TRAINING_FILE) as path:
                path.write_text(json.dumps(self._training(), indent=2) + "\n", encoding="utf-8")
        self.fabric.barrier()

    def _measure_scaling(self) -> None:
        """Gives an autoencoder's latents unit variance, as stage 2 needs them."""
        if isinstance(self.state.model, LatentAutoencoder):
            images = self._some_images(self.data, SCALED_BY)
            try:
                self.state.model.measure_scaling(images.split(self.settings.batch_size))
            except ValueError as error:
                raise TrainingDiverged(f"step {self.state.step}: {error}, or lower regulariser_weight") from None

    def _some_images(self, data: SlotDataset, count: int) -> Tensor:
        return data.batch(range(min(count, len(data))))["image"].to(self.fabric.device)

    def _training(self) -> dict[str, Any]:
        state = self.state
        return {
            **self.provenance,
            "date": now(),
            "preset": self.config.preset,
            "seed": self.settings.seed,
            "steps": state.step,
            "images": state.step * self.settings.batch_size,
            "seconds": round(state.seconds, 1),
            "processes": self.fabric.world_size,
            "device": str(self.fabric.device),
            "averaged_weights": self.average is not None,
            "train_data": self.data.describe(),
            "validation_data": state.validation.describe(),
        }

    def _check_finite(self) -> None:
        recent = torch.stack([*self.losses[-FINITE_EVERY:], self.gradient_norm.to(self.fabric.device)])
        if self._any_process(not bool(torch.isfinite(recent).all())):
            kept = newest_checkpoint(self.state.folder)
            raise TrainingDiverged(
                f"the loss or gradient is not finite at step {self.state.step}; last good checkpoint: {kept}. "
                f"Try a lower learning_rate, a smaller clip_norm, more warmup_steps, or precision=fp32"
            )

    def _any_process(self, happened: bool) -> bool:
        if self.fabric.world_size == 1:
            return happened
        flag = torch.tensor(float(happened), device=self.fabric.device)
        return bool(cast(Tensor, self.fabric.all_reduce(flag, reduce_op="sum")) > 0)


def _heavy_parts(model: Model) -> list[torch.nn.Module]:
    """The parts that are worth compiling."""
    if isinstance(model, LatentAutoencoder):
        return [model.network.encoder, model.network.decoder]
    return [model.encoder.backbone, model.denoiser if isinstance(model, SlotDiffusion) else model.decoder]
