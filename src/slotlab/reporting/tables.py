"""Tables for the terminal."""

from rich import box
from rich.table import Table

from slotlab.evaluation import Evaluation, mask_titles
from slotlab.metrics.score import Score
from slotlab.presets import preset_names, read_preset


def evaluation_table(evaluation: Evaluation) -> Table:
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
    for source, scores in {"masks": evaluation.masks, "attention": evaluation.attention}.items():
        if scores:
            cells = [_cell(scores[name], 3) for name in columns.values()]
            table.add_row(titles[source], *cells, str(scores["ari"].count))
    if titles and not evaluation.masks:
        table.add_row("no true masks", *["-"] * len(columns), "0")
    table.add_section()
    for heading, name in errors.items():
        score = evaluation.reconstruction[name]
        table.add_row(heading, _cell(score, 4 if name == "mse" else 2), *[""] * (len(columns) - 1), str(score.count))
    return table


def protocol_line(protocol: dict[str, object]) -> str:
    """Data, split, crop, resolution, images, slots and definitions in one line."""
    shown = ("data", "split", "crop", "resolution", "images", "max_objects", "slots", "iterations", "slot_seed", "miou")
    shown += ("autoencoder", "latent_shape", "sampler", "sampling_steps", "guidance", "weights")
    return "protocol: " + ", ".join(f"{key} {protocol[key]}" for key in shown if key in protocol)


def preset_table() -> Table:
    """Every preset with its size and what it is for."""
    table = Table()
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


def _cell(score: Score, digits: int) -> str:
    return f"{score.mean:.{digits}f}±{score.standard_error:.{digits}f}"
