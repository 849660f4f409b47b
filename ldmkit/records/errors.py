"""The one error that records raise."""


class RecordError(ValueError):
    """A record that cannot be made, drawn, saved or opened; the message says what to do next."""
