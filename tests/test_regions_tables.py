"""Tables of regions: what they show, whose change a row is, what limits an interval, and texts of masked models."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from babelscope.errors import InputError, UnsupportedModel
from babelscope.models import Site, capture
from babelscope.regions import methods, similarity, table
from babelscope.regions.alignment import _result
from babelscope.regions.alignment_measures import Layer, kernel_alignment
from babelscope.regions.contrast import Contrast
from babelscope.regions.exchange import export_regions, import_regions
from babelscope.regions.generation import Sampling, cut_prompts, generations
from babelscope.regions.losses_under import Reading, first_layer, read_texts, resumes
from babelscope.regions.masks import RegionSet
from babelscope.regions.perplexity import Loss, Windows, score
from babelscope.regions.pseudo_likelihood import PseudoLoss, pseudo_loss
from babelscope.regions.relevance import relevance
from babelscope.regions.residual import record_residual
from babelscope.regions.rounds import AT_ONCE, Cell
from babelscope.regions.table import DeactivationTable, conditions, deactivation_table
from babelscope.results.schemas.regions import Perplexity
from babelscope.stats import Interval, no_interval

from .region_data import corpus, model, noise
from .test_encoders import encoder, marked_tokenizer


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub(r"<[^>]*>", "", one) for one in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def row(language: str, deactivated: str, perplexity: float, **rest) -> Perplexity:
    facts = {"draw": -1, "neurons": 3, "rounds": 1, "increase_percent": 1.0, **rest}
    return Perplexity(language=language, deactivated=deactivated, perplexity=perplexity, **facts)


def test_a_table_shows_perplexity_and_its_increase():
    rows = (row("en", "base", 10.0), row("zh", "base", 4.0), row("en", "zh", 15.0), row("zh", "zh", 3.0),
            row("en", "random", 10.0, draw=0), row("en", "random", 11.0, draw=1))  # fmt: skip
    found = DeactivationTable(rows, ())
    assert found.perplexities()["random"] == {"en": 10.5}
    shown = cells(found._repr_html_())
    assert shown[0] == ["", "base", "without zh %", "without random %"]
    assert [float(one) for one in shown[1][1:]] == [10, 50, 5]
    assert [float(one.replace("\N{MINUS SIGN}", "-")) for one in shown[2][1:3]] == [4, -25]


def test_means_are_shown_by_name_and_by_place():
    one = similarity.Means(torch.tensor(0.75), torch.tensor(0.5), torch.tensor(0.25))
    shown = dict(cells(one._repr_html_()))
    assert [float(value) for value in shown.values()] == [0.5, 0.25, 0.75, 0.5, 0.25]
    two = similarity.Means(torch.tensor([0.75, 1]), torch.tensor([0.5, 0]), torch.tensor([0.25, 0]))
    head, first, second = cells(two._repr_html_())
    assert head[1:] == list(shown)
    assert [float(one) for one in first] == [0, 0.5, 0.25, 0.75, 0.5, 0.25]
    assert [float(one) for one in second] == [1, 1, 0, 1, 0, 0]
    facts = dict(cells(noise(2, 3, 4000)._repr_html_()))
    tokens = int(noise(2, 3, 4000).tokens.sum())
    assert (facts["Languages"], facts["Sentences per language"]) == ("en, zh", "3")
    assert re.sub(r"\D", "", facts["Tokens"]) == str(tokens)


def loss(*documents: float) -> Loss:
    return Loss(torch.tensor(documents, dtype=torch.float64), torch.full((len(documents),), 10), 100)


def cell(*documents: float) -> Cell:
    base = loss(*([0.0] * len(documents)))
    value = sum(documents) / len(documents) / 10
    return Cell(loss(*documents), base, Interval(value, value - 1, value + 1, "t"), 1, 0.95)


def test_own_change_stands_beside_that_of_all_other_languages():
    own = {"en": cell(10, 20, 30), "zh": cell(1, 2, 3), "ar": cell(4, 6, 8)}
    found = table._selectivity("en", own, fixed=True)
    assert (found.own, found.others, found.selectivity) == pytest.approx((2, 0.4, 1.6))
    assert (found.language, found.documents) == ("en", 3)
    assert table._selectivity("ar", own, fixed=True).others == pytest.approx((2 + 0.2) / 2)
    assert len(AT_ONCE) == 1


def test_controls_have_the_mean_size_of_regions():
    masks = {code: torch.zeros(2, 10, dtype=torch.bool) for code in ("en", "zh", "fr")}
    masks["en"][0, :4] = masks["zh"][1, :3] = True
    made = list(conditions(RegionSet(masks, "m"), 2, 5))
    assert [(one.deactivated, one.draw) for one in made] == [
        ("base", -1), ("en", -1), ("zh", -1), ("fr", -1), ("random", 0), ("random-layer", 0), ("random", 1),
        ("random-layer", 1),
    ]  # fmt: skip
    # 7 neurons in three regions: 2; by layer 4/3 and 1
    assert [int(one.mask.sum()) for one in made if one.deactivated == "random"] == [2, 2]
    assert made[5].on("xx").sum(1).tolist() == [1, 1]
    assert made[0].on("en") is None
    uneven = RegionSet({"en": torch.tensor([[True, True, True], [True, False, False]])}, "m", widths=(3, 1))
    assert [one.mask.tolist() for one in conditions(uneven, 1, 0) if one.draw == 0] == [uneven["en"].tolist()] * 2


def windows(seed: int, count: int = 6) -> Windows:
    ids = torch.randint(3, 20, (count, 8), generator=torch.Generator().manual_seed(seed))
    return Windows("en", ids, torch.arange(count)[:, None].expand(count, 8), 7 * count)


def test_all_tokens_of_all_conditions_are_told():
    loaded = model()
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    regions = RegionSet({"en": mask.clone().index_fill_(0, torch.tensor([1]), True), "zh": mask}, "m")
    given, told = {"en": windows(0), "zh": windows(1, 4)}, []
    found = deactivation_table(loaded, given, regions, controls=1, fixed=True, progress=told.append)
    # the model as it is, two regions, two controls, on six and four windows of eight tokens
    assert sum(told) == 5 * (48 + 32)
    # read: the model as it is, en, random, and random by layer but on zh, whose region is empty
    assert (found.tokens, found.tokens_fixed) == (4 * 48 + 3 * 32, 4 * 48 + 3 * 32)
    assert found.reading["regions_by_rounds"] == [2]
    assert found.reading["shares_of_text"] == [1.0]


def test_texts_are_read_by_batches_under_each_set():
    loaded = model()
    mask = torch.zeros(loaded.layers, loaded.neurons_per_layer, dtype=torch.bool)
    mask[1, :9] = True
    given, told = {"en": windows(0), "zh": Windows("zh", *(torch.zeros(2, 0, 8).long()), 1)}, []
    asked = Reading(given, {"en": {("en", -1): mask}, "zh": {}}, False)
    found = read_texts(loaded, asked, 16, told.append)
    assert found["zh"] == {}
    assert torch.allclose(found["en"]["base", -1].by_document, score(loaded, given["en"]).by_document)
    assert sum(told) == 2 * 48
    assert first_layer(mask) == 1
    assert first_layer(torch.zeros(2, 2, dtype=torch.bool)) == 0
    assert resumes(loaded)
    assert not resumes(SimpleNamespace(layers=1))  # type: ignore[arg-type]
    rises: list[int] = []
    relevance(loaded, given["en"], progress=rises.append)
    assert sum(rises) == 48


def test_what_limits_an_interval_is_said():
    def made(name: str, selections: int, sentences: int = 60) -> str:
        found = torch.rand(selections, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return _result(name, found, sentences).why

    assert made("sads", 31) == ""
    assert made("anc", 31) == ""
    assert made("anc", 30) == "fewer than 30 documents: too narrow where they are skewed"
    assert made("sads", 30) == ""
    assert made("anc", 5) == made("sads", 5) != ""
    assert made("mexa-at-25", 31, 24) == "fewer than 25 sentences"
    assert made("mexa-at-25", 31, 25) == made("mexa", 31, 24) == ""
    assert made("sads", 2) == "one document"
    nothing = torch.full((5, 1, 2, 2), math.nan, dtype=torch.float64)
    assert _result("cka", nothing, 60).why == "too few sentences are left without a document"


def test_three_sentences_have_no_kernel_alignment():
    """Unbiased estimates of three points are 0 but for rounding, which is no number to divide by."""
    for seed in (*range(20), 33, 66, 97, 117):
        v = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert kernel_alignment(Layer(v, torch.zeros(3, dtype=torch.long)))[0].isnan().all()


@pytest.mark.parametrize("too", [False, True])
def test_a_bootstrap_is_the_plain_mean_of_the_drawn_pairs(monkeypatch, too):
    """Sentences drawn 2, 0 and 1 times, languages 1, 2 and 0 times, or each once where languages are not drawn."""
    drawn = {3: torch.tensor([[2.0, 0, 1]]).double(), 4: torch.tensor([[1.0, 2, 0, 1]]).double()}
    monkeypatch.setattr(similarity, "_counts", lambda _draws, size, _generator: drawn[size])
    rec = noise(4, 3, 10)
    found, s = similarity.bootstrap_means(similarity.gram(rec), 1, 0, too), similarity.gram(rec)
    w, v = drawn[3][0].tolist(), drawn[4][0].tolist() if too else [1.0] * 4
    sums = {name: [0.0, 0.0] for name in ("same_language", "same_sentence", "neither")}
    for a in range(4):
        inner = [(w[i] * w[j], float(s[a, i, a, j])) for i in range(3) for j in range(3) if i != j]
        own = sum(weight * value for weight, value in inner) / sum(weight for weight, _ in inner)
        _add(sums["same_language"], v[a], own)
        for b in range(4):
            if a == b:
                continue
            inner = [(w[i] * w[j], float(s[a, i, b, j])) for i in range(3) for j in range(3) if i != j]
            _add(sums["neither"], v[a] * v[b], sum(x * y for x, y in inner) / sum(x for x, _ in inner))
            same = sum(w[i] * float(s[a, i, b, i]) for i in range(3)) / sum(w)
            _add(sums["same_sentence"], v[a] * v[b], same)
    for name, (total, weight) in sums.items():
        assert float(getattr(found, name)[0]) == pytest.approx(total / weight), name


def _add(into: list[float], weight: float, value: float) -> None:
    into[0] += weight * value
    into[1] += weight


def test_best_effects_are_those_of_the_sign():
    d = torch.tensor([[1.0, -2, math.nan], [-3, 0.5, 0]], dtype=torch.float64)
    yes, no = torch.tensor([[True, False, False]] * 2), torch.tensor([[False, True, False]] * 2)
    found = Contrast(("en", "zh"), d, d, d, d, d, yes, no, yes[0], 9, "")
    assert methods.ranked(found, "raised").tolist() == [[1, -2, -math.inf], [-3, 0.5, 0]]
    assert methods.ranked(found, "lowered").tolist() == [[-1, 2, -math.inf], [3, -0.5, 0]]
    assert methods.ranked(found, "both").tolist() == [[1, 2, -math.inf], [3, 0.5, 0]]
    assert (found.members("raised") is yes, found.members("lowered") is no) == (True, True)
    assert found.members("both").tolist() == [[True, True, False]] * 2


def test_regions_as_json_name_the_widths_of_layers(tmp_path):
    mask = torch.tensor([[True, False, True], [True, False, False]])
    export_regions(RegionSet({"en": mask}, "m", {"a": 1}), tmp_path / "even.json")
    export_regions(RegionSet({"en": mask}, "m", widths=(3, 1)), tmp_path / "uneven.json")
    even, uneven = (json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("even", "uneven"))
    assert even == {
        "method": "m",
        "layers": 2,
        "neurons_per_layer": 3,
        "facts": {"a": 1},
        "regions": {"en": [[0, 2], [0]]},
    }
    assert (uneven["neurons_per_layer"], import_regions(tmp_path / "uneven.json").widths) == ([3, 1], (3, 1))
    assert import_regions(tmp_path / "even.json").widths == ()


@pytest.mark.parametrize("special", ["none", "bos", "bos-excluded"])
def test_pooled_residuals_are_the_plain_means(special):
    loaded, sentences = model("llama", torch.float64), corpus(2, 3)
    found = record_residual(loaded, sentences, special=special).recordings
    assert set(found) == {"mean", "last", "weighted"}
    for row_, code in enumerate(sentences.languages):
        for column, text in enumerate(sentences.texts[code]):
            ids = torch.tensor(loaded.tokenize([text], special))
            sites = [Site("residual", layer) for layer in range(loaded.layers + 1)]
            with torch.no_grad(), capture(loaded, sites) as seen:
                loaded.trunk(ids)
            for layer, site in enumerate(sites):
                h = seen[site][0, int(special == "bos-excluded") :]
                t = torch.arange(1.0, len(h) + 1, dtype=torch.float64)
                wanted = {"mean": h.mean(0), "last": h[-1], "weighted": (t[:, None] * h).sum(0) / t.sum()}
                for name, value in wanted.items():
                    assert torch.allclose(found[name].layer(layer)[row_, column], value, rtol=1e-9), name
            assert int(found["mean"].tokens[row_, column]) == len(h)


def test_continuations_are_told_row_by_row():
    loaded = model()
    prompts = {"en": cut_prompts(loaded, ["abcdef", "ghijkl", "mnopqr"], 3, 3)}
    told: list[int] = []
    rows = generations(loaded, prompts, [("base", -1, None), ("again", 0, None)], Sampling(3), progress=told.append)
    assert told == [6]
    assert [(one.deactivated, one.draw, one.prompt) for one in rows] == [
        (name, draw, text) for name, draw in (("base", -1), ("again", 0)) for text in ("abc", "ghi", "mno")
    ]
    assert all(one.broken_share == 0 and 0 < one.distinct_1 <= 1 for one in rows)


def test_pseudo_losses_are_those_of_each_token_masked():
    loaded = encoder("bert")
    texts = ["abcde", "xé", "hello"]
    found = pseudo_loss(loaded, texts, budget=14)
    for place, text in enumerate(texts):
        ids = marked_tokenizer()(text)["input_ids"]
        own = 0.0
        for t in range(1, len(ids) - 1):
            masked = torch.tensor([[*ids[:t], marked_tokenizer().mask_token_id, *ids[t + 1 :]]])
            with torch.inference_mode():
                own -= float(loaded.hf(masked).logits[0, t].log_softmax(-1)[ids[t]])
        assert float(found.sums[place]) == pytest.approx(own, rel=1e-5)
        assert (int(found.tokens[place]), int(found.bytes[place])) == (len(ids) - 2, len(text.encode()))
    with pytest.raises(UnsupportedModel, match="no masked language model"):
        pseudo_loss(model(), texts)
    plain = SimpleNamespace(encoder=True, id="m", hf=loaded.hf, tokenizer=SimpleNamespace(mask_token_id=None))
    with pytest.raises(InputError, match="the tokenizer of m has no mask token"):
        pseudo_loss(plain, texts)  # type: ignore[arg-type]
    loss_ = PseudoLoss(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 3]), torch.tensor([8.0, 8]))
    assert (loss_.per_token, loss_.per_byte) == (2, 0.5)


def test_a_row_adds_the_change_that_was_measured_to_all_text():
    whole, part = loss(10, 20, 30), replace(loss(1, 1, 0), counts=torch.tensor([10, 10, 0]))
    changed = Cell(part, part, no_interval(0.5, "few"), 2, 0.99)
    found = table._row("en", "random", 3, 7, changed, whole)
    assert (found.nll, found.tokens, found.bytes, found.documents, found.rounds) == (2.5, 20, 100, 2, 2)
    assert (found.draw, found.neurons, found.why) == (3, 7, "few")
    assert found.perplexity == pytest.approx(math.exp(2.5))
    assert found.increase_percent == pytest.approx(100 * (math.exp(0.5) - 1))
    assert found.bits_per_byte == pytest.approx(2.5 * 30 / math.log(2) / 100)
