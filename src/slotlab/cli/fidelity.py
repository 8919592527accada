"""The command that compares folders of images."""

from pathlib import Path
from typing import Annotated

import typer

from slotlab.cli.options import Device, app, device_named, progress_bar, say


@app.command()
def fid(
    real: Annotated[str, typer.Argument(metavar="DIR_A", help="Folder of real images, or saved statistics (.npz).")],
    generated: Annotated[str, typer.Argument(metavar="DIR_B", help="Folder of generated images, or an .npz file.")],
    features: Annotated[
        str, typer.Option(help="inception, efficientnet-lite0, or the path of a TorchScript net.")
    ] = "inception",
    inception: Annotated[Path | None, typer.Option(help="Where inception-2015-12-05.pt is.")] = None,
    split: Annotated[str | None, typer.Option(help="Name of the real images' split, for the protocol line.")] = None,
    mixed_sizes: Annotated[
        bool, typer.Option("--mixed-sizes", help="Allow images of several sizes in a folder.")
    ] = False,
    device: Device = "auto",
    json: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write the result here too.")] = None,
) -> None:
    """Frechet distance (clean-FID) and kernel distance (KID) of two folders of images, with their protocol.

    Example: [bold]slotlab fid data/val generated --features efficientnet-lite0[/bold]
    """
    import warnings
    from json import dumps

    from slotlab.fidelity import FidelityWarning, compare_folders
    from slotlab.files import replacing

    with progress_bar() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)  # the result prints its notes
        task = progress.add_task("features")
        result = compare_folders(
            real,
            generated,
            features=features,
            inception=inception,
            split=split,
            mixed_sizes=mixed_sizes,
            device=device_named(device),
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    say(str(result))
    if json is not None:
        with replacing(json) as path:
            path.write_text(dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
