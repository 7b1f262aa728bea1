"""What every task must do (`selftrain_core.interfaces.Task`)."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from selftrain_core.batch import Batch, Targets, collate, float_images
from selftrain_core.geometry import Geometry
from selftrain_core.interfaces import Backbone, LossTerm, Task
from selftrain_core.labels import DROP, IGNORED, KEEP, Decisions, Labels, MaskLabels
from selftrain_core.policies import FixedDecision
from selftrain_core.testing.component import ComponentContract, assert_equal, is_equal
from selftrain_core.testing.fakes import TinyBackbone, TinyBackboneConfig
from selftrain_core.testing.samples import decisions, num_scores, picture, sample
from selftrain_core.views import View

_STORE_COLUMNS = {"id", "state", "reason", "height", "width", "matrix"}


class TaskContract(ComponentContract):
    """Inherit, name the task, and say how its labels look.

    Example::

        class TestSemantic(TaskContract):
            spec_name = "segmentation/semantic"

            def labels(self, size, seed, *, scored):
                return mask_labels(size, len(self.classes), seed, scored=scored)
    """

    kind = "tasks"
    interface = Task
    classes: ClassVar[tuple[str, ...]] = ("background", "thing", "other")
    canvas: ClassVar[tuple[int, int]] = (64, 96)
    sizes: ClassVar[tuple[tuple[int, int], ...]] = ((64, 96), (37, 91), (200, 40), (130, 130))
    """Heights and widths of the images to test with; smaller, larger and other shapes than the canvas."""

    def labels(self, size: tuple[int, int], seed: int, *, scored: bool) -> Labels:
        """Return labels of an image of `size` that hold something of a class: a teacher's if `scored`."""
        raise NotImplementedError

    def perfect_prediction(self, labels: Labels, size: tuple[int, int]) -> Any:
        """Return the prediction that agrees with `labels` everywhere; None skips the check that it scores highest."""
        return None

    def perfect_score(self) -> float:
        """Return what a perfect prediction scores."""
        return 100.0

    def backbone(self, strides: Sequence[int]) -> Backbone:
        """Return the backbone to build the task's model on."""
        return TinyBackbone(TinyBackboneConfig(width=8), "", strides)

    def task(self) -> Task[Any, Any]:
        """Return the task."""
        task: Task[Any, Any] = self.load()(self.settings(), self.classes)
        return task

    def model(self, task: Task[Any, Any]) -> nn.Module:
        """Return the task's model at fixed random weights, float64, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return task.build_model(self.backbone(task.strides)).double().eval()

    def batch(self, task: Task[Any, Any], *, seed: int = 0, action: int = KEEP, weight: float = 1.0) -> Batch:
        """Return a batch with one image of each of `sizes`: teacher's labels, all with the same decision."""
        samples = []
        for number, size in enumerate(self.sizes):
            labels = self.labels(size, seed + number, scored=True)
            geometry = Geometry.fit(size, self.canvas)
            targets = task.to_targets(labels, decisions(labels, action, weight), geometry)
            samples.append(sample(picture(size, seed + number), self.canvas, f"{seed}-{number}", targets=targets))
        batch = collate(samples)
        return replace(batch, image_B3HW=float_images(batch.image_B3HW, torch.float64))

    def losses(self, task: Task[Any, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of `batch`."""
        return task.losses(model(batch.image_B3HW), batch.targets)

    def test_describes_itself(self) -> None:
        """Terms have distinct names and usable numbers; metric, unit, strides and classes are there."""
        task = self.task()
        names = [term.name for term in task.terms]
        assert names and len(set(names)) == len(names), f"terms need distinct names, at least one: {names}"
        assert all(isinstance(term, LossTerm) for term in task.terms), f"terms are LossTerms: {task.terms}"
        for term in task.terms:
            assert term.weight > 0 and term.count_scale > 0 and term.count_offset >= 0, f"numbers out of range: {term}"
        assert task.metric_name and task.unit, "metric_name and unit are for people: they cannot be empty"
        assert task.quantity, "quantity is for people: it cannot be empty"
        assert task.label_files == Path(task.label_files).name, f"label_files names a folder: {task.label_files!r}"
        assert list(task.strides) == sorted(set(task.strides)), f"strides ascend: {task.strides}"
        assert task.classes == self.classes, f"classes are {task.classes}, given {self.classes}"

    def test_is_sent_to_worker_processes(self) -> None:
        """The task pickles: loaders' workers build targets with it."""
        task = self.task()
        again = pickle.loads(pickle.dumps(task))  # noqa: S301  # pickled a line above
        assert again.classes == task.classes, "the task does not survive pickling"

    def test_counts(self) -> None:
        """Counts are one finite number ≥ 0 per image for exactly the terms, from targets alone."""
        task = self.task()
        batch = self.batch(task)
        self._assert_per_image(task, task.counts(batch.targets), len(batch), "counts")

    def test_losses(self) -> None:
        """Losses are one finite number ≥ 0 per image for exactly the terms, with gradient."""
        task = self.task()
        batch = self.batch(task)
        losses = self.losses(task, self.model(task), batch)
        self._assert_per_image(task, losses, len(batch), "losses")
        assert all(loss.requires_grad for loss in losses.values()), "losses have no gradient"

    def test_losses_are_per_image(self) -> None:
        """An image's counts and losses do not depend on what else is in its batch, nor on its place in it."""
        task = self.task()
        model, batch = self.model(task), self.batch(task)
        whole = self.losses(task, model, batch)
        counts = task.counts(batch.targets)
        for chosen in ([3, 1, 0, 2], [2], [0, 3]):
            part = _chosen(batch, chosen)
            for name, loss in self.losses(task, model, part).items():
                expected = whole[name][chosen]
                close = torch.allclose(loss, expected, rtol=1e-5, atol=1e-6)
                assert close, f"loss '{name}' of images {chosen} alone is {loss.tolist()}, in the batch {expected}"
            for name, count in task.counts(part.targets).items():
                assert_equal(count, counts[name][chosen], f"count '{name}' of images {chosen}")

    def test_everything_ignored(self) -> None:
        """With everything ignored counts and losses stay finite; a term without anything to count has no loss."""
        task = self.task()
        model = self.model(task)
        batch = self.batch(task, action=IGNORED)
        counts, losses = task.counts(batch.targets), self.losses(task, model, batch)
        self._assert_per_image(task, losses, len(batch), "losses with everything ignored")
        for term in task.terms:
            if not counts[term.name].any() and not term.count_offset:
                assert not losses[term.name].any(), f"'{term.name}' counts nothing, its loss is {losses[term.name]}"
        sum(loss.sum() for loss in losses.values()).backward()  # type: ignore[union-attr]  # at least one term
        _assert_finite_gradients(model)

    def test_gradients(self) -> None:
        """The losses give finite gradients, and some that are not zero."""
        task = self.task()
        model = self.model(task).train()
        sum(loss.sum() for loss in self.losses(task, model, self.batch(task)).values()).backward()  # type: ignore[union-attr]
        _assert_finite_gradients(model)
        moved = [p for p in model.parameters() if p.grad is not None and p.grad.any()]
        assert moved, "no parameter has a gradient that is not zero"

    def test_predict(self) -> None:
        """One prediction per image; no module changes its mode and no generator moves."""
        task = self.task()
        model = self.model(task)
        batch = self.batch(task)
        blind = replace(batch, targets=Targets())
        before = _generators()
        with torch.no_grad():
            predictions = task.predict(model, blind)
            assert _generators() == before, "predict moves a random generator"
            inner = next(iter(model.children()), model)
            inner.train()  # a mode of its own, to be left alone
            modes = [module.training for module in model.modules()]
            task.predict(model, blind)
        assert len(predictions) == len(batch), f"{len(predictions)} predictions of {len(batch)} images"
        assert [module.training for module in model.modules()] == modes, "predict changes the model's mode"

    def test_predict_in_threads(self) -> None:
        """Several threads that predict at once get what one gets after the other."""
        task = self.task()
        model, batch = self.model(task), self.batch(task)

        def labels(number: int) -> list[Any]:
            with torch.inference_mode():
                seen = replace(batch, image_B3HW=batch.image_B3HW.roll(number, -1))
                return [task.as_labels(prediction) for prediction in task.predict(model, seen)]

        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(labels, range(8)))
        assert_equal(together, [labels(number) for number in range(8)], "predictions of several threads", atol=1e-4)

    def test_row_round_trip(self) -> None:
        """A prediction's labels fit the row schema, and come back from Arrow as they were."""
        task = self.task()
        schema = task.row_schema()
        clash = _STORE_COLUMNS & set(schema.names)
        assert not clash, f"the columns {sorted(clash)} belong to the store"
        with torch.no_grad():
            predictions = task.predict(self.model(task), self.batch(task))
        for prediction, top_k in itertools.product(predictions, (1, 2)):
            labels = task.as_labels(prediction, top_k)
            row = task.to_row(labels)
            assert set(row) == set(schema.names), f"to_row gives {sorted(row)}, row_schema names {schema.names}"
            (stored,) = pa.Table.from_pylist([row], schema=schema).to_pylist()
            assert_equal(task.from_row(stored), labels, "labels read back from a row")

    def test_views(self) -> None:
        """An image looked at in several ways has one prediction all the same; looked at once, it is as by default."""
        task = self.task()
        model, batch = self.model(task), self.batch(task)
        with torch.no_grad():
            default, plain = task.predict(model, batch), task.predict(model, batch, (View(),))
            several = task.predict(model, batch, (View(0.5), View(flip=True), View(1.5, flip=True)))
        assert_equal(list(map(task.as_labels, plain)), list(map(task.as_labels, default)), "a single plain view")
        assert len(several) == len(batch), f"{len(several)} predictions of {len(batch)} images seen in three ways"
        looked = list(map(task.as_labels, several))
        assert not is_equal(looked, list(map(task.as_labels, default))), "the views change no prediction"

    def test_labels_at_the_images_own_size(self) -> None:
        """`at_original` gives labels in the image's own pixels, and the writer a file or files of all of them."""
        task = self.task()
        with torch.no_grad():
            predictions = task.predict(self.model(task), self.batch(task))
        with TemporaryDirectory() as folder:
            writer = task.writer(Path(folder))
            for number, (size, prediction) in enumerate(zip(self.sizes, predictions, strict=True)):
                labels = task.at_original(prediction)
                if isinstance(labels, MaskLabels):
                    assert labels.classes_HW.shape == size, f"an image of {size} has a map of {labels.classes_HW.shape}"
                path = writer.write(f"deep/image-{number}", labels, size, Path(f"deep/image-{number}.jpg"))
                assert path is None or path.is_file(), f"the writer says it wrote {path}, which is not there"
            writer.close()
            assert any(each.is_file() for each in Path(folder).rglob("*")), "the writer has written nothing"

    def test_targets_have_fixed_shapes(self) -> None:
        """Targets have the same shapes and types whatever the image's size and whoever labelled it."""
        task = self.task()
        shapes = {}
        for number, size in enumerate((*self.sizes, (1, 1))):
            geometry = Geometry.fit(size, self.canvas)
            scored = self.labels(size, number, scored=True)
            for what, targets in (
                ("human", task.to_targets(self.labels(size, number, scored=False), None, geometry)),
                ("kept", task.to_targets(scored, decisions(scored), geometry)),
                ("dropped", task.to_targets(scored, decisions(scored, DROP), geometry)),
            ):
                shapes[f"{what} {size}"] = {
                    name: (tuple(value.shape), value.dtype)
                    for name, value in vars(targets).items()
                    if value is not None
                }
        first = next(iter(shapes.values()))
        for what, shape in shapes.items():
            assert shape == first, f"targets of {what} are {shape}, others {first}"
        if "mask_BHW" in first:
            assert first["mask_BHW"] == (self.canvas, torch.uint8), (
                f"a mask is uint8 of the canvas: {first['mask_BHW']}"
            )

    def test_decisions_are_honoured(self) -> None:
        """Keeping all at weight 1 is as no decision; ignoring and dropping take labels away; weights count."""
        task = self.task()
        model, batch = self.model(task), self.batch(task)
        for number, size in enumerate(self.sizes):
            labels, geometry = self.labels(size, number, scored=True), Geometry.fit(size, self.canvas)
            kept = task.to_targets(labels, decisions(labels), geometry)
            assert_equal(kept, task.to_targets(labels, None, geometry), "targets with all kept at weight 1")
        total = sum(count.sum() for count in task.counts(batch.targets).values())
        for name, action in (("IGNORED", IGNORED), ("DROP", DROP)):
            taken = self.batch(task, action=action)
            rest = sum(count.sum() for count in task.counts(taken.targets).values())
            assert rest < total, f"with every label {name} the counts are {rest}, with every label kept {total}"
        light = self.losses(task, model, self.batch(task, weight=0.25))
        full = self.losses(task, model, batch)
        assert any((light[name] < full[name]).all() for name in full), "the weight of a label changes no loss"

    def test_apply(self) -> None:
        """`apply` gives labels back, leaves its input alone, and takes out what is refused."""
        task = self.task()
        labels, untouched = (self.labels(self.sizes[0], 0, scored=True) for _ in range(2))
        assert_equal(task.apply(labels, decisions(labels)), untouched, "labels with all kept")
        dropped = task.apply(labels, decisions(labels, DROP))
        assert_equal(labels, untouched, "labels after apply")
        assert not is_equal(dropped, untouched), "apply takes nothing out where everything is dropped"

    def test_decide(self) -> None:
        """The policy is asked about every score, and its answer is handed on."""
        task = self.task()
        labels = self.labels(self.sizes[1], 5, scored=True)
        decided = task.decide(labels, FixedDecision(0.5, None))
        assert isinstance(decided, Decisions), f"decide returns {type(decided).__name__}"
        assert decided.actions.shape == decided.weights.shape == num_scores(labels), (
            f"decisions have shape {decided.actions.shape}, the scores {num_scores(labels)}"
        )
        none_kept = task.decide(labels, FixedDecision(1.1, None))
        assert (none_kept.actions == DROP).all(), "decide does not hand on what the policy says"

    def test_statistics(self) -> None:
        """Statistics count one image, and each class it holds."""
        task = self.task()
        for scored in (False, True):
            found = task.statistics(self.labels(self.sizes[0], 1, scored=scored))
            assert found.num_images == 1, f"one image is counted as {found.num_images}"
            assert found.images_C.shape == (len(self.classes),), f"images_C has shape {found.images_C.shape}"
            assert found.histogram_CS.shape[0] == len(self.classes), f"histogram has shape {found.histogram_CS.shape}"
            held = found.histogram_CS.sum(1) > 0
            assert held.any() and (held == (found.images_C > 0)).all(), "images_C and the histogram disagree"

    def test_metric(self) -> None:
        """The metric gives finite numbers, the headline one among them; a perfect prediction scores highest."""
        task = self.task()
        with torch.no_grad():
            predictions = task.predict(self.model(task), self.batch(task))
        metric = task.metric(torch.device("cpu"))
        for number, (size, prediction) in enumerate(zip(self.sizes, predictions, strict=True)):
            metric.update(prediction, self.labels(size, number, scored=False))
        found = metric.compute()
        assert task.metric_name in found, f"compute gives {sorted(found)}, not '{task.metric_name}'"
        assert all(np.isfinite(value) for value in found.values()), f"scores are not finite: {found}"
        assert found[task.metric_name] <= self.perfect_score(), f"{found} is better than perfect"

    def test_perfect_prediction(self) -> None:
        """A prediction that agrees with the truth scores `perfect_score`."""
        task = self.task()
        metric = task.metric(torch.device("cpu"))
        for number, size in enumerate(self.sizes):
            truth = self.labels(size, number, scored=False)
            prediction = self.perfect_prediction(truth, size)
            if prediction is None:
                raise SkipTest("the suite gives no perfect prediction")
            metric.update(prediction, truth)
        score = metric.compute()[task.metric_name]
        assert abs(score - self.perfect_score()) < 1e-3, f"a perfect prediction scores {score}"

    def test_draw(self) -> None:
        """A drawing has the image's size and type, shows something, and leaves the image alone."""
        task = self.task()
        for number, size in enumerate(self.sizes):
            image, untouched = picture(size, number), picture(size, number)
            for scored in (False, True):
                drawn = task.draw(image, self.labels(size, number, scored=scored))
                assert drawn.shape == image.shape and drawn.dtype == np.uint8, f"drawing: {drawn.shape} {drawn.dtype}"
                assert not np.shares_memory(drawn, image), "draw gives back the image itself"
                assert np.array_equal(image, untouched), "draw changes its input"
                assert not np.array_equal(drawn, image), "nothing is drawn"

    def test_legend(self) -> None:
        """The legend names the classes in order, each with a colour."""
        legend = self.task().legend()
        names = tuple(name for name, _ in legend)
        assert names == self.classes, f"the legend names {names}, the classes are {self.classes}"
        for name, colour in legend:
            is_colour = len(colour) == 3 and all(type(part) is int and 0 <= part <= 255 for part in colour)
            assert is_colour, f"the colour of '{name}' is {colour}; expected three ints in 0..255"

    def _assert_per_image(self, task: Task[Any, Any], values: dict[str, Tensor], images: int, what: str) -> None:
        names = [term.name for term in task.terms]
        assert set(values) == set(names), f"{what} are {sorted(values)}, terms {sorted(names)}"
        for name, value in values.items():
            assert value.shape == (images,), f"{what} '{name}' have shape {tuple(value.shape)}, expected ({images},)"
            assert value.is_floating_point(), f"{what} '{name}' are {value.dtype}, floating point was expected"
            assert torch.isfinite(value).all(), f"{what} '{name}' are not finite: {value}"
            assert (value >= 0).all(), f"{what} '{name}' are negative: {value}"


def _generators() -> tuple[Any, ...]:
    state = np.random.get_state(legacy=False)["state"]
    return torch.get_rng_state().tolist(), state["key"].tolist(), state["pos"], random.getstate()


def _chosen(batch: Batch, places: list[int]) -> Batch:
    return batch._map(lambda tensor: tensor[places])


def _assert_finite_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
