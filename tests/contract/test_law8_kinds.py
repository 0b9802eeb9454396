"""Law 8 for encoder-decoders and for sequence classification; peft itself is the oracle."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_law8_peft import WHOLE_VOCABULARY, P
from transformers import AutoModelForSequenceClassification

from fakes import SEQ2SEQ, backbone_of, make_inner_tokenizer, make_model, make_rows
from overture.core.errors import ArtifactError
from overture.core.rows import Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.frontends.text import text_backbone
from overture.engine.tokenizer import Tokenizer
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.jobs.transfer.exchange import export_prompt, import_adapter
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.store import Store
from tiny_configs import CONTEXT, config_of

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # peft hands classifiers vectors without their tokens.
    pytest.mark.filterwarnings("ignore:.*will not detect padding tokens.*"),
]

PROMISED = {"rtol": 0, "atol": 1e-5}
LENGTHS = (1, 19, 0, 5)
LABELS = ("good", "bad", "so so")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def task_file(folder: Path, template: str = "{text}", **changes: Any) -> Path:
    labels = {label: f" {label}" for label in LABELS}
    values = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": template, "labels": labels} | changes
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def trained(model: Any, config: Any, folder: Path) -> Path:
    """An adapter of random values as peft saves it after training."""
    made = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in made.prompt_encoder.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
        for name, value in made.named_parameters():
            if value.requires_grad and "prompt_encoder" not in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    made.save_pretrained(folder)
    return folder


# -- encoder-decoders

_COMMON: dict[str, Any] = {"task_type": "SEQ_2_SEQ_LM", "num_virtual_tokens": P}
OF_SEQ2SEQ = {
    "PROMPT_TUNING": lambda **shape: peft.PromptTuningConfig(**_COMMON),
    "P_TUNING": lambda **shape: peft.PromptEncoderConfig(**_COMMON, encoder_hidden_size=7),
    "MULTITASK_PROMPT_TUNING": lambda **shape: peft.MultitaskPromptTuningConfig(
        **_COMMON, num_tasks=2, num_ranks=2, num_transformer_submodules=1
    ),
    "PREFIX_TUNING": lambda **shape: peft.PrefixTuningConfig(**_COMMON, **shape),
    "PREFIX_TUNING, MLP": lambda **shape: peft.PrefixTuningConfig(
        **_COMMON, **shape, prefix_projection=True, encoder_hidden_size=shape["token_dim"]
    ),
    "CARTRIDGE": lambda **shape: peft.CartridgeConfig(**_COMMON, **shape, num_frozen_tokens=1),
}


def shape_of(family: str) -> dict[str, int]:
    """What peft would guess from the config's first numbers is wrong where the two stacks differ."""
    info = backbone_of(family).info
    return {"num_attention_heads": info.num_kv_heads, "token_dim": info.num_kv_heads * info.head_dim}


def answers_alike(folder: Path, family: str, model: Any, task_id: int | None = None) -> None:
    """Labels and each of the answers' positions, our rows in one padded batch, peft's one by one.

    With a task's number peft runs on labels alone, which it shifts to what the decoder reads.
    """
    tuned = Host(backbone_of(family)).open(folder)
    ours, start = tuned.model(), tuned.backbone.info.start_ids

    def logits(row: Encoded, tail: tuple[int, ...]) -> torch.Tensor:
        ids, begun = torch.tensor([[*row.input_ids, *row.anchor_ids]]), torch.tensor([[*start, *tail]])
        more: dict[str, Any] = {"decoder_input_ids": begun, "use_cache": True}
        if task_id is not None:
            assert begun[0, 0] == model.config.decoder_start_token_id
            more = {"labels": torch.tensor([[*begun[0, 1:], 7]]), "task_ids": torch.tensor([task_id])}
        with torch.no_grad():
            return model.eval()(input_ids=ids, **more).logits[0, len(start) - 1 :]

    rows = make_rows("free text", LENGTHS)
    asked = [Encoded.of_ids(row.row, row.input_ids, row.anchor_ids, OneOf(WHOLE_VOCABULARY, 0)) for row in rows]
    theirs = torch.stack([logits(row, ())[-1] for row in rows]).log_softmax(-1)
    found = ours.label_scores(asked)
    torch.testing.assert_close(found, theirs, **PROMISED)
    # Else equal logits would prove nothing.
    plain = type(ours)(tuned.backbone, None).label_scores(asked)
    assert (found - plain).abs().max().item() > 0.1
    for row in rows:
        wanted = torch.nn.functional.cross_entropy(logits(row, row.answer_ids[:-1]), torch.tensor(row.answer_ids))
        assert math.isclose(ours.loss([row]).item() / len(row.answer_ids), wanted.item(), abs_tol=1e-5)


