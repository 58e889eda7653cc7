"""Steering edits in files."""

from __future__ import annotations

import pytest
import torch

from babelscope.errors import InputError
from babelscope.models.decoding import Decoding, decode
from babelscope.models.rows import RowEdit
from babelscope.steering.directions import (
    direction,
)
from babelscope.steering.edits import arithmetic_changes
from babelscope.steering.files import SavedEdit, load_edit, save_edit
from babelscope.steering.fitted import Setting

from .region_data import model
from .test_steering import fitted_tiny, planted


def test_an_edit_survives_its_file_and_holds_in_plain_generate(tmp_path):
    fitted = fitted_tiny()
    loaded = fitted.model
    setting = Setting("en", "fr", "diffmean", 1, 2.0)
    saved = SavedEdit(tuple(fitted.directions(setting)), alpha=2.0, keep=True, facts={"corpus": "memory", "n": 12})
    save_edit(saved, tmp_path / "fr.safetensors")
    again = load_edit(tmp_path / "fr.safetensors")
    assert again.facts == {"corpus": "memory", "n": 12}
    assert torch.equal(again.directions[0].unit, saved.directions[0].unit)
    ids = torch.tensor([[5, 6, 7, 8]])
    [[ours]] = decode(loaded, ids.tolist(), Decoding(6, fixed=True), [again.row_edit()])
    with again.applied(loaded):
        theirs = loaded.hf.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    assert tuple(theirs[0, 4:].tolist()) == ours.ids
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[1, :7] = True
    save_edit(SavedEdit(mask=mask, values=mask.float(), where="generated"), tmp_path / "region.safetensors")
    region = load_edit(tmp_path / "region.safetensors")
    assert region.where == "generated"
    assert torch.equal(region.mask, mask)
    pca = SavedEdit(tuple(fitted.directions(Setting("en", "fr", "pca", 1, 1.0))))
    save_edit(pca, tmp_path / "pca.safetensors")
    assert torch.equal(load_edit(tmp_path / "pca.safetensors").directions[0].basis, pca.directions[0].basis)


def test_language_arithmetic_survives_its_file(tmp_path):
    loaded = model("llama")
    shape = (loaded.layers, loaded.neurons_per_layer)
    generator = torch.Generator().manual_seed(0)
    off, on = (torch.rand(shape, generator=generator) < 0.2 for _ in range(2))
    means, others = (torch.rand(shape, generator=generator) for _ in range(2))
    saved = SavedEdit(mask=on, values=means, off=off & ~on, others=others, arithmetic="diffmean", alpha=1.5)
    save_edit(saved, tmp_path / "sum.safetensors")
    again = load_edit(tmp_path / "sum.safetensors")
    plain = RowEdit(arithmetic_changes(off & ~on, on, means, others, 1.5, "diffmean"))
    ids = [[5, 6, 7, 8]]
    [[ours]] = decode(loaded, ids, Decoding(6, fixed=True), [again.row_edit()])
    [[theirs]] = decode(loaded, ids, Decoding(6, fixed=True), [plain])
    assert ours.ids == theirs.ids
    [[before]] = decode(loaded, ids, Decoding(6, fixed=True), [None])
    assert before.ids != ours.ids
    with pytest.raises(InputError, match="needs neurons of both languages"):
        SavedEdit(mask=on, arithmetic="additive").row_edit()


def test_files_that_are_no_edits_and_edits_of_other_models_are_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "a").write_text("no")
    save_file({"x": torch.ones(2)}, tmp_path / "b")
    save_file({"x": torch.ones(2)}, tmp_path / "c", {"babelscope": "{}"})
    for name in "abcd":
        with pytest.raises(InputError, match="not a file of a steering edit"):
            load_edit(tmp_path / name)
    moments, _ = planted()
    with (
        pytest.raises(InputError, match="this edit is of width 24"),
        SavedEdit((direction(moments, "en", "fr", 2),)).applied(model("llama")),
    ):
        pass
