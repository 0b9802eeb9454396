"""Law 8: an imported adapter gives peft's logits, an exported prompt gives ours in peft. peft itself is the oracle."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fakes import FAMILIES, SMALL, WHOLE, Case, backbone_of, make_model, make_prompt, make_rows
from overture.core.errors import ArtifactError
from overture.core.rows import Candidates, Encoded, OneOf
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.jobs.transfer.exchange import export_prompt, import_adapter
from overture.prompt.pack import prompt_tensors
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.store import Store
from tiny_configs import VOCABULARY

peft = pytest.importorskip("peft")

# peft 0.21 asks transformers under the old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMISED = {"rtol": 0, "atol": 1e-5}
P, TASKS = 3, 3
WHOLE_VOCABULARY = Candidates(
    tuple(map(str, range(VOCABULARY))), tuple((token,) for token in range(VOCABULARY)), tuple(range(VOCABULARY))
)
# Within Gemma's window of eight and beyond it.
LENGTHS = (1, 19, 0, 5, 11)
_COMMON: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": P}
_CPT = {"cpt_token_ids": [40, 41, 42], "cpt_mask": [1, 1, 1], "cpt_tokens_type_mask": [1, 2, 3]}
ADAPTERS = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(**_COMMON),
    "P_TUNING": lambda: peft.PromptEncoderConfig(**_COMMON, encoder_hidden_size=7),
    "P_TUNING, LSTM": lambda: peft.PromptEncoderConfig(
        **_COMMON, encoder_hidden_size=7, encoder_reparameterization_type="LSTM", encoder_dropout=0.1
    ),
    "MULTITASK_PROMPT_TUNING": lambda: peft.MultitaskPromptTuningConfig(**_COMMON, num_tasks=TASKS, num_ranks=2),
    "CPT": lambda: peft.CPTConfig(task_type="CAUSAL_LM", **_CPT),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(**_COMMON),
    "PREFIX_TUNING, MLP": lambda: peft.PrefixTuningConfig(**_COMMON, prefix_projection=True, encoder_hidden_size=6),
    "CARTRIDGE": lambda: peft.CartridgeConfig(**_COMMON, num_frozen_tokens=1),
    "CARTRIDGE, none frozen": lambda: peft.CartridgeConfig(**_COMMON, num_frozen_tokens=0),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    values = {
        "name": "mood",
        "data": {"path": "rows.jsonl"},
        "template": "{text}\nMood:",
        "labels": {"good": " good", "bad": " bad"},
    }
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def trained(family: str, kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """An adapter of random values as peft saves it after training."""
    model = peft.get_peft_model(make_model(family), ADAPTERS[kind]())
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in model.prompt_encoder.parameters():
            value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    model.prompt_encoder.to(dtype)
    model.save_pretrained(folder)
    return folder


def logits_of_peft(model: Any, ids: tuple[int, ...], task_id: int | None = None) -> torch.Tensor:
    """Logits at every position of one text, without any padding: [L, V]."""
    more = {} if task_id is None else {"task_ids": torch.tensor([task_id])}
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids]), **more).logits[0, -len(ids) :]


def rows_with(candidates: Candidates | None) -> list[Encoded]:
    if candidates is None:
        return [replace(row, slots=()) for row in make_rows("free text", LENGTHS)]
    return [replace(row, slots=(), target=OneOf(candidates, 0)) for row in make_rows("one token", LENGTHS)]


def assert_same(folder: Path, family: str, model: Any, task_id: int | None = None) -> None:
    """Our rows in one padded batch, peft's one by one."""
    ours = Host(backbone_of(family)).open(folder).model()
    rows = rows_with(WHOLE_VOCABULARY)
    theirs = [logits_of_peft(model, (*row.input_ids, *row.anchor_ids), task_id)[-1] for row in rows]
    torch.testing.assert_close(ours.label_scores(rows), torch.stack(theirs).log_softmax(-1), **PROMISED)
    # Each of the answers' positions as well.
    for row in rows_with(None):
        answer = row.answer_ids
        logits = logits_of_peft(model, (*row.input_ids, *row.anchor_ids, *answer), task_id)[-len(answer) - 1 : -1]
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        assert math.isclose(ours.loss([row]).item() / len(answer), wanted.item(), abs_tol=1e-5)


def is_different(family: str, folder: Path) -> bool:
    """Whether the prompt matters at all: else equal logits would prove nothing."""
    rows = rows_with(WHOLE_VOCABULARY)
    tuned = Host(backbone_of(family)).open(folder)
    plain = type(tuned.model())(tuned.backbone, None)
    return (tuned.model().label_scores(rows) - plain.label_scores(rows)).abs().max().item() > 0.1


# Every adapter in four families; prompts and prefixes, which differ by family, in all.
ADAPTED = [
    (family, kind)
    for family in FAMILIES
    for kind in (ADAPTERS if family in WHOLE else ("PROMPT_TUNING", "PREFIX_TUNING", "CARTRIDGE"))
]