@pytest.mark.parametrize("kind", OF_SEQ2SEQ)
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_an_imported_adapter_of_an_encoder_decoder(family, kind, store, tmp_path):
    folder = trained(make_model(family), OF_SEQ2SEQ[kind](**shape_of(family)), tmp_path / "adapter")
    found = import_adapter(folder, store, task=task_file(tmp_path), backbone=backbone_of(family))
    in_decoder = "PREFIX" in kind or "CARTRIDGE" in kind
    assert (found.method, found.place) == (("prefix", "after") if in_decoder else ("vectors", "before"))
    model = peft.PeftModel.from_pretrained(make_model(family), folder)
    answers_alike(Path(found.folder), family, model, 0 if "MULTI" in kind else None)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_a_task_of_an_encoder_decoders_adapter(family, store, tmp_path):
    folder = trained(make_model(family), OF_SEQ2SEQ["MULTITASK_PROMPT_TUNING"](), tmp_path / "adapter")
    found = import_adapter(folder, store, task=task_file(tmp_path), backbone=backbone_of(family), task_id=1)
    answers_alike(Path(found.folder), family, peft.PeftModel.from_pretrained(make_model(family), folder), 1)


def kept(
    family: str, place: str, store: Store, tensors: dict[str, torch.Tensor] | None = None, method: str = ""
) -> Path:
    """A prompt of random values in the store."""
    backbone, generator = backbone_of(family), torch.Generator().manual_seed(7)
    info, task = backbone.info, {"name": "mood", "data": {"path": "r.jsonl"}, "template": "{text}"}
    shapes: dict[str, tuple[int, ...]] = {"vectors": (P, info.hidden_size)}
    if place != "before":
        shapes = dict.fromkeys(("keys", "values"), (info.num_layers, info.num_kv_heads, P, info.head_dim))
    own = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    method = method or ("vectors" if place == "before" else "prefix")
    facts = {"name": "mood", "method": method, "place": place, "length": P}
    task["labels"] = {label: f" {label}" for label in LABELS}
    manifest = Manifest(**facts, backbone=backbone_ref(backbone), task=task, trainable=1)
    return store.add(manifest, own | (tensors or {}))


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_peft_gives_our_logits_of_an_encoder_decoders_prompt(family, place, store, tmp_path):
    folder = kept(family, place, store)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    answers_alike(folder, family, peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out"))
    found = import_adapter(tmp_path / "out", store, task=task_file(tmp_path), backbone=backbone_of(family))
    assert load_artifact(Path(found.folder))[0].tensors_sha256 == load_artifact(folder)[0].tensors_sha256


@pytest.mark.parametrize(("method", "peft_type"), [("p_tuning", "P_TUNING"), ("mpt", "PROMPT_TUNING")])
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_methods_in_an_encoder(family, method, peft_type, store, tmp_path):
    """Multitask prompts are folded, so that peft takes decoder_input_ids."""
    folder = kept(family, "before", store, method=method)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"] == peft_type
    answers_alike(folder, family, peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out"))


def test_what_of_an_encoder_decoder_does_not_travel(store, tmp_path):
    backbone = backbone_of("t5")
    for config, what in (
        (peft.MultitaskPromptTuningConfig(**_COMMON, num_tasks=2, num_ranks=2), "num_transformer_submodules 2"),
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P), "t5, encoder-decoder"),
    ):
        folder = trained(make_model("t5" if "MULTI" in config.peft_type else "llama"), config, tmp_path / what[:9])
        with pytest.raises(ArtifactError) as caught:
            import_adapter(folder, store, task=task_file(tmp_path), backbone=backbone)
        assert what in str(caught.value.got)
    kept("t5", "memory", store)
    with pytest.raises(ArtifactError, match="no form for this prompt") as caught:
        export_prompt("mood", tmp_path / "out", store, to="peft")
    assert "--place after" in caught.value.fix


# -- classification

DECODERS = ("llama", "gpt2", "opt", "qwen3", "gemma3_text", "gpt_neox")
CLASSIFIERS = (*DECODERS, "bert", "roberta")
OF_CLASSIFIERS = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=P, encoder_hidden_size=7),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=P, num_tasks=2, num_ranks=2
    ),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P),
    "CARTRIDGE": lambda: peft.CartridgeConfig(task_type="SEQ_CLS", num_virtual_tokens=P),
}


def classifier_of(family: str) -> Any:
    """The backbone's layers under a classifier."""
    config = config_of(family)
    config.num_labels, config.pad_token_id = len(LABELS), 5 if family in DECODERS else config.pad_token_id
    whole = make_model(family)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    missing = model.base_model.load_state_dict(whole.base_model.state_dict(), strict=False).missing_keys
    assert all("pooler" in name for name in missing)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(11)
        for name in missing:
            model.base_model.get_parameter(name).copy_(0.3 * torch.randn_like(model.base_model.get_parameter(name)))
    return model


