"""Controls beside words: examples drawn by chance, texts that show how much a translation says, another model.

Shape letters: P prompt length, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch

from overture.core.contracts import Readouts
from overture.core.records.hard import Candidate, Transfer, Wording
from overture.core.seeds import derived_seed
from overture.engine.load import load_backbone
from overture.evaluate.host import Handle
from overture.explain.fidelity import share
from overture.hard.proposers.examples import balanced_examples
from overture.hard.proposers.own import behind
from overture.hard.scorer import Refused, TextScorer
from overture.store.artifact import load_artifact


@torch.no_grad()
def perplexity(scorer: TextScorer, ids: list[int]) -> float | None:
    """Perplexity of words behind training rows, without their first token; None for fewer than two tokens.

    Args:
        scorer: shows the rows to the model.
        ids: tokens of the words.
    """
    if len(ids) < 2:
        return None
    rows = [behind(row, ids[:1], tuple(ids[1:])) for row in scorer.encoded(Wording(), False).rows["train"][:16]]
    readouts = scorer.answerer.ask([(row, None) for row in rows], Readouts())
    next_ids = torch.tensor(ids[1:])
    logs = [scorer.backbone.head(r.hidden).log_softmax(-1).gather(1, next_ids[:, None]) for r in readouts]
    return float(torch.cat(logs).mean().neg().exp())


@torch.no_grad()
def random_text(scorer: TextScorer, length: int, seed: int) -> Candidate | None:
    """A text drawn from the model behind one row; None where eight of them cannot be scored.

    Args:
        scorer: shows the row to the model.
        length: in tokens.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "random text") % 2**31)
    tokenizer, backbone = scorer.backbone.text.tokenizer, scorer.backbone
    row = scorer.encoded(Wording(), False).rows["train"][0]
    for _ in range(8):
        ids = tokenizer.encode_plain("\n")
        while len(ids) < length:
            (readout,) = scorer.answerer.ask([(behind(row, ids, ()), None)], Readouts())
            logits_V = backbone.head(readout.hidden[0])
            logits_V[sorted(tokenizer.special_ids)] = float("-inf")
            ids.append(int(torch.multinomial(logits_V.softmax(-1), 1, generator=generator)))
        candidate = Candidate(text=tokenizer.decode(ids), origin="random")
        try:
            scorer.rows(candidate, "test")
        except Refused:
            continue
        return candidate
    return None


def drawn_examples(scorer: TextScorer, count: int, seed: int, notice: Callable[[str], None]) -> Candidate | None:
    """Examples drawn from training rows, as many of each label as possible; None where rows cannot stand behind them.

    Args:
        scorer: shows rows to the model.
        count: of examples.
        seed: of the draw.
        notice: called with the reason where rows cannot be shown.
    """
    task = scorer.task
    shots = balanced_examples(task, scorer.splits["train"], count, seed) if task.has_shots else []
    if not shots:
        return None
    examples = Candidate(shots=shots, origin="drawn by seed")
    try:
        scorer.rows(examples, "validation")
    except Refused as refusal:
        notice(f"not compared with {len(shots)} examples: {refusal}")
        return None
    return examples


@torch.no_grad()
def nearest_tokens(handle: Handle, scorer: TextScorer, notice: Callable[[str], None]) -> Candidate | None:
    """The tokens whose embeddings have the largest cosine with the prompt's vectors; None for other prompts.

    Args:
        handle: the soft prompt.
        scorer: says whether the text can be scored.
        notice: called with the mean cosine, and with the reason where the text cannot be scored.
    """
    vectors_PD = load_artifact(handle.folder)[1].get("vectors")
    backbone = handle.backbone
    if vectors_PD is None or handle.manifest.layer or vectors_PD.shape[1] != backbone.info.hidden_size:
        return None
    table_VD = torch.nn.functional.normalize(backbone.embed(range(backbone.info.vocab_size)).float(), dim=-1)
    cosines_PV = torch.nn.functional.normalize(vectors_PD.float(), dim=-1) @ table_VD.T
    text = backbone.text.tokenizer.decode(cosines_PV.argmax(-1).tolist())
    cosine = float(cosines_PV.max(-1).values.mean())
    notice(
        f"nearest tokens: mean cosine {cosine:.2f}; a prompt that works can lie near any text, so they are a "
        "distance and no translation"
    )
    candidate = Candidate(text=text, origin="nearest tokens")
    try:
        scorer.rows(candidate, "test")
    except Refused as refusal:
        notice(f"the nearest tokens are not measured: {refusal}")
        return None
    return candidate


def transferred(
    words: Candidate,
    scorer: TextScorer,
    name: str | None,
    room: int,
    gold: Sequence[str],
    notice: Callable[[str], None],
) -> Transfer | None:
    """Accuracy of words under another model, with and without them; None where no model is named.

    Args:
        words: found with the scorer's model.
        scorer: has the task and the rows.
        name: of the other model.
        room: tokens that the words may take under the first model.
        gold: the right labels of the test rows.
        notice: called while the model is loaded, and with the reason where it cannot read the words.
    """
    if not name:
        return None
    other_model = load_backbone(name, notify=notice)
    second = TextScorer(scorer.task, other_model, scorer.splits, max(64, 2 * room))
    # Temperature and biases are those of the first model's scores.
    words = words.model_copy(update={"wording": words.wording.model_copy(update={"scaling": None})})
    try:
        scores = second.scores([words, Candidate()], "test", range(len(gold)))
    except Refused as refusal:
        notice(f"the words cannot be read by {name}: {refusal}")
        return None
    labels = list(scorer.task.words)
    shares = [
        share([labels[index] == label for index, label in zip(method_scores.argmax(1).tolist(), gold, strict=True)])
        for method_scores in scores
    ]
    return Transfer(backbone=other_model.info.id, accuracy=shares[0], without=shares[1])