@pytest.mark.parametrize(("family", "kind"), ADAPTED)
def test_an_imported_adapter_gives_pefts_logits(family, kind, store, task, tmp_path):
    folder = trained(family, kind, tmp_path / "adapter")
    found = import_adapter(folder, store, task=task, backbone=backbone_of(family))
    manifest, tensors = load_artifact(Path(found.folder))
    assert (found.prompt, found.peft_type, found.length) == ("mood@1", kind.partition(",")[0], P)
    assert manifest.lineage.imported_from == "peft"
    assert manifest.lineage.peft_version == peft.__version__
    assert manifest.trainable == sum(tensor.numel() for tensor in tensors.values())
    assert is_different(family, Path(found.folder))
    model = peft.PeftModel.from_pretrained(make_model(family), folder)
    assert_same(Path(found.folder), family, model, 0 if "MULTI" in kind else None)


@pytest.mark.parametrize("task_id", range(TASKS))
def test_each_task_of_a_multitask_adapter(task_id, store, task, tmp_path):
    folder = trained("llama", "MULTITASK_PROMPT_TUNING", tmp_path / "adapter")
    found = import_adapter(folder, store, task=task, backbone=backbone_of("llama"), task_id=task_id)
    assert found.task_id == task_id
    assert_same(Path(found.folder), "llama", peft.PeftModel.from_pretrained(make_model("llama"), folder), task_id)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_keep_their_values(kind, dtype, store, task, tmp_path):
    folder = trained("llama", kind, tmp_path / "adapter", dtype)
    found = import_adapter(folder, store, task=task, backbone=backbone_of("llama"))
    _, tensors = load_artifact(Path(found.folder))
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert_same(Path(found.folder), "llama", peft.PeftModel.from_pretrained(make_model("llama"), folder))


def test_a_prompt_that_was_loaded_and_saved_again(store, task, tmp_path):
    first = trained("llama", "CPT", tmp_path / "first")
    model = peft.PeftModel.from_pretrained(make_model("llama"), first)
    model.save_pretrained(tmp_path / "again")
    found = import_adapter(tmp_path / "again", store, task=task, backbone=backbone_of("llama"))
    assert_same(Path(found.folder), "llama", model)


# -- export


