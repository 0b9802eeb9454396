"""A local language model as proposer; models below some 7 billion parameters rarely propose anything useful."""

from overture.core.contracts import Answers
from overture.core.decoding import Decoding
from overture.core.errors import BackboneError
from overture.core.records.hard import Candidate
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.load import load_backbone
from overture.hard.proposer import Ask
from overture.hard.proposers.asking import candidates_in, request_of

_MAX_NEW_TOKENS = 300


class Model:
    """Asks a model of this machine.

    Args:
        name: a known name, a Hub id, a folder or a file.

    Raises:
        BackboneError: it cannot be loaded, or writes nothing.
    """

    def __init__(self, name: str) -> None:
        self.backbone = load_backbone(name, notify=lambda text: None)
        if not self.backbone.family.is_causal:
            raise BackboneError("this model writes no proposals", where=name, wanted="a decoder")

    def propose(self, ask: Ask) -> list[Candidate]:
        """The instructions in one sampled answer."""
        tokenizer = self.backbone.text.tokenizer
        request = request_of(ask)
        if tokenizer.inner.chat_template:
            ids = tokenizer.encode_template(tokenizer.chat([{"role": "user", "content": request}]))
        else:
            ids = [*tokenizer.bos_ids, *tokenizer.encode_plain(f"{request}\n\n<instruction>")]
        row = Encoded.of_ids(0, ids[:-1], ids[-1:])
        decoding = Decoding(temperature=0.9, top_p=0.95, seed=ask.random.randrange(2**31))
        question = Answers(_MAX_NEW_TOKENS, ("\n\n\n",), decoding)
        (written,) = LocalAnswerer(self.backbone).ask([(row, None)], question)
        answer = written.text if tokenizer.inner.chat_template else f"<instruction>{written.text}"
        return candidates_in(answer, ask, "model")
