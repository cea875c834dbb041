"""What goes wrong by the user's hand or data, by family. The command line turns each family into its exit code.

A message is one line: the file, the record, the value, the cure.
"""


class DetectorError(Exception):
    """Base of every error that is the input's fault and not a bug of this package."""

    exit_code = 1


class ConfigError(DetectorError, ValueError):
    """A setting is unknown, malformed or contradicts another."""

    exit_code = 2


class DataError(DetectorError, ValueError):
    """A data set, an image or a results file does not keep its contract."""

    exit_code = 3


class CheckpointError(DetectorError, ValueError):
    """A model file is missing, damaged or of another kind."""

    exit_code = 4