def kept(family: str, place: str, store: Store, dtype: torch.dtype = torch.float32) -> Path:
    """A prompt of random values in the store."""
    backbone = backbone_of(family)
    info, generator = backbone.info, torch.Generator().manual_seed(7)
    shapes = {"vectors": (P, info.hidden_size)}
    if place == "memory":
        shapes = dict.fromkeys(("keys", "values"), (info.num_layers, info.num_kv_heads, P, info.head_dim))
    tensors = {name: (0.5 * torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}
    task = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": "{text}:", "labels": {"a": " a", "b": " b"}}
    facts = {"name": "mood", "method": "prefix" if place == "memory" else "vectors", "place": place, "length": P}
    ref = backbone_ref(backbone)
    return store.add(Manifest(**facts, backbone=ref, task=task, trainable=1), tensors)


@pytest.mark.parametrize("place", ["before", "memory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_our_logits_of_an_exported_prompt(family, place, store, tmp_path):
    folder = kept(family, place, store)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    model = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out")
    assert is_different(family, folder)
    assert_same(folder, family, model)


# Every method whose prompt is the same for all rows, at the places where peft has prompts.
FOLDED = [
    *[Case(method, "before", SMALL.get(method, {})) for method in ("residual", "low_rank", "ulpt", "cpt", "pruned")],
    *[Case("p_tuning", "before", {"encoder": encoder, "width": 6}) for encoder in ("mlp", "lstm")],
    *[Case("mpt", "before", {"rank": rank}) for rank in (1, 2)],
    Case("deep", "memory"),
    Case("prefix", "memory", {"reparameterise": "mlp", "mlp_width": 6}),
    *[Case("cartridge", "memory", {"frozen": frozen}) for frozen in (0, 1, 2)],
]
OWN_TYPES = {"p_tuning": "P_TUNING", "mpt": "MULTITASK_PROMPT_TUNING", "cartridge": "CARTRIDGE"}


def exported(family: str, case: Case, store: Store, out: Path) -> tuple[Path, dict[str, Any]]:
    """A prompt of a method in the store, and the config of the adapter that it goes out as."""
    backbone = backbone_of(family)
    tensors = prompt_tensors(make_prompt(case, backbone, length=P, noise=0.5))
    length = len(tensors["vectors"]) if "vectors" in tensors else P
    config = {"method": case.method, "place": case.place, "length": length, "options": case.options}
    task = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": "{text}:", "labels": {"a": " a", "b": " b"}}
    facts = {"method": case.method, "place": case.place, "length": length, "options": {"prompt": config}}
    ref = backbone_ref(backbone)
    folder = store.add(Manifest(name="mood", **facts, backbone=ref, task=task, trainable=1), tensors)
    export_prompt("mood", out, store, to="peft")
    return folder, json.loads((out / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", FOLDED, ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_peft_gives_our_logits_of_a_folded_method(family, case, store, tmp_path):
    folder, config = exported(family, case, store, tmp_path / "out")
    plain = "PREFIX_TUNING" if case.place == "memory" else "PROMPT_TUNING"
    assert config["peft_type"] == OWN_TYPES.get(case.method, plain)
    model = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out")
    # What peft itself would write of this type, and no key that it does not know.
    assert set(config) == set(model.peft_config["default"].to_dict())
    assert is_different(family, folder)
    assert_same(folder, family, model, 0 if "MULTI" in config["peft_type"] else None)


@pytest.mark.parametrize("method", OWN_TYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_types_of_their_own_in_every_family(family, method, store, task, tmp_path):
    case = next(case for case in FOLDED if case.method == method)
    folder, config = exported(family, case, store, tmp_path / "out")
    assert config["peft_type"] == OWN_TYPES[method]
    model = peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out")
    assert_same(folder, family, model, 0 if "MULTI" in config["peft_type"] else None)
    # And in again, as what it is without what made it.
    found = import_adapter(tmp_path / "out", store, task=task, backbone=backbone_of(family))
    assert load_artifact(Path(found.folder))[0].tensors_sha256 == load_artifact(folder)[0].tensors_sha256


@pytest.mark.parametrize(
    ("method", "place", "keys"),
    [
        ("p_tuning", "before", {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 6}),
        ("mpt", "before", {"num_tasks": 1, "num_ranks": 1}),
        ("cartridge", "memory", {"num_frozen_tokens": 2}),
    ],
)
def test_options_go_along_where_peft_has_them(method, place, keys, store, tmp_path):
    case = [case for case in FOLDED if case.method == method][-1]
    _, config = exported("llama", case, store, tmp_path / "out")
    assert config.items() >= keys.items()
    model = peft.PeftModel.from_pretrained(make_model("llama"), tmp_path / "out")
    assert model.peft_config["default"].to_dict().items() >= keys.items()


# Said of every prompt of vectors that writes.
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
def test_a_multitask_prompt_writes_in_peft(store, tmp_path):
    exported("llama", Case("mpt", "before"), store, tmp_path / "out")
    assert "task_ids=torch.tensor([0])" in (tmp_path / "out" / "README.md").read_text()
    model = peft.PeftModel.from_pretrained(make_model("llama"), tmp_path / "out").eval()
    ids, tasks = torch.tensor([[40, 41, 42], [50, 51, 52]]), torch.tensor([0, 0])
    told = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 5, "attention_mask": torch.ones_like(ids)}
    both = model.generate(input_ids=ids, task_ids=tasks, **told)
    first = model(input_ids=ids, task_ids=tasks).logits[:, -1].argmax(-1)
    assert torch.equal(both[:, 3], first)


def test_a_model_that_maps_its_token_vectors(store, tmp_path):
    """Only keys and values travel: peft puts vectors in front of what the map gets."""
    family = "opt projected"
    kept(family, "before", store)
    with pytest.raises(ArtifactError, match=r"(?s)cannot put.*width 32.*width 20.*--place memory"):
        export_prompt("mood", tmp_path / "out", store, to="peft")
    folder = kept(family, "memory", store)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    assert_same(folder, family, peft.PeftModel.from_pretrained(make_model(family), tmp_path / "out"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("place", ["before", "memory"])
def test_out_and_in_again_is_bit_equal(place, dtype, store, task, tmp_path):
    folder = kept("qwen3", place, store, dtype)
    export_prompt("mood", tmp_path / "out", store, to="peft")
    found = import_adapter(tmp_path / "out", store, task=task, backbone=backbone_of("qwen3"))
    assert found.prompt == "mood@2"
    (old, before), (new, after) = load_artifact(folder), load_artifact(Path(found.folder))
    assert (old.method, old.place, old.length, old.backbone) == (new.method, new.place, new.length, new.backbone)
    assert old.tensors_sha256 == new.tensors_sha256
    assert {name: tensor.dtype for name, tensor in before.items()} == {name: t.dtype for name, t in after.items()}


def test_in_and_out_again_is_bit_equal(store, task, tmp_path):
    from safetensors.torch import load_file

    for kind in ("PROMPT_TUNING", "PREFIX_TUNING"):
        folder = trained("gemma3_text", kind, tmp_path / kind)
        import_adapter(folder, store, task=task, backbone=backbone_of("gemma3_text"))
        export_prompt("mood", tmp_path / f"{kind}-again", store, to="peft")
        one, two = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / f"{kind}-again"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
