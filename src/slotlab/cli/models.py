"""Commands on trained models: list them, publish one."""

from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import DATA_HELP, Device, Run, app, device_named, progress_bar, say, set_threads


@app.command()
def models() -> None:
    """List the trained models that come with slotlab, and the presets to train others."""
    from rich.console import Console

    from slotlab.reporting.tables import preset_table, released_table

    console = Console()
    console.print(released_table())
    console.print(preset_table())


@app.command("publish")
def publish_model(
    run: Run,
    to: Annotated[str, typer.Option(metavar="FOLDER|hf:OWNER/NAME", help="A new folder, or a name on the hub.")],
    data: Annotated[
        str | None, typer.Option(metavar="PATH|scenes:VARIANT", help="Where the run's data is now. " + DATA_HELP)
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository on the hub private.")] = False,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Release a model: float16 weights, scores, pictures, concept library and a card, in a folder or on the hub.

    [bold]slotlab publish runs/first --to released/first[/bold], then look at card.md, then
    [bold]slotlab publish released/first --to hf:me/first[/bold]

    The hub needs a login: [bold]hf auth login[/bold].
    """
    from slotlab.publishing import publish
    from slotlab.released import CARD_FILE, size_of

    set_threads(threads)
    with progress_bar() as progress:
        task = progress.add_task("publishing", total=None)
        name = publish(
            run,
            to,
            data=data,
            private=private,
            device=device_named(device),
            on_progress=lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
        )
    folder = Path(name)
    if folder.is_dir():
        say(f"published: {folder}, {size_of(folder) / 1e6:.1f} MB; look at {folder / CARD_FILE}")
    say(f'from Python: slotlab.load("{name}")')
