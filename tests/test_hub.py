"""Sharing on the hub: what is pushed comes back as it was, what was changed is refused, and no token is shown."""

from __future__ import annotations

import json

import pytest

from babelscope.errors import RunError, Unwritable
from babelscope.results import open_run
from babelscope.results.hub import Shared, fetched, pull, push
from tests.command import command
from tests.hub_server import Hub
from tests.synthetic_circuits import write_circuits
from tests.synthetic_runs import write_regions

TOKEN = "hf_" + "q" * 34


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


def test_a_run_comes_back_as_it_was_and_opens_by_its_name(hub, tmp_path):
    run = write_regions(tmp_path / "run")
    named = push(run.path, "hf://anna/regions")
    assert named.startswith("hf://anna/regions@")
    back = pull("hf://anna/regions", tmp_path / "back")
    assert open_run(back).files() == run.files()
    open_run(back).validate()
    assert all((back / name).read_bytes() == (run.path / name).read_bytes() for name in run.files())
    assert open_run("hf://anna/regions").summary == run.summary
    text = hub.repositories["anna/regions"]["README.md"].decode()
    assert "license: cc-by-4.0" in text
    assert run.model_name.split("/")[-1] in text
    assert str(tmp_path) not in text
    assert "babelscope pull hf://anna/regions" in text
    with pytest.raises(RunError, match="exists"):
        pull("hf://anna/regions", tmp_path / "back")


def test_a_flipped_byte_is_refused_and_nothing_is_left(hub, tmp_path):
    push(write_circuits(tmp_path / "run").path, "hf://anna/circuits")
    files = hub.repositories["anna/circuits"]
    name = next(name for name in files if name.endswith(".parquet"))
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    files[name] = bytes(content)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        pull("hf://anna/circuits", tmp_path / "back")
    with pytest.raises(RunError, match="damaged"):
        open_run("hf://anna/circuits")
    assert not (tmp_path / "back").exists()


def test_what_was_added_is_refused_and_what_was_removed_goes(hub, tmp_path):
    run = write_regions(tmp_path / "run")
    push(run.path, "hf://anna/regions")
    hub.repositories["anna/regions"]["more.py"] = b"import os"
    with pytest.raises(RunError, match=r"more\.py was added"):
        pull("hf://anna/regions", tmp_path / "back")
    push(run.path, "hf://anna/regions")
    assert "more.py" not in hub.repositories["anna/regions"]


def test_a_file_of_regions_is_shared_alone(hub, tmp_path):
    import torch

    from babelscope.regions.masks import RegionSet, load_regions, save_regions

    masks = {code: torch.zeros(2, 4, dtype=torch.bool) for code in ("en", "zh")}
    masks["zh"][1, 2] = True
    file = tmp_path / "own.safetensors"
    save_regions(RegionSet(masks, method="own"), file)
    push(file, "hf://anna/sets")
    with fetched("hf://anna/sets") as found:
        assert load_regions(found)["zh"].equal(masks["zh"])
    with pytest.raises(RunError, match="neither a finished run nor a file"):
        push(tmp_path, "hf://anna/sets")


def test_no_token_is_said_whatever_goes_wrong(hub, tmp_path, capfd):
    run = write_regions(tmp_path / "run")
    assert command("push", str(run.path), "hf://anna/regions").exit_code == 0
    assert command("regions", "show", "hf://anna/regions").exit_code in (0, 2)
    assert command("pull", "hf://anna/nothing", "--out", str(tmp_path / "none")).exit_code == 2
    hub.refuses = True
    with pytest.raises(Unwritable, match="answers 403") as refused:
        push(run.path, "hf://anna/regions")
    seen = capfd.readouterr()
    assert TOKEN not in seen.out + seen.err + str(refused.value)
    assert all(TOKEN not in json.dumps(asked) for asked in hub.asked)


@pytest.mark.parametrize("name", ["hf://anna", "anna/runs", "hf://anna/../x", "hf://anna/runs@", "hf:///etc/passwd"])
def test_other_names_are_refused(name, tmp_path):
    with pytest.raises(RunError, match="names nothing on the hub"):
        Shared.of(name)


def test_a_file_whose_name_is_a_pattern_shares_itself_alone(hub, tmp_path):
    import torch

    from babelscope.regions.masks import RegionSet, save_regions

    for name in ("own[1]", "own1", "o*", "v1.2"):
        save_regions(RegionSet({"en": torch.ones(1, 2).bool()}, name), tmp_path / f"{name}.safetensors")
    for name in ("own[1]", "o*", "v1.2"):
        push(tmp_path / f"{name}.safetensors", "hf://anna/sets")
        shared = [one for one in hub.repositories["anna/sets"] if one.endswith((".safetensors", ".json"))]
        assert sorted(shared) == sorted(["checksums.json", f"{name}.safetensors"])
