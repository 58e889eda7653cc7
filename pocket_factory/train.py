"""Training of the pocket family: plain PyTorch, resumable at every saved state, deterministic up to rounding.

`train(name, directory)` writes `directory/NAME/main`, one folder for each checkpoint beside it, `loss.csv`, and a
`state` folder from which an interrupted training goes on.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from babelscope.errors import Interrupted, ModelError
from babelscope.pocket.models import MAIN, PocketModel, Recipe, get
from pocket_factory.architecture import build
from pocket_factory.mixture import compute_experts_quickly, imbalance, router_logits
from pocket_factory.packing import Order, TokenStream
from pocket_factory.tokenizer import save_tokenizer

LEARNING_RATE_FLOOR = 0.05
"""what the decay ends at, as a share of the highest learning rate"""
RESTART_HEIGHT = 0.4
"""how high the learning rate rises after a restart, as a share of the first time"""
FIRST_END = "before-restart.safetensors"
LOG_EVERY = 20
"""steps between rows of the loss curve"""
REPORT_SECONDS = 10.0
SAVE_SECONDS = 120.0

Report = Callable[[str], None]


def train(name: str, directory: Path, report: Report = print, device: str | None = None) -> Path:
    """Train a model of the family in `directory`, or go on where it stopped; the folder of the finished model.

    Raises Interrupted on Ctrl-C, after saving the state.
    """
    from pocket_factory.curriculum import prepare

    model = get(name)
    tokenizer, stream = prepare(model, directory, report)
    return Trainer(model, tokenizer, stream, directory / model.name, report, device).run()


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine down to the floor; the same once more, lower, after a restart.

    Steps count from 0.
    """
    if recipe.restart and step >= recipe.restart:
        return RESTART_HEIGHT * _cosine(recipe, step - recipe.restart, recipe.steps - recipe.restart)
    return _cosine(recipe, step, recipe.restart or recipe.steps)


def _cosine(recipe: Recipe, step: int, steps: int) -> float:
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, steps - recipe.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return recipe.learning_rate * (LEARNING_RATE_FLOOR + (1 - LEARNING_RATE_FLOOR) * cosine)


