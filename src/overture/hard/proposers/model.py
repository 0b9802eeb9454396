"""A local language model as proposer; models below some 7 billion parameters rarely propose anything useful."""

from random import Random

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
        """The instructions in one sampled answer; of a model without a chat template one instruction.

        Raises:
            BackboneError: the request leaves no room for an answer in the model's context.
        """
        return candidates_in(self.write(request_of(ask), ask.random), ask, "model")

    def write(self, request: str, random: Random) -> str:
        """The model's answer to a request, drawn by chance.

        Raises:
            BackboneError: the request leaves no room for an answer in the model's context.
        """
        tokenizer = self.backbone.text.tokenizer
        is_chat = bool(tokenizer.inner.chat_template)
        if is_chat:
            ids = tokenizer.encode_template(tokenizer.chat([{"role": "user", "content": request}]))
        else:
            ids = [*tokenizer.bos_ids, *tokenizer.encode_plain(f"{request}\n\n<instruction>")]
        if len(ids) + _MAX_NEW_TOKENS > tokenizer.max_length:
            raise BackboneError(
                "the request for proposals is too long",
                where=self.backbone.info.id,
                got=f"{len(ids)} tokens",
                wanted=f"at most {tokenizer.max_length - _MAX_NEW_TOKENS}",
            )
        row = Encoded.of_ids(0, ids[:-1], ids[-1:])
        decoding = Decoding(temperature=0.9, top_p=0.95, seed=random.randrange(2**31))
        question = Answers(_MAX_NEW_TOKENS, ("\n\n\n",) if is_chat else ("</instruction>", "\n"), decoding)
        (reply,) = LocalAnswerer(self.backbone).ask([(row, None)], question)
        return reply.text if is_chat else f"<instruction>{reply.text.partition('</')[0]}</instruction>"
