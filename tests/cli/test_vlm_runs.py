"""A model that reads images and texts, in whole runs: answers and labels, and images that come over the network."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway import Gateway, WorkerHere
from overture.core.records.serving import WorkerOptions
from overture.engine.load import load_backbone
from overture.evaluate.host import Host
from overture.server.worker import Worker
from overture.store.store import Store
from vlm_fakes import save_vlm

COLOURS = {"warm": (220, 90, 40), "cold": (40, 90, 220)}
SPLITS = {"train": 6, "validation": 4, "test": 4}
QUICK = ("--length", "2", "--set", "train.epochs=1", "--json")


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """Pictures of two colours under noise, a question about each, and a model beside them."""
    folder, random = tmp_path_factory.mktemp("asked"), np.random.default_rng(0)
    for split, num_rows in SPLITS.items():
        rows = []
        for label, colour in COLOURS.items():
            for number in range(num_rows):
                pixels = np.clip(np.array(colour) + random.integers(-35, 36, (20, 24, 3)), 0, 255).astype(np.uint8)
                name = f"{split}-{label}-{number}.png"
                Image.fromarray(pixels).save(folder / name)
                rows.append({"image": name, "question": f"what is number {number}", "answer": label})
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    save_vlm(folder / "model", "smolvlm")
    return folder


def task_file(folder: Path, tmp_path: Path, *more: str, template: str = "{image}{question}\\nAnswer:") -> Path:
    lines = ["name: seen", f"backbone: {folder / 'model'}", "input: image", "data:"]
    lines += [f"  {split}: {folder / f'{split}.jsonl'}" for split in SPLITS]
    file = tmp_path / "task.yaml"
    file.write_text("\n".join([*lines, f'template: "{template}"', *more]), encoding="utf-8")
    return file


def labelled(folder: Path, tmp_path: Path, **named: str) -> Path:
    labels = ["label_field: answer", "labels:", '  warm: " warm"', '  cold: " cold"']
    return task_file(folder, tmp_path, *labels, **named)


@pytest.mark.parametrize(("method", "place"), [("vectors", "after"), ("prefix", "memory")])
def test_labels_from_files_to_answers(asked, tmp_path, overture, method, place):
    task = labelled(asked, tmp_path)
    done = overture("tune", task, "--method", method, "--place", place, *QUICK)
    assert done.code == 0, done.err
    assert done.json["no_prompt"]["metrics"]["test"]["accuracy"]["n"] == 8
    again = overture("eval", "seen@1", "--json")
    assert again.code == 0, again.err
    scores = [run.json["metrics"]["test"]["accuracy"]["value"] for run in (again, done)]
    assert scores[0] == scores[1]


def test_between_image_and_question(asked, tmp_path, overture):
    task = labelled(asked, tmp_path, template="{image}{prompt:2}{question}\\nAnswer:")
    done = overture("tune", task, "--method", "vectors", "--place", "slots", *QUICK)
    assert done.code == 0, done.err


def test_written_answers(asked, tmp_path, overture):
    task = task_file(asked, tmp_path, "answer_field: answer", "max_new_tokens: 4")
    done = overture("tune", task, "--method", "vectors", "--place", "after", *QUICK)
    assert done.code == 0, done.err
    assert done.json["metrics"]["test"]["exact_match"]["n"] == 8
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": str(asked / "test-warm-0.png"), "question": "what"}), encoding="utf-8")
    answered = overture("predict", "seen@1", rows)
    assert answered.code != 0 or answered.out


def test_images_over_the_network_are_bytes_and_never_names(asked, tmp_path, overture):
    done = overture("tune", labelled(asked, tmp_path), "--method", "vectors", "--place", "after", *QUICK)
    assert done.code == 0, done.err
    store = Store(tmp_path / "store")
    host = Host(load_backbone(str(asked / "model"), device="cpu", notify=lambda text: None), store)
    worker = Worker(host, WorkerOptions(store=str(store.root)), tokens_per_s=400.0)
    raw = (asked / "test-warm-0.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(raw).decode()
    expected = host.open("seen@1").predict([{"image": {"bytes": raw}, "question": "what"}])[0]
    with Gateway(store.root, WorkerHere(worker)).client() as client:

        def ask(image: str) -> Any:
            body = {"prompt": "seen@1", "inputs": [{"image": image, "question": "what"}]}
            return client.post("/v1/predict", json=body)

        reply = ask(uri)
        assert reply.status_code == 200, reply.text
        (answer,) = reply.json()["results"][0]["answers"].values()
        assert answer["choice"] == expected.label
        assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
        for image in (
            "https://example.org/a.png",
            str(asked / "test-warm-0.png"),
            "data:image/png;base64,AAAA",
            "a.png",
        ):
            refused = ask(image)
            assert refused.status_code == 400, refused.text
            assert "image" in refused.text or "file" in refused.text
        assert ask("data:image/png;base64," + "A" * (1 << 20)).status_code == 413


def test_what_reads_texts_alone_is_refused(asked, tmp_path, overture):
    task = labelled(asked, tmp_path)
    for command in (("search", task, "--form", "hard"), ("tune", task, "--method", "cpt", "--place", "before")):
        done = overture(*command)
        assert done.code == 2, (command, done.out)
        assert "fix:" in done.err