def classified_backbone(family: str) -> Backbone:
    """BERT's classifier stands behind the pooler, so its backbone is the body alone; of all others it is the whole."""
    if family != "bert":
        return backbone_of(family)
    tokenizer = Tokenizer(make_inner_tokenizer(family), CONTEXT, is_encoder=True)
    return text_backbone(classifier_of(family).bert, tokenizer, id="tiny-bert")


def scores_alike(folder: Path, backbone: Backbone, model: Any, **more: Any) -> None:
    rows = make_rows("first" if not backbone.family.is_causal else "one token", LENGTHS)
    ours, theirs = Host(backbone).open(folder).model().label_scores(rows), []
    for row in rows:
        ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
        with torch.no_grad():
            theirs.append(model.eval()(input_ids=ids, **more).logits[0])
    # Log-probabilities of classes are far from zero here, and float32 rounds by their size.
    torch.testing.assert_close(ours, torch.stack(theirs).log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", OF_CLASSIFIERS)
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_an_imported_adapter_for_classification(family, kind, store, tmp_path):
    folder, backbone = (
        trained(classifier_of(family), OF_CLASSIFIERS[kind](), tmp_path / "ad"),
        classified_backbone(family),
    )
    found = import_adapter(folder, store, task=task_file(tmp_path), backbone=backbone)
    is_memory = kind in ("PREFIX_TUNING", "CARTRIDGE")
    assert (found.method, found.place) == (("prefix", "memory") if is_memory else ("warp", "before"))
    model = peft.PeftModel.from_pretrained(classifier_of(family), folder)
    more = {"task_ids": torch.tensor([0])} if "MULTI" in kind else {}
    scores_alike(Path(found.folder), backbone, model, **more)
    if "MULTI" in kind:
        return
    # And back again.
    export_prompt("mood", tmp_path / "out", store, to="peft")
    scores_alike(Path(found.folder), backbone, peft.PeftModel.from_pretrained(classifier_of(family), tmp_path / "out"))
    again = import_adapter(tmp_path / "out", store, task=task_file(tmp_path), backbone=backbone)
    old, new = [load_artifact(Path(each.folder))[0] for each in (found, again)]
    assert old.tensors_sha256 == new.tensors_sha256


@pytest.mark.parametrize(
    ("method", "place", "peft_type"),
    [
        ("p_tuning", "before", "P_TUNING"),
        ("mpt", "before", "MULTITASK_PROMPT_TUNING"),
        ("residual", "before", "PROMPT_TUNING"),
        ("cartridge", "memory", "CARTRIDGE"),
        ("deep", "memory", "PREFIX_TUNING"),
    ],
)
def test_methods_beside_label_vectors(method, place, peft_type, store, tmp_path):
    labels = torch.randn(len(LABELS), backbone_of("llama").info.hidden_size, generator=torch.Generator().manual_seed(2))
    folder = kept("llama", place, store, {"labels": labels}, method)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == (peft_type, "SEQ_CLS")
    more = {"task_ids": torch.tensor([0])} if "MULTI" in peft_type else {}
    model = peft.PeftModel.from_pretrained(classifier_of("llama"), tmp_path / "out")
    scores_alike(folder, backbone_of("llama"), model, **more)


@pytest.mark.parametrize(
    ("family", "backbone", "changes", "what"),
    [
        ("llama", "llama", {"labels": {"a": " a", "b": " b"}}, "2 in the task file"),
        ("bert", "bert", {}, "without one"),
        ("distilbert", "distilbert", {}, "no part of a prompt"),
    ],
)
def test_a_classifier_that_does_not_fit(family, backbone, changes, what, store, tmp_path):
    sizes = {"token_dim": 40, "num_layers": 3, "num_attention_heads": 5} if family == "distilbert" else {}
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P, **sizes)
    folder = trained(classifier_of(family), config, tmp_path / "adapter")
    with pytest.raises(ArtifactError) as caught:
        import_adapter(folder, store, task=task_file(tmp_path, **changes), backbone=backbone_of(backbone))
    assert what in str(caught.value)


@pytest.mark.parametrize(("place", "told"), [("before", "in the encoder: "), ("after", "in the decoder")])
def test_other_programs_are_told_the_side(place, told, store, tmp_path):
    kept("bart", place, store)
    export_prompt("mood", tmp_path / "out", store, to="npy")
    assert told in (tmp_path / "out" / "prompt.json").read_text()
