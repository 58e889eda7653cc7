"""Files of regions, circuits, edits and lenses by themselves: one flipped bit anywhere is damage, never a number."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from babelscope.circuits.edges.circuit import Circuit
from babelscope.errors import BabelscopeError, InputError, RunError
from babelscope.latent.tuned import TunedLens
from babelscope.regions import load_regions
from babelscope.regions.masks import RegionSet, save_regions
from babelscope.results.sealed import KINDS, SUM, read_sealed, save_sealed
from babelscope.steering.files import load_edit

from .fuzz_studied import _circuit_bytes, _edit_bytes, _lens, _region_bytes

FILES = {
    "regions": (_region_bytes, load_regions),
    "circuit": (_circuit_bytes, Circuit.load),
    "edit": (_edit_bytes, load_edit),
    "tuned lens": (lambda: _lens()[0], lambda path: TunedLens.load(path, _lens()[1])),
}


@pytest.mark.parametrize("kind", FILES)
def test_attack_3b_one_flipped_bit_of_a_file_by_itself_is_named(tmp_path, kind):
    make, load = FILES[kind]
    good, file = make(), tmp_path / "x.safetensors"
    file.write_bytes(good)
    load(file)
    names = good.index(f'"{SUM}"'.encode())  # the sum's own name: without it the file is one of somebody else's
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        file.write_bytes(bytes(changed))
        if names < place <= names + len(SUM):
            continue
        with pytest.raises(BabelscopeError):
            load(file)


def test_a_file_without_a_sum_is_read_as_it_is(tmp_path):
    regions = tmp_path / "r.safetensors"
    regions.write_bytes(_region_bytes())
    text, _ = read_sealed(regions, "babelscope")
    save_file(load_file(regions), regions, {"babelscope": text})
    assert load_regions(regions).languages == ("en", "zh")


def test_every_kind_of_tensor_is_kept(tmp_path):
    held = {
        "bool": torch.tensor([True, False]), "half": torch.ones(2, 3).half(), "bfloat": torch.ones(3).bfloat16(),
        "none": torch.zeros(0, 4), "one": torch.tensor(2.5), "turned": torch.arange(6.0).reshape(2, 3).T,
    }  # fmt: skip
    save_sealed(held, tmp_path / "x", "k", "{}")
    text, back = read_sealed(tmp_path / "x", "k")
    assert text == "{}"
    assert all(torch.equal(held[name], back[name]) for name in held)
    with pytest.raises(InputError, match="cannot write"):
        (tmp_path / "folder").mkdir()
        save_sealed(held, tmp_path / "folder", "k", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x"]


def test_a_file_of_another_kind_is_named(tmp_path):
    save_regions(RegionSet({"en": torch.eye(2).bool()}, "by hand"), tmp_path / "r.safetensors")
    for key in KINDS:
        save_sealed({"x": torch.ones(2)}, tmp_path / f"{key}.safetensors", key, "{}")
    with pytest.raises(InputError, match="holds a tuned lens, not regions of neurons or a"):
        load_regions(tmp_path / "babelscope.tuned_lens.safetensors")
    with pytest.raises(InputError, match="is not a file of a steering edit: it has no"):
        load_edit(tmp_path / "r.safetensors")
    with pytest.raises(RunError, match="holds regions of neurons or a steering edit, not a circuit"):
        Circuit.load(tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="not a region file of babelscope: it has no 'format'"):
        load_regions(tmp_path / "babelscope.safetensors")
