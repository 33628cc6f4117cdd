"""A tokenizer.json, which the library `tokenizers` of the extra `text` runs."""

from collections.abc import Sequence

MISSING = "texts need the library tokenizers: pip install moiety[text]"


class TextTokenizer:
    """Makes ids of texts, as the file says. It cuts long texts only if the file says so, and pads none.

    Raises ImportError without the library, and ValueError for a file that it does not read.
    """

    def __init__(self, content: bytes) -> None:
        from tokenizers import Tokenizer  # the extra `text`

        try:
            self._tokenizer = Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises no class of its own
            raise ValueError("it is no tokenizer.json that the library tokenizers reads") from error
        padding, cutting = self._tokenizer.padding or {}, self._tokenizer.truncation or {}
        self.pad_id: int | None = padding.get("pad_id")
        self.length: int | None = padding.get("length") or cutting.get("max_length")
        self.size: int = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1
        self._tokenizer.no_padding()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [found.ids for found in self._tokenizer.encode_batch(list(texts))]
