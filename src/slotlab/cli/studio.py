"""Commands to look with: the studio in the browser, and its main figure without one."""

import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import Device, app, device_named, say, set_threads
from slotlab.errors import ConfigError


@app.command()
def studio(
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN|NAME", help="A model with slots; may be repeated. Default: those in the box."),
    ] = None,
    library: Annotated[
        list[str] | None,
        typer.Option(metavar="LIBRARY|NAME", help="A concept library of one of the models; default: the models' own."),
    ] = None,
    runs: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder of training runs to watch.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the first free one from 7860.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Open the studio: see the objects that a model finds, edit them, put them together anew.

    [bold]slotlab studio[/bold]

    [bold]slotlab studio --model runs/first --library runs/first/concepts --runs runs[/bold]

    It is served on this computer alone (127.0.0.1), sends nothing anywhere, and needs: pip install 'slotlab[studio]'
    """
    try:
        from slotlab.studio import open_shelf, running
    except ImportError as error:
        raise ConfigError(
            f"the studio needs Gradio ({error}); install it with: pip install 'slotlab[studio]'"
        ) from None
    from slotlab.released import released_names

    set_threads(threads)
    shelf = open_shelf(model or released_names(), library or [], device_named(device))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends as by Ctrl-C: what was uploaded is removed
    with running(shelf, runs, port) as address:
        say(f"studio: {address} (Ctrl-C ends it)")
        if runs is not None and not runs.is_dir():
            say(f"{runs}: not there yet; the view of runs waits for the first one")
        if browser:
            typer.launch(address)
        while True:
            time.sleep(3600)


@app.command()
def show(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option(help="Folder to write the figures to, one per image and model.")],
    model: Annotated[
        list[str] | None, typer.Option(metavar="RUN|NAME", help="A model with slots; may be repeated.")
    ] = None,
    crop: Annotated[float, typer.Option(help="Centred square, fraction of the shorter side.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial slots, and of the noise of samples.")] = 0,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Draw images as models see them: reconstruction, error, masks, every slot, and attention by iteration.

    Example: [bold]slotlab show photo.png --model runs/first --out figures[/bold]
    """
    from slotlab.checkpoints import load
    from slotlab.figures.slots import DEFAULT_MODEL, show
    from slotlab.reporting.previews import write_png

    set_threads(threads)
    names = model or [DEFAULT_MODEL]
    figures = {(name, image): out / f"{image.stem}-{Path(name).name}.png" for name in names for image in images}
    if len(set(figures.values())) < len(figures):
        raise ConfigError("two figures would have the same name; draw images or models of one name into two folders")
    for name in names:
        loaded = load(name, device_named(device))
        for image in images:
            write_png(show(image, loaded, seed=seed, crop=crop), figures[name, image])
            say(f"figure: {figures[name, image]}")
