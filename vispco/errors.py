"""Everything vispco raises on purpose. The command line turns an :class:`InputError` into one line and exit code 2."""


class VispcoError(Exception):
    """Base of all errors of this package."""


class InputError(VispcoError):
    """What the user gave is wrong: the message names the bad value, the legal range and the next step."""


class ConfigError(InputError):
    """A configuration file or override cannot be used."""


class BudgetError(InputError):
    """A budget is outside what the model can reach."""


class ModelError(InputError):
    """A checkpoint or model is not one that vispco supports."""


class DataError(InputError):
    """A data set cannot be read or does not hold what was asked for."""


class RunError(InputError):
    """A run folder cannot be read or written."""


class CapacityError(InputError):
    """The machine has not the memory for what is asked of it at once."""


class NumericError(InputError):
    """A number that results depend on has become NaN or infinite."""


class ParallelError(InputError):
    """Processes that are to work on one search do not fit together, or what is asked for cannot be shared out."""


class LostError(VispcoError):
    """A process or job that was waited for has ended without a result; nothing need be wrong with what was asked."""


class DifferenceError(VispcoError):
    """What was measured once more is not what was recorded."""
