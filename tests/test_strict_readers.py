"""Wrong values and tiny files that would cost much are refused in one line, with the place; nothing is rounded."""

from __future__ import annotations

import json
import time
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from babelscope.circuits.edges.circuit import Circuit
from babelscope.circuits.edges.mib import from_graph, read_graph, write_graph
from babelscope.errors import InputError, PlanError, RunError, TaskError
from babelscope.evolution.located import read_yaml
from babelscope.evolution.plan import read_plan
from babelscope.json_text import parse_json
from babelscope.languages import language
from babelscope.regions.exchange import export_regions, import_lape, import_regions
from babelscope.regions.masks import RegionSet, load_regions, save_regions
from babelscope.results import RunWriter, open_run
from babelscope.tasks.templates import parse_ioi

from .fault_points import shown

DEEP = '{"a":' * 5000 + "1" + "}" * 5000

# -- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [DEEP, "[" * 100_000, "{", "nul", '{"a": NaN}', '{"a": 1, "a": 2}', "1" * 10_000, ""])
def test_attack_5_json_that_is_none_is_one_error(text):
    started = time.process_time()
    with pytest.raises(InputError, match=r"^x\.json "):
        parse_json(text, "x.json")
    assert time.process_time() - started < 5


def test_brackets_inside_texts_are_no_depth():
    assert parse_json(json.dumps(["[" * 1000]), "x") == ["[" * 1000]


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"summary": [1]}, {"summary": "x"}, {"corpus": "x"}, {"corpus": [1]}, {"languages": 3}, {"kind": 5},
        {"corpus": {"languages": 7}}, {"summary": {"intervals": [1]}}, {"summary": {"languages": "en"}}, {"model": 4},
        {"key": 5},
    ],
)  # fmt: skip
def test_attack_5_a_manifest_of_other_shapes_is_refused(tmp_path, change):
    with RunWriter(tmp_path / "run", "regions") as run:
        run.manifest.update(change)
        if "kind" in change:
            run.kind = change["kind"]
    with pytest.raises(RunError, match=r"damaged|states no kind"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "checksums.json"])
@pytest.mark.parametrize("content", [DEEP, '{".": "x"}', '{"./": "x"}', json.dumps({"x" * 5000: "y"}), "[]", "\x00"])
def test_attack_5_manifests_and_sums_of_any_content(tmp_path, name, content):
    with RunWriter(tmp_path / "run", "regions"):
        pass
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(RunError):
        open_run(tmp_path / "run").validate()
    with pytest.raises(RunError):
        open_run(tmp_path / "run", validate=False).validate()


def test_attack_3b_what_is_read_is_checked_and_a_missing_chunk_is_damage(tmp_path):
    import xarray as xr

    with RunWriter(tmp_path / "run", "regions") as run:
        run.arrays(xr.Dataset({"score": ("x", np.arange(5.0))}))
        run.file("regions/a.txt").write_text("a")
    (tmp_path / "run" / "regions" / "a.txt").write_text("b")
    run = open_run(tmp_path / "run")
    assert run.arrays().score.values.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(RunError, match=r"regions/a\.txt is damaged"):
        run.file("regions/a.txt")
    assert open_run(tmp_path / "run", validate=False).file("regions/a.txt").read_text() == "b"
    (chunk,) = (tmp_path / "run" / "arrays.zarr" / "score" / "c").iterdir()
    data = chunk.read_bytes()
    chunk.unlink()
    with pytest.raises(RunError, match=r"arrays\.zarr/score/c/0 is missing"):
        open_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"arrays\.zarr/score/c/0 is missing"):
        run._opened.clear()
        run._sound.clear()
        run.arrays()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match=r"arrays\.zarr/score/c/0 is damaged"):
        open_run(tmp_path / "run").arrays()


# -- plans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["!!bool x", '!!int ""', '!!float ""', '!!int "_"', "!!timestamp x", "!!int 1e9z", "!!binary ==", "!!null x",
     "!!python/object:os.system x", "2024-01-01", ".nan", ".inf", "!!set {a}", "!!omap [a]", "!x y", "0o99x: [",
     "2024-99-99", "!!int 0x", "1:99:99.", "!!str"],
)  # fmt: skip
def test_attack_5_values_that_no_plan_holds(value):
    with pytest.raises(PlanError):
        from babelscope.evolution.plan import parse_plan

        parse_plan(read_yaml(f"name: {value}\nmodels: [a]\nmeasures: 3\n", "plan"), "x")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("regions: {samples: 010}", "without a zero in front"), ("regions: {samples: -1}", "counted from 0"),
        ("regions: {bootstrap: 99999999999}", "is the most"), ("perplexity: {texts: ''}", "nothing stands there"),
        ("perplexity: {texts: null}", "the key texts is missing"), ("circuits: {task: ''}", "nothing stands there"),
        ("regions: {samples: 1.5}", "a whole number"), ("regions: {methods: [lape, lape]}", "named twice"),
    ],
)  # fmt: skip
def test_values_of_a_plan_that_no_option_can_be_are_named_with_their_line(part, said):
    from babelscope.evolution.plan import parse_plan

    text = f"models: [a]\ncorpora: ['pocket:heldout']\nmeasures:\n  {part}\n"
    with pytest.raises(PlanError, match=rf"plan, line 4.*{said}"):
        parse_plan(read_yaml(text, "plan"), "x")


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "\n".join(" " * n + "- a:" for n in range(500))])
def test_attack_5_a_nested_plan_is_refused_soon(text):
    started = time.process_time()
    with pytest.raises(PlanError):
        read_yaml(text, "plan")
    assert time.process_time() - started < 5


