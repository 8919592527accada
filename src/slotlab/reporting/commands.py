"""Commands that are told to users, as they would write them."""

import shlex
from collections.abc import Mapping
from typing import Any


def evaluate_command(model: str, source: str, settings: Mapping[str, Any]) -> str:
    """The command that scores a model on data like that which `settings` are of.

    Args:
        model: a run folder, or the name of a model.
        source: the data, as `slotlab.open_data` takes it.
        settings: of a run (`DataSettings`), or of a protocol; what they do not say is left to the command.
    """
    words = ["slotlab", "evaluate", model, "--data", source]
    of_kind = ("min_objects", "max_objects", "supersample") if source.startswith("scenes:") else ("crop",)
    for name in ("split", "count", *of_kind):
        value = settings.get(name)
        if value is not None and (name, value) != ("supersample", 1):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if settings.get("skip_broken") or "broken" in settings:
        words.append("--skip-broken")
    return shlex.join(words)