class Trainer:
    """One training: model, optimizer and place in the data, all of which are on disk after `save`."""

    def __init__(
        self, model: PocketModel, tokenizer: Tokenizer, stream: TokenStream, directory: Path,
        report: Report = print, device: str | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.recipe, self.tokenizer, self.stream = model, model.recipe, tokenizer, stream
        self.directory, self.report = directory, report
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network: Any = build(model, tokenizer.get_vocab_size(), self.recipe.seed)
        self.network.to(self.device)
        self.network.train()
        _quicken(self.network)
        compute_experts_quickly(self.network)
        self.parameters: dict[str, nn.Parameter] = dict(self.network.named_parameters())
        self.optimizer = self._optimizer()
        self.order = Order(stream.windows(self.recipe.length), self.recipe.batch, self.recipe.seed)
        self.step = 0
        self.losses = torch.zeros(len(stream.names), device=self.device)
        self.counts = torch.zeros(len(stream.names), device=self.device)
        self._resume()

    def run(self, until: int | None = None) -> Path:
        """Train to the end of the recipe, or to step `until`, saving the state as it goes."""
        last = min(self.recipe.steps, until if until is not None else self.recipe.steps)
        clock = _Clock(self.step)
        try:
            while self.step < last:
                self.take_step()
                if self.step % LOG_EVERY == 0 or self.step == self.recipe.steps:
                    self._log(clock)
                if self.step in self.recipe.checkpoints:
                    self.write_model(f"step{self.step}")
                if self.step == self.recipe.restart:
                    self._keep_first_end()
                if clock.time_to_save():
                    self.save()
        except KeyboardInterrupt:
            self.save()
            raise Interrupted(f"stopped at step {self.step}; the same command goes on from there") from None
        self.save()
        if self.step == self.recipe.steps:
            self._average_ends()
            return self.write_model(MAIN)
        return self.directory

    def take_step(self) -> float:
        """One step of the optimizer on one batch; its mean loss per token."""
        recipe = self.recipe
        tokens, labels = self.stream.batch(self.order.rows(self.step), recipe.length)
        with router_logits(self.network) as routers:
            each = self._token_losses(torch.from_numpy(tokens).to(self.device))
        loss = each.mean()
        spread = recipe.balance * imbalance(routers, self.spec.experts_per_token) if routers else 0.0
        (loss + spread).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        flat = torch.from_numpy(labels).to(self.device).flatten()
        self.losses.index_add_(0, flat, each.detach())
        self.counts.index_add_(0, flat, torch.ones_like(each))
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write the state: tensors as safetensors, the rest as JSON. The old state stays until the new one is whole."""
        state, fresh, old = (self.directory / name for name in ("state", "state-new", "state-old"))
        if old.is_dir() and not state.exists():  # killed between the two renames below: there is no other state
            old.rename(state)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        tensors = {f"model/{name}": p.detach().contiguous() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}/{name}"] = value.contiguous()
        save_file(tensors, fresh / "state.safetensors")
        (fresh / "state.json").write_text(json.dumps({"step": self.step, "asked": self._asked()}), encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if state.exists():
            state.rename(old)
        fresh.rename(state)
        shutil.rmtree(old, ignore_errors=True)

    def write_model(self, revision: str) -> Path:
        """Save a copy in half precision with its tokenizer, as an ordinary directory of Hugging Face."""
        target = self.directory / revision
        target.mkdir(parents=True, exist_ok=True)
        half = copy.deepcopy(self.network).to(device="cpu", dtype=torch.float16)
        half.save_pretrained(target)
        context = getattr(half.config, "n_positions", None) or getattr(half.config, "max_position_embeddings", None)
        save_tokenizer(self.tokenizer, target, longest=context)
        return target

    def _keep_first_end(self) -> None:
        """Weights at the end of the first cosine, for the average of both ends."""
        self.directory.mkdir(parents=True, exist_ok=True)
        ends = {name: p.detach().cpu().contiguous() for name, p in self.parameters.items()}
        save_file(ends, self.directory / FIRST_END)

    def _average_ends(self) -> None:
        """With a restart, the finished model is the mean of the weights at the ends of both cosines."""
        if not self.recipe.restart:
            return
        with torch.no_grad():
            for name, first in load_file(self.directory / FIRST_END).items():
                self.parameters[name].lerp_(first.to(self.device), 0.5)

    def _token_losses(self, tokens: Tensor) -> Tensor:
        head = self.network.get_output_embeddings()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.autocast):
            hidden = self.network.base_model(tokens[:, :-1], use_cache=False).last_hidden_state
            logits = F.linear(hidden.flatten(0, 1), head.weight)
        return F.cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction="none")

    def _optimizer(self) -> torch.optim.AdamW:
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.learning_rate, betas=(0.9, 0.98), fused=True)

    def _asked(self) -> dict[str, Any]:
        """What a saved state must agree with."""
        sizes = {name: list(p.shape) for name, p in self.parameters.items()}
        return json.loads(json.dumps({"recipe": _recipe(self.recipe), "sizes": sizes, "tokens": len(self.stream)}))

    def _resume(self) -> None:
        state = next((p for name in ("state", "state-old") if (p := self.directory / name).is_dir()), None)
        if state is None:
            return
        saved = json.loads((state / "state.json").read_text(encoding="utf-8"))
        if saved["asked"] != self._asked():
            raise ModelError(f"{state} belongs to a training with other settings; remove it or use another directory")
        tensors = load_file(state / "state.safetensors")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors.pop(f"model/{name}"))
        for key, value in tensors.items():
            kind, name = key.split("/", 1)
            self.optimizer.state[self.parameters[name]][kind] = value.to(self.device)
        self.step = int(saved["step"])
        self.report(f"{self.spec.name}: going on from step {self.step}")

    def _log(self, clock: _Clock) -> None:
        means = (self.losses / self.counts).tolist()
        total = float(self.losses.sum() / self.counts.sum())
        by_label = dict(zip(self.stream.names, means))
        self.losses.zero_()
        self.counts.zero_()
        row = {"step": self.step, "tokens": self.step * self.recipe.batch * self.recipe.length, "loss": f"{total:.4f}"}
        _append(self.directory / "loss.csv", row | {name: f"{value:.4f}" for name, value in by_label.items()})
        if clock.time_to_report() or self.step == self.recipe.steps:
            self.report(self._progress(total, by_label, clock))

    def _progress(self, total: float, by_label: dict[str, float], clock: _Clock) -> str:
        speed = clock.steps_per_second(self.step)
        left = (self.recipe.steps - self.step) / speed
        labels = " ".join(f"{name} {value:.2f}" for name, value in sorted(by_label.items()))
        tokens = speed * self.recipe.batch * self.recipe.length
        return (
            f"{self.spec.name} {self.step}/{self.recipe.steps} loss {total:.3f} ({labels}) "
            f"{tokens:,.0f} tokens/s, {int(left // 60)}:{int(left % 60):02d} left"
        )


class _Clock:
    """When to report and when to save, by the clock on the wall."""

    def __init__(self, step: int) -> None:
        self.begun = self.reported = self.saved = time.monotonic()
        self.first = step

    def steps_per_second(self, step: int) -> float:
        return max(1, step - self.first) / max(1e-9, time.monotonic() - self.begun)

    def time_to_report(self) -> bool:
        return self._due("reported", REPORT_SECONDS)

    def time_to_save(self) -> bool:
        return self._due("saved", SAVE_SECONDS)

    def _due(self, what: str, seconds: float) -> bool:
        due = time.monotonic() - getattr(self, what) >= seconds
        if due:
            setattr(self, what, time.monotonic())
        return due


def _quicken(network: PreTrainedModel) -> None:
    """The tanh GELU as one kernel: the same function as the models' own chain of elementwise operations, faster."""
    for module in network.modules():
        if type(module).__name__ == "BloomMLP":
            module.gelu_impl = nn.GELU("tanh")
        elif type(module).__name__ == "GPT2MLP":
            module.act = nn.GELU("tanh")


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return {field: getattr(recipe, field) for field in Recipe.__slots__}


def _append(file: Path, row: Mapping[str, object]) -> None:
    """Add a row to the loss curve; rows of steps that a resumed training repeats are dropped first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: list[dict[str, str]] = []
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as stream:
            kept = list(csv.DictReader(stream))
    if kept and int(kept[-1]["step"]) < int(str(row["step"])):
        with file.open("a", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, fieldnames=list(row)).writerow(row)
        return
    rows = [*(old for old in kept if int(old["step"]) < int(str(row["step"]))), row]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(rows)
