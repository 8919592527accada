"""The training loop, from a `RunConfig` to a run folder with checkpoints and a history."""

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import Optimizer

from slotlab.config import RUN_FILE, RunConfig
from slotlab.data import Batch, SlotDataset, training_batches
from slotlab.distributed import make_fabric, naming_lost_processes, noticing_stop
from slotlab.errors import SlotlabError
from slotlab.evaluation import Evaluation, evaluate
from slotlab.files import clear_leftovers, write_json
from slotlab.models import FeatureAutoencoder, LatentAutoencoder, SlotDiffusion
from slotlab.models.sampling import seeded_generator
from slotlab.models.video import cues_of
from slotlab.training.checkpoint import DIAGNOSED, History, Row, Run, newest_checkpoint, weights_name, write_checkpoint
from slotlab.training.objectives import Paintings, Teacher, prediction_error, teacher_disagreement, with_penalties
from slotlab.training.optimisation import (
    arrange,
    compile_parts,
    learning_rate,
    make_average,
    make_optimizer,
    memory_format,
    set_learning_rate,
    slot_noise,
)
from slotlab.training.resources import StepProfile, explaining_out_of_memory, keep_freed_memory, what_would_fit
from slotlab.training.setup import (
    check_data,
    check_features,
    check_folder,
    check_latents,
    check_settings,
    fit_features,
    new_model,
    only_process,
    open_split,
    start_from,
)

FINITE_EVERY = 10  # steps between reads of the loss, which wait for the device
OF_LAYERS = 1  # marks the key of the global generator, from which layers draw dropout
SCALED_BY = 256  # images whose latents give an autoencoder its scaling


class TrainingStopped(SlotlabError):
    """Ctrl-C or a signal stopped the run after it was saved; the message says how to resume."""


class TrainingDiverged(SlotlabError):
    """The loss is not finite; the message names the step, the last good checkpoint and a remedy."""


class Event(NamedTuple):
    """What `train_steps` yields.

    Attributes:
        kind: "begun" (with a message if other weights were taken); "step" after each update;
            "profiled" once, with the profile; "validated" with the scores, which are the last of
            `run.rows`; "preview" when a preview is due.
        run: the run.
        evaluation: scores of a validation.
        message: a sentence to show.
        profile: milliseconds of each part of a step; empty if there were too few steps.
    """

    kind: Literal["begun", "step", "profiled", "validated", "preview"]
    run: Run
    evaluation: Evaluation | None = None
    message: str = ""
    profile: dict[str, float] | None = None


