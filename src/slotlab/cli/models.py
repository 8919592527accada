"""Commands on trained models: models, publish, export."""

import re
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from slotlab.cli import options
from slotlab.cli.options import app, command, say, shown
from slotlab.errors import CheckpointError


@command(app)
def models(
    name: Annotated[str | None, Argument(metavar="NAME", help="Print the card of this trained model instead.")] = None,
) -> None:
    """List the trained models that come with slotlab, and the presets for training others.

    [bold]slotlab models textured-128[/bold] prints how that model was trained, its scores, limits
    and licence.
    """
    if name is None:
        from slotlab.reporting.tables import preset_table, released_table

        say(released_table())
        return say(preset_table())
    from rich.markdown import Markdown

    from slotlab.released import CARD_FILE, model_folder

    card = model_folder(name) / CARD_FILE
    if not card.is_file():
        raise CheckpointError(f"{name}: has no card, which slotlab publish writes")
    text = re.sub(r"\A---\n.*?^---\n|^!\[.*?\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    say(Markdown(text))


@command(app)
def publish(
    run: options.Run,
    to: Annotated[str, Option(metavar="FOLDER|hf:OWNER/NAME", help="A new folder, or a name on the hub.")],
    data: options.OptionalData = None,
    private: Annotated[bool, Option("--private", help="Make a new repository on the hub private.")] = False,
    device: options.Device = "auto",
) -> None:
    """Release a model, in a folder or on the hub: float16 weights, scores, images, library and card.

    --data says where the run's data set is now, if it was moved.

    [bold]slotlab publish runs/first --to released/first[/bold], then read card.md, then
    [bold]slotlab publish released/first --to hf:me/first[/bold]

    The hub needs a login: [bold]hf auth login[/bold].
    """
    from slotlab.publishing import publish
    from slotlab.released import CARD_FILE, size_of

    steps = publish.steps(run, to, data=data, private=private, device=device)
    name = shown("publishing", None, steps)
    folder = Path(name)
    if folder.is_dir():
        say(f"published: {folder}, {size_of(folder) / 1e6:.1f} MB; read {folder / CARD_FILE}")
    say(f'from Python: slotlab.load("{name}")')


@command(app)
def export(
    run: options.Run,
    to: Annotated[Literal["onnx"], Option(help="The format.")] = "onnx",
    out: Annotated[
        Path | None, Option(metavar="FILE", help="Default: the model's name with the format's ending.")
    ] = None,
) -> None:
    r"""Write a model in another format, and check that it gives the same numbers.

    The ONNX file takes images [B, 3, R, R] in [0, 1] and gives slots, attention, masks and more.
    This needs [bold]pip install 'slotlab\[onnx]'[/bold].

    [bold]slotlab export textured-128 --to onnx --out textured-128.onnx[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.exporting import export

    path = out or Path(f"{Path(run).name}.{to}")
    differences = export(load(run), path)
    say(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB; largest difference in onnxruntime {max(differences.values()):.1g}"
    )
