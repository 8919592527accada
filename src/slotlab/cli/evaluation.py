"""Commands that measure: evaluate, diagnose, report, fid."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, open_from_options, say, shown, speaks


@command(app, shared=True)
def evaluate(
    run: options.Run,
    data: options.Data,
    images: options.ImageOptions,
    split: options.Split = "test",
    count: options.Count = None,
    baselines: Annotated[
        bool,
        Option("--baselines", help="Also score baselines without training: blocks, K-means, SLIC."),
    ] = False,
    mask_resolution: Annotated[
        str | None,
        Option(metavar="PIXELS|original", help="Side of the masks that are scored. Default: the model's resolution."),
    ] = None,
    min_area: Annotated[
        float, Option(min=0, max=1, help="Ignore objects below this share of the picture, such as 0.01.")
    ] = 0.0,
    merge: options.Merge = False,
    batch_size: options.BatchSize = 32,
    seed: options.Seed = 0,
    json: options.Json = None,
    device: options.Device = "auto",
) -> None:
    """Score a model's masks and attention masks (ARI, FG-ARI, mIoU, mBO) and its reconstructions.

    Of COCO and PASCAL VOC, mBO is scored by class too; of BSDS500, the mean and the best over its
    annotators.

    The scores of a run are also written to metrics.json in its folder, but not those of --merge.

    [bold]slotlab evaluate runs/first --data scenes:plain --max-objects 6[/bold] (the data of
    scenes-32)

    [bold]slotlab evaluate scenes-64 --data scenes:plain --max-objects 6 --count 500[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.evaluation import evaluate
    from slotlab.released import is_released, model_folder
    from slotlab.reporting.tables import evaluation_table
    from slotlab.training.checkpoint import weights_of

    folder = model_folder(run)
    model = load(folder, device)
    side = int(mask_resolution) if mask_resolution and mask_resolution.isdecimal() else mask_resolution
    of_masks: dict[str, Any] = {"mask_resolution": side, "every_mask": True}
    dataset = open_from_options(data, model.resolution, split, count, images, **of_masks)
    more: dict[str, Any] = {"weights": weights_of(folder), "baselines": baselines, "min_area": min_area, "merge": merge}
    steps = evaluate.steps(model, dataset, batch_size=batch_size, seed=seed, **more)
    result = shown("evaluating", len(dataset), steps)
    if not speaks():
        return
    say(evaluation_table(result))
    for warning in result.warnings:
        say(f"warning: {warning}")
    if json is not None:  # first, as the run may be in a folder that cannot be written
        result.write(json)
    if not (is_released(folder) or merge):
        result.write(folder / "metrics.json")


@command(app, shared=True)
def diagnose(
    run: options.Run,
    data: options.Data,
    images: options.ImageOptions,
    split: options.Split = "val",
    count: options.Count = None,
    mask_source: options.MaskSource = None,
    batch_size: options.BatchSize = 32,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        Option(metavar="PNG", dir_okay=False, help="The figure. Default: diagnostics.png in the run, or here."),
    ] = None,
    json: options.Json = None,
    device: options.Device = "auto",
) -> None:
    """Find out what is wrong with a model's slots, what to try, and where slots own pixels.

    Detects collapsed, dead and duplicate slots, tiling (masks that ignore the image), a background
    in pieces, soft masks, and attention that does not settle. Some of it needs true masks.
    docs/diagnostics.md explains each number.

    [bold]slotlab diagnose runs/first --data scenes:plain --max-objects 6 --count 200[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.evaluation import diagnose
    from slotlab.figures.curves import diagnosis_figure, figure_image
    from slotlab.figures.grid import write_png
    from slotlab.files import write_json
    from slotlab.models import with_slots
    from slotlab.released import is_released, model_folder
    from slotlab.reporting.tables import diagnosis_table, protocol_line

    folder = model_folder(run)
    model = with_slots(load(folder, device), run)
    dataset = open_from_options(data, model.resolution, split, count, images)
    steps = diagnose.steps(model, dataset, mask_source=mask_source, batch_size=batch_size, seed=seed)
    found = shown("diagnosing", len(dataset), steps)
    if not speaks():
        return
    source = mask_source or model.finer_masks
    protocol = {**dataset.describe(), "images": found.images, **model.describe(), "slot_seed": seed}
    numbers, warnings = found.numbers(), found.warnings(model)
    say(diagnosis_table(numbers, f"{protocol_line(protocol)}, masks: {source}"))
    for warning in warnings:
        say(f"warning: {warning}")
    if not warnings:
        say("no sign of a problem")
    if json is not None:
        diagnostics = {"mask_source": source, **numbers}
        write_json(json, {"protocol": protocol, "diagnostics": diagnostics, "warnings": warnings})
    picture = out or (Path() if is_released(folder) else folder) / "diagnostics.png"
    write_png(figure_image(diagnosis_figure(found, f"{run}, {data}, {found.images:,} images")), picture)
    say(f"figure: {picture.resolve()}")


@command(app)
def report(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    data: options.OptionalData = None,
    images: Annotated[int, Option(help="Number of images to show.")] = 8,
    library: Annotated[Path | None, Option(help="A concept library of the run to show.")] = None,
    compositions: Annotated[
        list[Path] | None, Option("--composition", metavar="DIR", help="Output of `compose`; may be repeated.")
    ] = None,
) -> None:
    """Write one HTML file with a run's images, scores, protocol, curves and settings.

    The images are those of the run's own data, or of --data.

    [bold]slotlab report runs/first[/bold]
    """
    from slotlab.reporting.report import write_report

    path = write_report(run, data=data, images=images, library=library, compositions=compositions or ())
    say(f"report: {path.resolve()}")


@command(app)
def fid(
    real: Annotated[str, Argument(metavar="DIR_A", help="Folder of real images, or saved statistics (.npz).")],
    generated: Annotated[str, Argument(metavar="DIR_B", help="Folder of generated images, or an .npz file.")],
    features: options.Features = "inception",
    inception: options.Inception = None,
    split: Annotated[str | None, Option(help="Split of the real images, for the protocol line.")] = None,
    mixed_sizes: Annotated[bool, Option("--mixed-sizes", help="Allow images of several sizes in a folder.")] = False,
    json: options.Json = None,
    device: options.Device = "auto",
) -> None:
    """Compare two folders of images: Frechet (clean-FID) and kernel distance (KID).

    [bold]slotlab fid data/val generated --features efficientnet-lite0[/bold]
    """
    import warnings

    from slotlab.fidelity import FidelityWarning, compare_folders
    from slotlab.files import write_json

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)  # the printed result contains its notes
        steps = compare_folders.steps(real, generated, features, inception, split, mixed_sizes, device)
        result = shown("features", None, steps)
    say(str(result))
    if json is not None:
        write_json(json, result.as_dict())