def test_a_plan_that_is_no_preset_says_so_in_sentences():
    with pytest.raises(PlanError, match=r"nosuchplan is neither a plan file nor a preset\. Presets: "):
        read_plan("nosuchplan")


# -- circuits --------------------------------------------------------------------------------------------------------


def graph(**entry):
    return {
        "cfg": {"n_layers": 1, "n_heads": 2, "d_model": 8, "parallel_attn_mlp": False},
        "nodes": {},
        "edges": {"input->a0.h0<q>": {"score": 0.5, "in_graph": True, **entry}},
    }


@pytest.mark.parametrize(
    "entry",
    [{"score": float("nan")}, {"score": float("inf")}, {"score": "1"}, {"score": True}, {"in_graph": "false"},
     {"in_graph": 1}, {"in_graph": None}, {"score": 10**400}],
)  # fmt: skip
def test_attack_6_scores_and_memberships_of_a_graph(tmp_path, entry):
    with pytest.raises(InputError, match=r"edge input->a0\.h0<q>"):
        from_graph(graph(**entry))


@pytest.mark.wrong_kind
@pytest.mark.parametrize("sizes", [{"n_layers": 100, "n_heads": 100}, {"n_layers": "x"}, {"n_layers": 10**9}])
def test_attack_8_a_graph_that_states_large_sizes_is_refused_soon(sizes):
    stated = graph()
    stated["cfg"] |= sizes
    started = time.process_time()
    with pytest.raises(InputError, match=r"not the sizes of a model|edges, and 1 are listed"):
        from_graph(stated)
    assert time.process_time() - started < 1


def test_attack_5_files_of_circuits_nested_deeply(tmp_path):
    (tmp_path / "g.json").write_text(DEEP)
    with pytest.raises(InputError, match="levels deep"):
        read_graph(tmp_path / "g.json")
    tensors = {"edges": torch.ones(2, 2).bool(), "scores": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "c.safetensors", metadata={"circuit": DEEP})
    with pytest.raises(RunError, match="levels deep"):
        Circuit.load(tmp_path / "c")


def test_circuits_and_graphs_are_written_whole(tmp_path):
    circuit = from_graph(graph())
    circuit.save(tmp_path / "c")
    write_graph(circuit, tmp_path / "g.json")
    assert shown(tmp_path) == ["c.json", "c.safetensors", "g.json"]
    np.testing.assert_array_equal(Circuit.load(tmp_path / "c").edges, circuit.edges)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot be written"):
        circuit.save(tmp_path / "file" / "c")


# -- region files ----------------------------------------------------------------------------------------------------


def region_json(tmp_path, **changes):
    content = {"method": "m", "layers": 1, "neurons_per_layer": 3, "regions": {"en": [[0, 2]]}, **changes}
    (tmp_path / "r.json").write_text(json.dumps(content))
    return tmp_path / "r.json"


@pytest.mark.parametrize(
    "changes",
    [
        {"regions": {"en": [[0.9, 2.7]]}}, {"regions": {"en": [[0, 0]]}}, {"regions": {"en": [[True]]}},
        {"regions": {"en": [["1"]]}}, {"regions": {"en": [[-1]]}}, {"regions": {"en": [[3]]}}, {"regions": {}},
        {"layers": 1.0}, {"layers": "1"}, {"layers": 10**6, "neurons_per_layer": 10**6}, {"regions": {"en": [0]}},
        {"regions": [1]}, {"method": 5}, {"facts": "x"}, {"regions": {"en": [[10**30]]}}, {"layers": 0},
    ],
)  # fmt: skip
def test_attack_6_neurons_are_whole_numbers_of_the_model(tmp_path, changes):
    with pytest.raises(InputError, match=r"r\.json"):
        import_regions(region_json(tmp_path, **changes))


def test_a_language_twice_is_refused(tmp_path):
    text = region_json(tmp_path).read_text().replace('{"en": [[0, 2]]}', '{"en": [[0]], "en": [[1]]}')
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match="'en' is named twice"):
        import_regions(tmp_path / "r.json")


