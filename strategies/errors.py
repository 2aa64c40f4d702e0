"""The errors a user can meet; every message names the value, the limit and the remedy."""


class AutotuneError(Exception):
    """Root of every error that autotune raises on purpose."""


class ProblemError(AutotuneError, ValueError):
    """A shape, dtype or option that no attention call can have."""


class PatternError(AutotuneError, ValueError):
    """A pattern that is malformed, or does not fit the problem it is asked for."""


class ConfigError(AutotuneError, ValueError):
    """A configuration that names an unknown strategy or parameter."""


class UnsupportedError(AutotuneError, NotImplementedError):
    """A strategy that was asked for by name cannot do this problem."""
