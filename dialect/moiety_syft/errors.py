"""What the dialect raises, besides the client's errors."""

from moiety_client.errors import MoietyError


class Unsupported(MoietyError, NotImplementedError):
    """The dialect cannot compute this on secrets. The text says what to do instead. The dialect sent nothing."""
