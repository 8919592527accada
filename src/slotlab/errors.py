"""The errors that slotlab raises on bad input: each message names the file or key at fault, and the remedy."""


class SlotlabError(Exception):
    """Base of all errors that bad input causes; the command line prints its message without a traceback."""


class DataError(SlotlabError):
    """A data set, image or mask that is missing, broken or not of the stated format."""


class ConfigError(SlotlabError):
    """A preset, option or constructor argument that is unknown or out of its range."""


class CheckpointError(SlotlabError):
    """A model folder that is missing, damaged, or does not fit the model that its config describes."""
