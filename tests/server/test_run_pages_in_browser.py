"""The pages of runs and comparisons in a real browser."""

import pytest

from browser import findings
from compare_cells import cells_of, summed
from overture.core.files import exclusive
from run_folders import add_epoch, add_run, write_json


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("phone", "dark")])
def test_runs_and_comparisons(page_gateway, visit, tmp_path, monkeypatch, size, scheme):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("overture.server.pages.compare._figures", lambda path, stamp: {})
    write_json(tmp_path / "rows.json", [{"text": "fine", "label": "good"}])
    (tmp_path / "task.yaml").write_text('name: mood\ndata: {path: rows.json}\ntemplate: "{text}:"\n')
    shares = {"no-prompt": 0.5, "lora": 0.82}
    (tmp_path / "compare-mood").mkdir()
    write_json(tmp_path / "compare-mood" / "result.json", summed(cells_of(shares), list(shares)).dump())
    gateway = page_gateway()
    add_run(tmp_path / "store")
    run = add_run(tmp_path / "store", state="running", epochs=2)
    with visit(gateway, "/runs", size=size, color_scheme=scheme) as page:
        assert findings(page) == []
        with exclusive(run.folder / ".lock", "to test"):
            page.click("text=mood-2")
            page.wait_for_selector("text=Stop")
            assert page.locator(".key .wrong").all_inner_texts() == ["good", "good"]
            # The answers follow the run, training by training.
            add_epoch(run)
            page.wait_for_selector("text=bad 60%, epoch 6")
            assert page.locator(".key .wrong").all_inner_texts() == ["good"]
            assert findings(page) == []
        # The page asks by itself, and finds that nobody works on the run any more.
        page.wait_for_selector("button:has-text('Resume')")
        page.click("nav >> text=Runs")
        page.click("text=New run")
        page.fill("[id='train.lr']", "0.5")
        page.press("[id='train.lr']", "Tab")
        page.wait_for_selector("text=overture tune task.yaml --lr 0.5")
        assert findings(page) == []
        page.click("nav >> text=Compare")
        page.click("tbody a")
        assert findings(page) == []
        page.select_option("#wrong", "lora")
        page.wait_for_url("**wrong=lora*")
