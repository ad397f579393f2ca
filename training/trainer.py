"""The training loop: loss, optimiser, an average of the weights; it can be killed and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ppsr.models.errors import BackendUnavailable, PpsrError, UsageError
from ppsr.runtime.bench import machine
from ppsr.runtime.dataset import find_pictures

from .average import Average
from .journal import Journal, Meter, Row
from .loader import Loader
from .losses import loss_of
from .optimiser import Optimiser
from .options import TrainOptions
from .patches import Patches
from .precision import prepare
from .schedule import learning_rate, progress
from .start import starting_network
from .state import STATE, State, load_state, save_state, save_weights
from .validate import Validation

OnPicture = Callable[[int, int], object]


def _ignore(_read: int, _all: int) -> None:
    """Nobody watches."""


def new_run(folder: Path, options: TrainOptions, on_picture: OnPicture = _ignore) -> Trainer:
    """Begin a run in a folder, which is made. Raises UsageError where it holds one already."""
    if (folder / STATE).exists():
        raise UsageError(f"{folder} holds a run; go on with --resume {folder}, or name another")
    trainer = Trainer(folder, options, on_picture)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    return trainer


def resumed_run(folder: Path, on_picture: OnPicture = _ignore) -> Trainer:
    """Go on with the run in a folder, from its last save. Raises UsageError where there is none."""
    state = load_state(folder)
    trainer = Trainer(folder, state.options, on_picture)
    trainer.restore(state)
    return trainer


class Trainer:
    """One run. ``on_picture`` is called with (pictures read, pictures in all)."""

    def __init__(self, folder: Path, options: TrainOptions, on_picture: OnPicture) -> None:
        self.device = _device(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.folder, self.options = folder, options
        pictures = find_pictures(Path(options.data))
        check = find_pictures(Path(options.validation)) if options.validation else []
        self._validation = Validation(check, options, self.device) if check else None
        self._patches = Patches.read(pictures, options.scale, options.patch, on_picture)
        self.network = starting_network(options).to(self.device)
        self._context = prepare(self.network, options.precision, self.device)
        forward, self._loss = loss_of(self.network)
        self._forward = torch.compile(forward) if options.compile else forward
        self._optimiser = Optimiser(self.network, options)
        self._average = Average(self.network, options.average)
        self.step, self.seconds = 0, 0.0

    @property
    def done(self) -> float:
        """Share of the run that is done, 0 to 1."""
        return progress(self.options, self.step, self.seconds)

    def run(
        self,
        on_row: Callable[[Row], object] = lambda _row: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end of the run and save; True where it was reached.

        ``should_stop`` is asked between steps. Raises PpsrError where the loss is no number.
        """
        self._begun = time.perf_counter() - self.seconds
        saved = validated = self.seconds
        journal = Journal(self.folder, self.step)
        o = self.options
        with Loader(self._patches, o.seed, o.batch, o.draws, self.device) as loader:
            meter = Meter(self.step, self.seconds, loader.waited, self.device)
            while self.done < 1 and not should_stop():
                rate = learning_rate(o, self.step, self.done)
                meter.loss += self._train_step(loader, rate)
                self.step += 1
                self._tick()
                if self.step % o.log_every and self.done < 1:
                    continue
                row = meter.row(self.step, self.seconds, loader.waited, o.batch, rate)
                self._expect_finite("loss", row.loss)
                due = self.done == 1 or self.seconds - validated >= 60 * o.validate_minutes
                if due and self._validation:
                    row = replace(row, psnr_y=self._validation.psnr_y(self._average.weights))
                    self._tick()
                    validated = self.seconds
                journal.add(row)
                on_row(row)
                if self.seconds - saved >= o.save_seconds:
                    self._save()
                    self._tick()
                    saved = self.seconds
                meter = Meter(self.step, self.seconds, loader.waited, self.device)
        self._save()
        return self.done == 1

    def _tick(self) -> None:
        self.seconds = time.perf_counter() - self._begun

    def _train_step(self, loader: Loader, rate: float) -> torch.Tensor:
        low, high = loader.take(self.step)
        # What networks draw in training: by step, so that a resumed run draws the same.
        torch.manual_seed((self.options.seed * 2**32 + self.step) % 2**63)
        with self._context:
            made = self._forward(low)
        loss = self._loss(made, high)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip)
        if self.device.type == "cpu":  # a CPU's grid_sample crashes at NaN; on CUDA this would wait
            self._expect_finite("gradient's norm", norm.item())
        self._optimiser.step(rate)
        self._average.update(self.step)
        return loss.detach()

    def _expect_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise PpsrError(
                f"the {name} is {value} at step {self.step}; "
                "use a smaller --rate, or --precision fp32"
            )

    def restore(self, state: State) -> None:
        """Go back to a saved state."""
        self.step, self.seconds = state.step, state.seconds
        self.network.load_state_dict(state.network)
        self._average.load(state.average)
        self._optimiser.load_state_dict(state.optimiser)

    def _save(self) -> None:
        state = State(
            self.options,
            self.step,
            self.seconds,
            self.network.state_dict(),
            self._average.weights,
            self._optimiser.state_dict(),
        )
        save_state(self.folder, state)
        save_weights(self.folder, state, _hardware(self.device))


def _device(options: TrainOptions) -> torch.device:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("torch finds no CUDA device; train with --device cpu")
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} cores of {machine()['cpu']}"