def train_steps(
    config: RunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    profile: bool = False,
) -> Generator[Event, None, Path]:
    """Trains a model and writes its run folder; yields events, which the caller shows or ignores.

    The folder holds `run.json` (the config), `history.csv`, `checkpoints/` and
    the trained model (`config.json`, `model.safetensors`, `training.json`) for `slotlab.load`.
    All processes yield the same events, "profiled" excepted: the first alone measures.

    Args:
        config: from `run_config(preset, overrides)`.
        folder: a new or empty folder; with `resume` the folder of the run.
        resume: continue from the newest checkpoint, with the losses of an uninterrupted run.
        device: "auto", "cpu" or "cuda".
        devices: processes on this machine; ignored under `torchrun` or SLURM.
        nodes: machines.
        profile: measure where the time of the first steps goes.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds another run, another command trains it, or a setting does not
            fit data or processes.
        DataError: the data cannot be read.
        TrainingStopped: Ctrl-C, after the run was saved.
        TrainingDiverged: the loss is infinite or NaN.
        OutOfMemory: a step needs more memory than there is.
        ProcessLost: another process of the training has ended.
    """
    settings, folder = config.training, Path(folder)
    if "kept-memory" not in settings.without:
        keep_freed_memory()
    fabric = make_fabric(
        device, devices, nodes, settings.precision, parameters_without_gradient=settings.freezes_encoder
    )
    torch_device, first = fabric.device, fabric.is_global_zero
    check_folder(config, folder, resume)

    # Data, model, optimiser.
    train_data, validation = open_split(config, "train", torch_device), open_split(config, "val", torch_device)
    check_data(train_data, fabric.world_size)
    torch.manual_seed(settings.seed)
    model = new_model(config)
    check_settings(model, config, fabric.world_size)
    if isinstance(model, SlotDiffusion):
        model.keeps_cross_attention = settings.cross_attention_loss > 0
    model = arrange(model, torch_device, settings.without)
    of_images = getattr(model, "image_model", model)  # of a video model
    if isinstance(of_images, FeatureAutoencoder):
        check_features(train_data.describe(), of_images)
        if newest_checkpoint(folder) is None:
            fit_features(of_images, train_data, torch_device)
    average = make_average(model, settings)
    if settings.compile:
        compile_parts(model)
    forward, optimizer = fabric.setup(model, make_optimizer(model, settings))
    run = Run(folder, config, fabric, model, average, cast(Optimizer, optimizer), train_data, validation)
    teacher = None
    if settings.teacher is not None:
        teacher = Teacher(settings.teacher, model, settings.seed, merged=settings.teacher_merged)
    paintings = None
    if isinstance(model, SlotDiffusion) and model.decoder is not None:
        paintings = Paintings(model) if model.encoder.slot_attention.initialisation == "learned" else None
    if isinstance(of_images, SlotDiffusion):
        of_images.autoencoder.check_scaling(_some_images(run, validation, 64))
        check_latents(train_data.describe(), of_images.autoencoder)

    with (
        only_process(folder, 10 if config.data.workers else 0),
        naming_lost_processes(lambda: f"The last checkpoint is {newest_checkpoint(folder)}: add --resume to continue"),
        noticing_stop() as stop,
        ExitStack() as stack,
        StepProfile(model, torch_device) if profile and first else nullcontext() as timer,
    ):
        # Begin or resume.
        message = ""
        checkpoint = newest_checkpoint(folder)
        if checkpoint is not None:
            run.restore(checkpoint)
        elif settings.start_from is not None:
            message = start_from(model, settings, None if average is None else run.model)
        if isinstance(of_images, SlotDiffusion) and of_images.decoder is not None and checkpoint is None:
            of_images.check_lacking(_some_images(run, validation, 16))
        fabric.barrier()  # all have checked the folder before the first writes to it
        if first:
            clear_leftovers(folder)
            if not (folder / RUN_FILE).is_file():
                write_json(folder / RUN_FILE, config.model_dump(mode="json"), synced=True)
            if checkpoint is not None:  # a kill may have come between the checkpoint and the model
                run.take_model(checkpoint)
        history = stack.enter_context(closing(History(folder, run.rows, config))) if first else None
        batches = iter(
            training_batches(
                train_data,
                batch_size=settings.batch_size,
                seed=settings.seed,
                start_step=run.step,
                rank=fabric.global_rank,
                world_size=fabric.world_size,
                workers=config.data.workers,
                mirror=config.data.mirror,
            )
        )
        started = time.monotonic() - run.seconds
        epoch_steps = math.ceil(len(train_data) / settings.batch_size)
        evaluate_every = settings.evaluate_every or min(epoch_steps, settings.checkpoint_every)
        part = (lambda name: nullcontext()) if timer is None else timer.part
        yield Event("begun", run, message=message)
        for step in range(run.step, settings.steps):
            with part("data"):
                batch = next(batches)

            # One update.
            set_learning_rate(run.optimizer, learning_rate(step, settings))
            if settings.encoder_steps is not None and step >= settings.encoder_steps:
                cast(torch.nn.Module, model.encoder).requires_grad_(False)
            place = fabric.global_rank * len(batch["index"])  # in the whole batch
            generators = [seeded_generator(settings.seed, step, place + n) for n in range(len(batch["index"]))]
            torch.manual_seed(seeded_generator(settings.seed, step, place, OF_LAYERS).initial_seed())
            forward.train()
            if not isinstance(model, LatentAutoencoder):
                model.encoder.slot_attention.noise = slot_noise(step, settings)
            with explaining_out_of_memory(lambda: what_would_fit(model, torch_device, settings, fabric.world_size)):
                losses = []
                for number in range(settings.accumulate):
                    mine = slice(*(len(generators) * end // settings.accumulate for end in (number, number + 1)))
                    more = number + 1 < settings.accumulate
                    with fabric.no_backward_sync(forward, enabled=more), part("loss and the rest"):
                        loss, objective = _loss(run, forward, batch, mine, generators[mine], step, teacher, paintings)
                        with part("backward"):
                            fabric.backward(objective / settings.accumulate)
                    losses.append(loss)
                    del objective
                with part("optimiser"):
                    norm = fabric.clip_gradients(
                        forward, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
                    )
                    optimizer.step()
                    optimizer.zero_grad()
                    if average is not None:
                        average.update_parameters(model)
            run.gradient_norm = cast(Tensor, norm).detach()
            run.losses.append(torch.stack(losses).mean())
            run.step, run.seconds = step + 1, time.monotonic() - started

            # Check, validate, preview, save.
            last = run.step == settings.steps
            if timer is not None and (timer.step() or (last and not timer.milliseconds)):
                yield Event("profiled", run, profile=timer.milliseconds)
            if run.step % FINITE_EVERY == 0 or last or math.isnan(run.loss):
                _check_finite(run)
            yield Event("step", run)
            if last or run.step % evaluate_every == 0:
                evaluation = _validate(run)
                if history is not None:
                    history.write(run.rows)
                yield Event("validated", run, evaluation)
                if evaluation.loss < run.best_loss:
                    run.best_loss = evaluation.loss
                    if first:
                        write_checkpoint(folder / "checkpoints" / "best", run.model, run.facts())
            if last or run.step % settings.preview_every == 0:
                yield Event("preview", run)
            # Asking the other processes waits for the device.
            asking = fabric.world_size == 1 or torch_device.type == "cpu" or run.step % FINITE_EVERY == 0 or last
            stopping = asking and _any_process(fabric, stop.is_set())
            if last or stopping or run.step % settings.checkpoint_every == 0:
                _check_finite(run)
                _measure_scaling(run)
                run.save()
            if stopping and not last:
                raise TrainingStopped(
                    f"stopped at step {run.step} of {settings.steps} and saved; "
                    f"re-run the same command with --resume to continue"
                )
    return folder


def _loss(
    run: Run,
    forward: Any,
    batch: Batch,
    mine: slice,
    generators: list[torch.Generator],
    step: int,
    teacher: Teacher | None,
    paintings: Paintings | None,
) -> tuple[Tensor, Tensor]:
    """The model's loss of a part of a batch, detached, and the objective with all penalties."""
    settings, device = run.config.training, run.fabric.device
    images, more = batch["image"][mine].to(device, non_blocking=True), cues_of(run.trained, batch, mine)
    frames = images.shape[1] if images.ndim == 5 else 1
    if images.ndim == 4:
        images = images.contiguous(memory_format=memory_format(settings.without))
    if "latents" in batch and isinstance(run.trained, SlotDiffusion):
        more = {"latents": batch["latents"][mine].to(device, non_blocking=True)}
    if paintings is not None:
        more["painting"] = paintings.of(batch, mine).to(device)
    if "features" in batch and isinstance(run.trained, FeatureAutoencoder):
        more = {"raw": batch["features"][mine].to(device, non_blocking=True)}
    output = forward(images, generators, **more)
    images = images.flatten(0, -4)  # all frames of clips
    loss = run.trained.losses(output, images).mean()
    objective = with_penalties(loss, output, images, settings, step, frames)
    if settings.prediction_loss and frames > 1:
        slots = output.slots.unflatten(0, (-1, frames))
        predicted = cast(Any, run.trained).predicted(slots[:, :-1].flatten(0, 1)).unflatten(0, (-1, frames - 1))
        objective = objective + settings.prediction_loss * prediction_error(predicted, slots)
    if teacher is not None:
        labels = teacher.labels(batch, mine, images.shape[-2:] if settings.teacher_pixels else output.attention_grid)
        objective = objective + settings.teacher_loss * teacher_disagreement(output, labels, settings.teacher_balance)
    return loss.detach(), objective


def _validate(run: Run) -> Evaluation:
    """Scores the model, and adds a row to the history."""
    settings, step = run.config.training, run.step
    _measure_scaling(run)
    evaluation = evaluate(
        run.model,
        run.validation,
        batch_size=settings.batch_size,
        seed=settings.seed,
        weights=weights_name(run.average is not None),
    )
    train_loss = run.fabric.all_reduce(torch.stack(run.losses).mean(), reduce_op="mean")
    run.losses = []
    images = step * settings.batch_size
    row: Row = {
        "step": step,
        "epoch": round(images / len(run.train_data), 4),
        "images": images,
        "seconds": round(run.seconds, 2),
        "train_loss": float(cast(Tensor, train_loss)),
        "validation_loss": evaluation.loss,
        "learning_rate": learning_rate(step - 1, settings),
        "gradient_norm": float(run.gradient_norm),
        "images_per_second": round(images / run.seconds, 2),
    }
    for source, scores in evaluation.segmentation.items():
        prefix = "" if source == "masks" else f"{source}_"
        row.update({prefix + name: scores[name].mean for name in ("ari", "fg_ari")})
    row.update({name: evaluation.diagnostics[name] for name in DIAGNOSED if name in evaluation.diagnostics})
    run.rows.append(row)
    return evaluation


def _measure_scaling(run: Run) -> None:
    """Gives an autoencoder's latents unit variance, as slot diffusion needs them."""
    if isinstance(run.model, LatentAutoencoder):
        images = _some_images(run, run.train_data, SCALED_BY)
        try:
            run.model.measure_scaling(images.split(run.config.training.batch_size))
        except ValueError as error:
            raise TrainingDiverged(f"step {run.step}: {error}, or lower regulariser_weight") from None


def _some_images(run: Run, data: SlotDataset, count: int) -> Tensor:
    return data.batch(range(min(count, len(data))))["image"].flatten(0, -4).to(run.fabric.device)


def _check_finite(run: Run) -> None:
    recent = torch.stack([*run.losses[-FINITE_EVERY:], run.gradient_norm.to(run.fabric.device)])
    newest = float(torch.where(torch.isfinite(recent).all(), recent[-2:][0], torch.nan))  # one transfer for both
    run.loss = newest if run.losses else run.loss
    if _any_process(run.fabric, math.isnan(newest)):
        raise TrainingDiverged(
            f"the loss or gradient is not finite at step {run.step}; last good checkpoint: "
            f"{newest_checkpoint(run.folder)}. Try a lower learning_rate, a smaller clip_norm, more warmup_steps, or "
            f"precision=fp32"
        )


def _any_process(fabric: Fabric, happened: bool) -> bool:
    if fabric.world_size == 1:
        return happened
    flag = torch.tensor(float(happened), device=fabric.device)
    return bool(cast(Tensor, fabric.all_reduce(flag, reduce_op="sum")) > 0)