def stored(tmp_path, mask, score=None, languages=("en",), facts='{"format": 1, "method": "m", "languages": %s}'):
    tensors = {"mask/en": mask} | ({} if score is None else {"score/en": score})
    save_file(tensors, tmp_path / "r.safetensors", metadata={"babelscope": facts % json.dumps(list(languages))})
    return tmp_path / "r.safetensors"


GOOD = torch.tensor([[0, 1]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("mask", "score", "languages"),
    [
        (torch.tensor([[0, 255]], dtype=torch.uint8), None, ["en"]),
        (torch.tensor([[0, -1]], dtype=torch.int8), None, ["en"]),
        (torch.tensor([[0.0, float("nan")]]), None, ["en"]),
        (GOOD, torch.zeros(1, 3), ["en"]),
        (GOOD, torch.zeros(1, 2, dtype=torch.int32), ["en"]),
        (GOOD, None, ["en", "en"]),
        (GOOD, None, "en"),
    ],
)
def test_attack_6_masks_hold_nothing_but_0_and_1(tmp_path, mask, score, languages):
    with pytest.raises(InputError, match=r"r\.safetensors"):
        load_regions(stored(tmp_path, mask, score, languages))


def test_attack_5_metadata_nested_deeply(tmp_path):
    path = stored(tmp_path, GOOD)
    save_file({"mask/en": GOOD}, path, metadata={"babelscope": DEEP})
    with pytest.raises(InputError, match="levels deep"):
        load_regions(path)


@pytest.mark.parametrize(
    "indices",
    [torch.zeros(1).long().expand(10**9), torch.tensor([True]), torch.tensor([1.0]), torch.tensor([0, 0]),
     torch.tensor([[0]]), torch.tensor([0]).to_sparse(), torch.tensor([2**40]), torch.tensor([1j])],
)  # fmt: skip
def test_attack_8_exotic_tensors_in_published_masks(tmp_path, indices):
    torch.save([[indices]], tmp_path / "m.pt")
    started = time.process_time()
    tracemalloc.start()
    with pytest.raises(InputError, match=r"m\.pt"):
        import_lape(tmp_path / "m.pt", ["en"], 1, 3)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert time.process_time() - started < 5


def test_region_files_are_written_whole_in_python_too(tmp_path):
    regions = RegionSet({"en": torch.tensor([[True, False]])}, "m")
    (tmp_path / "file").write_text("x")
    for place in ("r.safetensors", "r.json", "r.csv"):
        write = save_regions if place.endswith("s") else export_regions
        write(regions, tmp_path / place)
        with pytest.raises(InputError, match="cannot write"):
            write(regions, tmp_path / "file" / place)
    assert shown(tmp_path) == ["file", "r.csv", "r.json", "r.safetensors"]


# -- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["names = 5", "names = 'ab'", "names = [1]", "genders = 5", "places = true"])
def test_attack_5_a_number_where_texts_belong(line):
    lines = {"names": "names = ['A', 'B']", "places": "places = ['p']", "objects": "objects = ['o']"}
    lines[line.split(" ")[0]] = line
    text = "\n".join(lines.values()) + "\n[[template]]\nid = 'a'\ntext = '{A} {B} {S}'\n"
    with pytest.raises(TaskError, match="must be a list of texts"):
        parse_ioi(text)


# -- languages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("jp", "ja"), ("cn", "zh"), ("ua", "uk"), ("dk", "da"), ("cz", "cs"), ("gr", "el"), ("vn", "vi"), ("ir", "fa"),
     ("ge", "ka"), ("il", "he"), ("US", "en")],
)  # fmt: skip
def test_bug_b8_codes_of_countries_get_a_hint(typed, meant):
    with pytest.raises(InputError, match=rf"a country's code; did you mean {meant} \("):
        language(typed)


NO_CODES = ["ua", "ge", "ir", "vu", "uu", "pe", "ma", "tu", "qa", "ci", "au", "od", "mc", "ju", "bu", "oy", "oi"]


@pytest.mark.parametrize("name", NO_CODES)
def test_bug_b8_two_letters_are_never_looked_up_as_a_name(name):
    with pytest.raises(InputError):
        language(name)


def test_every_two_and_three_letter_code_is_itself_or_nothing():
    """All codes of ISO 639-1 and -3 that langcodes knows, and every other string of two letters."""
    from string import ascii_lowercase as letters

    import langcodes

    for code in (a + b for a in letters for b in letters):
        known = langcodes.tag_is_valid(code) and langcodes.Language.get(code).is_valid()
        try:
            found = language(code)
        except InputError:
            assert not known or code in ("in", "iw"), code
            continue
        assert known, code
        standard = langcodes.Language.get(langcodes.standardize_tag(code)).prefer_macrolanguage().language
        assert found.code.split("-")[0] == standard, code
    for one, three in (("en", "eng"), ("zh", "zho"), ("zh", "cmn"), ("fr", "fra"), ("sw", "swh"), ("ar", "arb")):
        assert language(three).code == one
    assert language("lao").code == "lo"
