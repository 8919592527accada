"""The named recipes, one YAML file each: model, data and training settings, and a one-line summary."""

from pathlib import Path
from typing import Any

import yaml

from slotlab.errors import ConfigError, nearest

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    """Names of the presets that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The content of a preset, by name or by the path of a YAML file of one's own.

    Raises:
        ConfigError: an unknown name (the nearest is suggested), or a file that is not a preset.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ConfigError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ConfigError(f"{path}: not a preset: it needs a 'model' section, and may have 'data' and 'training'")
    return content
