"""What the dialect raises, beside the client's own errors."""

from moiety_client.errors import MoietyError


class Unsupported(MoietyError, NotImplementedError):
    """This cannot be computed on secrets here; the text says what can be done instead. Nothing was sent."""
