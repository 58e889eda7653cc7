"""The tuned lens: recovered maps, identities, its text, its file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from babelscope import load_model
from babelscope.corpora import TextCollection
from babelscope.corpora.texts import Document
from babelscope.errors import InputError, ModelError
from babelscope.latent import tuned
from babelscope.latent.lens import normed, states
from babelscope.latent.running import Text, running_text
from babelscope.latent.tuned import TunedLens, fit_kl, fit_ridge, scored, warning
from babelscope.models import Model
from babelscope.results.schemas.latent import TunedScore

from .tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(tiny_model("llama"), tiny_tokenizer(), id="tiny")


@pytest.fixture(scope="module")
def text(model: Model) -> Text:
    generator = torch.Generator().manual_seed(0)

    def windows(count: int) -> list[list[int]]:
        return torch.randint(4, 90, (count, 16), generator=generator).tolist()

    counts = {"fit": 40, "validation": 6, "test": 6}
    return Text("random", {part: {"en": windows(n), "fr": windows(n)} for part, n in counts.items()})  # pyright: ignore[reportArgumentType]


def test_ridge_recovers_a_planted_affine_map(monkeypatch, model, text):
    width, generator = model.width, torch.Generator().manual_seed(1)
    weight = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    bias = torch.randn(width, generator=generator, dtype=torch.float64)

    def planted(_model: Model, _windows: Any, work: Any, done: Any = None) -> None:
        h = torch.randn(500, width, generator=generator, dtype=torch.float64) + 1
        work([*[h] * model.layers, h + h @ weight + bias])

    monkeypatch.setattr(tuned, "over_positions", planted)
    monkeypatch.setattr(tuned, "PENALTIES", (1e-12,))
    monkeypatch.setattr(tuned, "_log_softmax", lambda _, hidden: torch.log_softmax(hidden.double(), -1))
    lens = fit_ridge(model, text)
    assert torch.allclose(lens.weight[0].double(), weight, atol=1e-6)
    assert torch.allclose(lens.bias[0].double(), bias, atol=1e-6)


def test_ridge_is_the_formula(model, text):
    lens = fit_ridge(model, text)
    rows: list[Tensor] = []
    tuned.over_positions(model, text.all("fit"), lambda values: rows.append(torch.stack(values)))
    hidden = torch.cat(rows, 1).double()
    layer = 1
    h, y = hidden[layer], hidden[-1] - hidden[layer]
    x, z = h - h.mean(0), y - y.mean(0)
    penalty = lens.penalties[layer] * float(torch.trace(x.T @ x)) / model.width
    a = torch.linalg.inv(x.T @ x + penalty * torch.eye(model.width)) @ x.T @ z
    assert torch.allclose(lens.weight[layer].double(), a, atol=1e-5)
    assert torch.allclose(lens.bias[layer].double(), y.mean(0) - h.mean(0) @ a, atol=1e-5)


def test_the_last_layer_stays_and_no_map_is_the_identity(model):
    hidden = states(model, ["abc", "xyz"])
    zero = TunedLens("ridge", torch.zeros(3, 32, 32), torch.zeros(3, 32), "", "", 0)
    assert torch.equal(zero.moved(hidden), hidden)
    moved = TunedLens("ridge", torch.ones(3, 32, 32), torch.ones(3, 32), "", "", 0).moved(hidden)
    assert torch.equal(moved[-1], hidden[-1])
    assert not torch.equal(moved[0], hidden[0])


def test_both_fits_come_nearer_to_the_model_than_no_map(model, text):
    plain = {(one.language, one.layer): one for one in scored(model, None, text)}
    for lens in (fit_ridge(model, text), fit_kl(model, text, steps=30, step_tokens=256)):
        for one in scored(model, lens, text):
            assert one.kl < plain[one.language, one.layer].kl, (lens.kind, one)


def test_scores_are_the_loop(model, text):
    found = next(one for one in scored(model, None, text) if one.language == "fr" and one.layer == 1)
    kl, same, p_sum, q_sum, count = 0.0, 0, 0, 0, 0
    for window in text.parts["test"]["fr"]:
        with torch.inference_mode():
            output = model.hf(input_ids=torch.tensor([window]), output_hidden_states=True)
            p = output.logits[0].double().softmax(-1)
            q = model.logits(normed(model, output.hidden_states[1][0])).double().softmax(-1)
        kl += float((p * (p / q).log2()).sum())
        same += int((p.argmax(1) == q.argmax(1)).sum())
        p_sum, q_sum, count = p_sum + p.sum(0), q_sum + q.sum(0), count + len(p)
    p, q = p_sum / count, q_sum / count
    assert found.positions == count
    assert found.kl == pytest.approx(kl / count, rel=1e-4)
    assert found.agreement == pytest.approx(same / count)
    assert found.bias == pytest.approx(float((p * (p / q).log2()).sum()), rel=1e-4)


def test_a_lens_is_saved_and_belongs_to_its_model(tmp_path, model):
    lens = TunedLens(
        "ridge",
        torch.randn(3, 32, 32),
        torch.randn(3, 32),
        model.weight_hash,
        "texts",
        1000,
        (1e-4, 1e-3, 1e-2),
        (TunedScore("ridge", "fr", 0, 10, 1.0, 0.5, 0.1),),
    )
    lens.save(tmp_path / "lens.safetensors")
    again = TunedLens.load(tmp_path / "lens.safetensors", model)
    assert torch.equal(again.weight, lens.weight)
    assert (again.penalties, again.scores, again.texts) == (lens.penalties, lens.scores, "texts")
    other = Model(tiny_model("llama", seed=5), tiny_tokenizer(), id="other")
    with pytest.raises(ModelError, match="fitted on another model than other"):
        TunedLens.load(tmp_path / "lens.safetensors", other)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        TunedLens.load(tmp_path / "no.safetensors", model)


def test_too_little_text_is_said(model):
    lens = TunedLens("ridge", torch.zeros(3, 32, 32), torch.zeros(3, 32), "", "", 20 * 32 - 1)
    assert "639 tokens; 640" in warning(model, lens)


def collection(code: str, documents: int, words: int) -> TextCollection:
    return TextCollection(code, tuple(Document(str(i), f"{code} word " * words) for i in range(documents)), "memory")


def test_languages_share_tokens_and_parts_share_no_document():
    model = load_model("pocket:pocket-bloom-s")
    texts = {"en": collection("en", 40, 30), "fr": collection("fr", 20, 200)}
    text = running_text(model, texts, "memory", window=32)
    for part in text.parts.values():
        assert len({len(windows) for windows in part.values()}) == 1
        assert all(len(window) == 32 for windows in part.values() for window in windows)
    fitted = text.tokens("fit")
    assert fitted > 4 * text.tokens("test") > 0
    assert running_text(model, texts, "memory", tokens=320, window=32).tokens("fit") == 2 * 256


def test_text_that_is_too_short_is_refused():
    model = load_model("pocket:pocket-bloom-s")
    with pytest.raises(InputError, match="has 2 documents"):
        running_text(model, {"en": collection("en", 2, 100)}, "memory")
    with pytest.raises(InputError, match="no window of 512 tokens"):
        running_text(model, {"en": collection("en", 10, 20)}, "memory", window=512)
