"""Tables for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from slotlab.presets import preset_names, read_preset
from slotlab.released import CARD_FILE, machines_of, model_folder, released_facts, released_names, size_of

if TYPE_CHECKING:
    from slotlab.evaluation import Evaluation
    from slotlab.metrics.score import Score


def evaluation_table(evaluation: "Evaluation") -> Table:
    """One table with every score: mean, standard error, number of images; the protocol is its caption."""
    titles = mask_titles(evaluation.protocol)
    columns = {"ARI": "ari", "FG-ARI": "fg_ari", "mIoU": "miou", "mBO": "mbo"} if titles else {"mean": ""}
    errors = {"MSE (sum)": "mse_sum", "MSE (mean)": "mse", "PSNR (dB)": "psnr"}
    table = Table(
        padding=0,
        box=box.SIMPLE_HEAD,
        caption=protocol_line(evaluation.protocol),
        caption_justify="left",
        caption_style="dim",
    )
    for heading in ("", *columns, "n"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for source, scores in evaluation.segmentation.items():
        cells = [_cell(scores[name], 3) for name in columns.values()]
        table.add_row(titles[source], *cells, str(scores["ari"].count))
    if titles and not evaluation.masks:
        table.add_row("no true masks", *["-"] * len(columns), "0")
    table.add_section()
    for heading, name in errors.items():
        score = evaluation.reconstruction[name]
        table.add_row(heading, _cell(score, 4 if name == "mse" else 2), *[""] * (len(columns) - 1), str(score.count))
    return table


def mask_titles(protocol: Mapping[str, Any]) -> dict[str, str]:
    """What tables call the masks of each source, by the protocol of an evaluation; empty for models without slots."""
    return {name: source.partition(",")[0] for name, source in protocol.get("mask_sources", {}).items()}


def protocol_line(protocol: dict[str, object]) -> str:
    """Data, split, crop, resolution, images, slots and definitions in one line."""
    shown = ("data", "split", "crop", "resolution", "images", "max_objects", "slots", "iterations", "slot_seed", "miou")
    shown += ("autoencoder", "latent_shape", "sampler", "sampling_steps", "guidance", "weights")
    shown += ("broken",) if protocol.get("broken") else ()
    shown += ("supersample",) if protocol.get("supersample", 1) != 1 else ()
    return "protocol: " + ", ".join(f"{key} {protocol[key]}" for key in shown if key in protocol)


def released_table() -> Group:
    """The trained models that come with slotlab: size on disk, scores, and below on what, and what training cost."""
    table = Table(title="trained models: slotlab.load(NAME)", title_justify="left")
    for heading in ("name", "pixels", "MB", "masks", "ARI", "FG-ARI"):
        table.add_column(heading, justify="left" if heading in ("name", "masks") else "right", no_wrap=True)
    lines = []
    for name in released_names():
        folder = model_folder(name)
        facts = released_facts(folder)
        metrics, training, protocol = facts["metrics"], facts["training"], facts["metrics"]["protocol"]
        first = (name, f"{protocol['resolution']}²", f"{size_of(folder) / 1e6:.1f}")
        for source, title in mask_titles(protocol).items():
            scores = [f"{metrics[source][key]:.3f}" for key in ("ari", "fg_ari")]
            table.add_row(*first, title, *scores)
            first = ("", "", "")
        lines.append(
            f"{name}: scored on {protocol['data']}, {protocol['images']:,} images of split {protocol['split']}; "
            f"trained in {training['seconds'] / 60:.0f} minutes in all on {machines_of(training)}; {folder / CARD_FILE}"
        )
    return Group(table, *(Text(line, style="dim") for line in lines))


def preset_table() -> Table:
    """Every preset with its size and what it is for."""
    table = Table(title="presets: slotlab train NAME --out RUN", title_justify="left")
    for heading in ("preset", "pixels", "slots", "steps", "for"):
        text = heading in ("preset", "for")
        table.add_column(heading, justify="left" if text else "right", no_wrap=heading != "for")
    for name in preset_names():
        preset = read_preset(name)
        model = preset["model"]
        table.add_row(
            name,
            f"{model['resolution']}²",
            str(model.get("slot_attention", {}).get("slots", "-")),
            f"{preset['training']['steps']:,}",
            preset["summary"],
        )
    return table


def _cell(score: "Score", digits: int) -> str:
    return f"{score.mean:.{digits}f}±{score.standard_error:.{digits}f}"
