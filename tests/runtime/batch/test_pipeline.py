from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import pyvips

from ppsr.models.errors import PictureError, PpsrError, UsageError
from ppsr.runtime import files
from ppsr.runtime.batch import loading, outputs, pipeline
from ppsr.runtime.batch.inputs import find_inputs
from ppsr.runtime.batch.jobs import Job, plan
from ppsr.runtime.batch.loading import Options
from ppsr.runtime.batch.names import Naming
from ppsr.runtime.batch.outputs import Outputs
from ppsr.runtime.batch.pipeline import PENDING, Outcome, run_batch
from ppsr.runtime.stream import Stream
from ppsr.runtime.upscaler import Upscaler

LONG = 60


@pytest.fixture
def folder(tmp_path: Path, photo: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with four photos of odd sizes in ``in``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for index, name in enumerate(("astronaut", "chelsea", "coffee", "rocket")):
        save(tmp_path / f"in/{index}.png", photo(name, 41 + 2 * index, 59 - 2 * index))
    return tmp_path


@pytest.fixture(autouse=True)
def _threads_end() -> Iterator[None]:
    """However a batch ends, its threads do, too."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def save(path: Path, rgb: npt.NDArray[np.uint8]) -> None:
    pyvips.Image.new_from_array(rgb).copy(interpretation="srgb").write_to_file(str(path))


def read(path: Path) -> npt.NDArray[Any]:
    pixels: npt.NDArray[Any] = pyvips.Image.new_from_file(str(path)).numpy()
    return pixels


def jobs_of(*arguments: str, skip_existing: bool = False, **options: str) -> list[Job]:
    naming = Naming(**{"output": "out", **options})
    inputs = find_inputs(arguments or ["in"], recursive=True, leave_out=naming.folders)
    return plan(inputs, naming, scale=2, model="m", skip_existing=skip_existing)


def run(backend: Any, jobs: list[Job], *, keep_going: bool = False) -> list[Outcome]:
    with closing(run_batch(jobs, Upscaler(backend), Options(keep_going=keep_going))) as outcomes:
        return list(outcomes)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def test_each_picture_is_made_larger_and_told_of_in_order(folder: Path, fake: Callable) -> None:
    outcomes = run(fake(form="routed"), jobs_of())
    assert [str(outcome.job.source.path) for outcome in outcomes] == [
        f"in/{index}.png" for index in range(4)
    ]
    for index, outcome in enumerate(outcomes):
        source = read(folder / f"in/{index}.png")
        made = read(folder / f"out/{index}_x2.png")
        np.testing.assert_array_equal(made, source.repeat(2, 0).repeat(2, 1))
        assert (outcome.status, outcome.error, outcome.tiles) == ("done", None, 1)
        assert outcome.input_size == source.shape[:2]
        assert outcome.output_size == made.shape[:2]
        assert outcome.pure is not None
        assert outcome.milliseconds is not None
    assert names(folder / "out") == [f"{index}_x2.png" for index in range(4)]


def test_pictures_in_one_folder_and_below_go_to_folders_alike(folder: Path, fake: Callable) -> None:
    (folder / "in/a/b").mkdir(parents=True)
    os.rename("in/0.png", "in/a/b/0.png")
    assert {outcome.status for outcome in run(fake(), jobs_of())} == {"done"}
    assert (folder / "out/a/b/0_x2.png").is_file()


class TestOverlapping:
    """Nothing is timed: what has to wait for another thread waits for it, or the test fails."""

    def test_the_next_picture_is_decoded_while_the_model_works(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load, decoding, inferred = pipeline.load, [threading.Event() for _ in range(4)], []
        begun_after = []

        def noted(job: Job, *arguments: Any) -> Any:
            index = int(job.source.below.stem)
            begun_after.append(len(inferred))
            decoding[index].set()
            return load(job, *arguments)

        def infer(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if len(inferred) < 3:
                assert decoding[len(inferred) + 1].wait(LONG), "the next is not being decoded"
            inferred.append(output.shape)
            return output

        monkeypatch.setattr(pipeline, "load", noted)
        backend = fake()
        backend.change = infer
        assert [outcome.status for outcome in run(backend, jobs_of())] == ["done"] * 4
        assert begun_after[0] == 0
        assert all(done >= index - 1 for index, done in enumerate(begun_after)), "one ahead, only"

    def test_the_last_picture_is_encoded_while_the_model_works(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish, inferring = Outputs.publish, [threading.Event() for _ in range(4)]
        published: list[int] = []

        def slow(self: Outputs, *arguments: Any) -> None:
            if len(published) < 3:
                assert inferring[len(published) + 1].wait(LONG), "the model waits for the encoder"
            published.append(1)
            publish(self, *arguments)

        def infer(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
            next(event for event in inferring if not event.is_set()).set()
            return output

        monkeypatch.setattr(Outputs, "publish", slow)
        backend = fake()
        backend.change = infer
        assert [outcome.status for outcome in run(backend, jobs_of())] == ["done"] * 4

    def test_a_slow_encoder_holds_the_model_back(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So few bands wait, however large the picture and however many there are."""
        save(folder / "in/4.png", np.zeros((1500, 9, 3), np.uint8))
        write, bands, waiting = Outputs.write, Stream.__iter__, []
        made = written = 0

        def produce(self: Stream) -> Iterator[Any]:
            nonlocal made
            for band in bands(self):
                made += 1
                yield band

        def slow(self: Outputs, rows: Any) -> None:
            nonlocal written
            time.sleep(0.002)
            waiting.append(made - written)
            written += 1
            write(self, rows)

        monkeypatch.setattr(Outputs, "write", slow)
        monkeypatch.setattr(Stream, "__iter__", produce)
        assert {outcome.status for outcome in run(fake(), jobs_of())} == {"done"}
        assert written > 10
        assert max(waiting) <= PENDING + 2, "one made, some waiting, one written"

    def test_pictures_are_forgotten(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One ahead, one in the model, and one or two that the encoder is about to close."""
        for index in range(4, 20):
            os.link("in/0.png", f"in/{index}.png")
        open_picture, open_now, counts = loading.open_picture, set(), []

        def noted(*arguments: Any, **options: Any) -> Any:
            picture = open_picture(*arguments, **options)
            close = picture.close

            def closing() -> None:
                open_now.discard(id(picture))
                close()

            open_now.add(id(picture))
            counts.append(len(open_now))
            picture.close = closing  # type: ignore[method-assign]
            return picture

        monkeypatch.setattr(loading, "open_picture", noted)
        outcomes = run(fake(), jobs_of())
        assert len(outcomes) == len(counts) == 20
        assert max(counts) <= 3 + PENDING
        assert not open_now, "all of them are closed"


class TestFailing:
    def test_the_batch_stops_with_what_was_complete(self, folder: Path, fake: Callable) -> None:
        damage(folder / "in/2.png")
        outcomes = run(fake(), jobs_of())
        assert [outcome.status for outcome in outcomes] == ["done", "done", "failed"]
        assert isinstance(outcomes[-1].error, PictureError)
        assert names(folder / "out") == ["0_x2.png", "1_x2.png"]

    def test_or_goes_on(self, folder: Path, fake: Callable) -> None:
        damage(folder / "in/0.png")
        damage(folder / "in/2.png")
        outcomes = run(fake(), jobs_of(), keep_going=True)
        assert [outcome.status for outcome in outcomes] == ["failed", "done", "failed", "done"]
        assert names(folder / "out") == ["1_x2.png", "3_x2.png"]

    @pytest.mark.parametrize("keep_going", [False, True])
    @pytest.mark.parametrize("step", ["write", "__exit__"])
    def test_a_disc_that_is_full(
        self,
        folder: Path,
        fake: Callable,
        monkeypatch: pytest.MonkeyPatch,
        keep_going: bool,
        step: str,
    ) -> None:
        do = getattr(outputs.PictureWriter, step)

        def fail(self: Any, *arguments: Any) -> None:
            if "1_x2" in str(self._target) and (step == "write" or arguments[0] is None):
                do(self, PpsrError, PpsrError("full"), None) if step == "__exit__" else None
                raise PpsrError("cannot write: No space left on device")
            do(self, *arguments)

        monkeypatch.setattr(outputs.PictureWriter, step, fail)
        outcomes = run(fake(), jobs_of(), keep_going=keep_going)
        status = [outcome.status for outcome in outcomes]
        assert status == (["done", "failed", "done", "done"] if keep_going else ["done", "failed"])
        assert "No space left" in str(outcomes[1].error)
        made = set(names(folder / "out"))
        assert "1_x2.png" not in made
        assert made <= {"0_x2.png", "2_x2.png", "3_x2.png"}

    @pytest.mark.parametrize("error", [PpsrError("the model failed"), MemoryError()])
    def test_a_model_that_fails(self, folder: Path, fake: Callable, error: BaseException) -> None:
        outcomes = run(fake(error), jobs_of(), keep_going=True)
        assert [outcome.status for outcome in outcomes] == ["failed"] * 4
        expected = str(error) or "not enough memory"
        assert all(expected in str(outcome.error) for outcome in outcomes)
        assert names(folder / "out") == [] if (folder / "out").exists() else True

    def test_what_a_format_cannot_hold_is_told_before_the_model_runs(
        self, folder: Path, fake: Callable
    ) -> None:
        save(folder / "in/0.png", np.zeros((1, 8192, 3), np.uint8))
        backend = fake()
        (outcome,) = run(backend, jobs_of(format="webp"))
        assert isinstance(outcome.error, UsageError)
        assert "16383" in str(outcome.error)
        assert not backend.feeds

    def test_no_memory_to_decode(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(loading, "open_picture", fail)
        (outcome,) = run(fake(), jobs_of())
        assert "not enough memory" in str(outcome.error)

    @pytest.mark.parametrize("where", ["load", "write", "publish"])
    def test_a_bug_is_no_outcome(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        if where == "load":
            monkeypatch.setattr(pipeline, "load", fail)
        else:
            monkeypatch.setattr(Outputs, f"_{where}", fail)
        with pytest.raises(ZeroDivisionError):
            run(fake(), jobs_of())
        assert not (folder / "out").exists() or names(folder / "out") == []


class TestStopping:
    def test_leaving_early_leaves_no_half_file(self, folder: Path, fake: Callable) -> None:
        with closing(run_batch(jobs_of(), Upscaler(fake()))) as outcomes:
            next(outcomes)
        made = names(folder / "out")
        assert made[0] == "0_x2.png"
        assert not [name for name in made if name.startswith(".")]

    def test_ctrl_c_in_the_middle_of_a_picture(self, folder: Path, fake: Callable) -> None:
        save(folder / "in/1.png", np.zeros((1500, 9, 3), np.uint8))
        jobs = jobs_of()

        def interrupt(job: Job, share: float) -> None:
            if job is jobs[1]:
                raise KeyboardInterrupt

        outcomes = run_batch(jobs, Upscaler(fake()), progress=interrupt)
        with closing(outcomes), pytest.raises(KeyboardInterrupt):
            list(outcomes)
        assert names(folder / "out") == ["0_x2.png"]

    def test_what_a_killed_run_left_is_swept(self, folder: Path, fake: Callable) -> None:
        (folder / "out").mkdir()
        (folder / "out/.ppsr-0123456789abcdef.png").write_bytes(b"half")
        run(fake(), jobs_of())
        assert names(folder / "out") == [f"{index}_x2.png" for index in range(4)]


class TestSkipping:
    def test_what_exists_is_not_even_opened(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "out").mkdir()
        (folder / "out/1_x2.png").write_bytes(b"made")
        damage(folder / "in/1.png")
        outcomes = run(fake(), jobs_of(skip_existing=True))
        assert [outcome.status for outcome in outcomes] == ["done", "skipped", "done", "done"]
        assert outcomes[1].notes == ("exists",)
        assert (folder / "out/1_x2.png").read_bytes() == b"made"
        assert {outcome.status for outcome in run(fake(), jobs_of(skip_existing=True))} == {
            "skipped"
        }


class TestOverlays:
    def test_all_appear_the_picture_last(
        self, folder: Path, fake: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So what is skipped later, because it exists, has its overlays."""
        replace, order = os.replace, []

        def noted(source: Path, target: Path) -> None:
            order.append(Path(target).parent.name)
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", noted)
        run(fake(form="routed"), jobs_of("in", mask="masks", compare="both"))
        assert [sorted(order[at : at + 2]) for at in range(0, 12, 3)] == [["both", "masks"]] * 4
        assert order[2::3] == ["out"] * 4
        for index in range(4):
            source = read(folder / f"in/{index}.png")
            both = read(folder / f"both/{index}_x2.png")
            assert read(folder / f"masks/{index}_x2.png").shape == source.shape
            ours = both[:, both.shape[1] // 2 :]
            np.testing.assert_array_equal(ours, source.repeat(2, 0).repeat(2, 1))

    @pytest.mark.parametrize("option", ["mask", "compare"])
    def test_one_that_fails_takes_the_picture_along(
        self, folder: Path, fake: Callable, option: str
    ) -> None:
        jobs = jobs_of("in/0.png", output="0_x2.png", **{option: "no.png"})
        (folder / "no.png").mkdir()
        (outcome,) = run(fake(form="routed"), jobs)
        assert outcome.status == "failed"
        assert "it is a folder" in str(outcome.error)
        assert names(folder) == ["in", "no.png"]

    @pytest.mark.parametrize("kind", ["grey", "grey with alpha", "alpha", "16 bits", "float"])
    def test_of_any_picture(self, folder: Path, photo: Callable, fake: Callable, kind: str) -> None:
        rgb = photo()
        image = pyvips.Image.new_from_array(rgb).copy(interpretation="srgb")
        if kind.startswith("grey"):
            image = image.colourspace("b-w")
        if kind.endswith("alpha"):
            image = image.bandjoin(200)
        if kind == "16 bits":
            image = (image.cast("ushort") * 257).cast("ushort").copy(interpretation="rgb16")
        if kind == "float":
            image = (image / 255).cast("float").copy(interpretation="scrgb")
        image.write_to_file("odd.tif")
        jobs = jobs_of("odd.tif", output="x.tif", mask="m.png", compare="c.png")
        (outcome,) = run(fake(form="routed"), jobs)
        assert outcome.status == "done", outcome.error
        assert read(folder / "m.png").shape == (61, 83, 3)
        both = read(folder / "c.png")
        assert (both.shape, both.dtype) == ((122, 332, 3), np.uint8)
        # The model repeats pixels, so both halves show the same picture, nearly.
        left, right = both[:, :166].astype(float), both[:, 166:].astype(float)
        assert abs(left - right).mean() < 6
