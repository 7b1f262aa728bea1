"""Training one model from a recipe: builds the Trainer and the loader, and lets Lightning run them."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Subset

from selftrain_core.distributed import gather_objects
from selftrain_core.errors import ConfigError, DataError
from selftrain_core.interfaces import Accelerator
from selftrain_core.recorder import Recorder
from selftrain_core.samples import StepDataset
from selftrain_core.stepping import StepModule


def fit(
    module: StepModule,
    dataset: StepDataset,
    recorder: Recorder,
    accelerator: Accelerator,
    *,
    devices: int = 1,
    workers: int = 0,
) -> None:
    """Train `module` until its recipe's last step, from wherever its recorder's checkpoint stands.

    Args:
        module: The model in training.
        dataset: ``dataset[t]`` is step t, for one rank; its rank and ranks are set here.
        recorder: Logs, validates, saves.
        accelerator: The kind of device.
        devices: How many of them, each one rank.
        workers: Processes per rank that read images.

    Raises:
        ConfigError: A step has fewer images of every stream than there are ranks and micro-batches.
        DataError: A labelled image cannot be used.
        StageFailedError: The loss stayed non-finite.
    """
    parts = devices * dataset.micro_batches
    largest = min(max(stream.images_per_step for stream in group.streams) for group in dataset.groups)
    if largest < parts:
        raise ConfigError(
            f"a step of {largest} images cannot be shared by {devices} devices × {dataset.micro_batches} "
            "micro-batches\n  lower device.devices or device.micro_batches"
        )
    start = recorder.next_step()
    if start >= module.recipe.steps:
        # Killed after the last step, before the stage was marked as finished: there is nothing left to train.
        recorder.resume(module, finished=True)
        return
    trainer = pl.Trainer(
        **accelerator.trainer_settings(devices),
        max_epochs=1,
        logger=False,
        callbacks=[recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data = _Data(dataset, start, module.recipe.steps, workers)
    with warnings.catch_warnings():
        # Lightning wants as many workers as processors; here the configuration decides.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6's own use of a torch function that torch 2.15 deprecates.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        trainer.fit(module, datamodule=data)


class _Data(pl.LightningDataModule):
    """Gives Lightning the loader once the ranks are known."""

    def __init__(self, dataset: StepDataset, start: int, stop: int, workers: int) -> None:
        super().__init__()
        self._dataset, self._start, self._stop, self._workers = dataset, start, stop, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the remaining steps, in order."""
        assert self.trainer is not None
        if len(set(gather_objects(self._dataset.fingerprint()))) > 1:
            raise DataError("the ranks see different images: do all of them read the same run folder?")
        self._dataset.rank, self._dataset.ranks = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(
            Subset(self._dataset, range(self._start, self._stop)),
            batch_size=None,
            shuffle=False,
            num_workers=self._workers,
            collate_fn=_as_is,
            prefetch_factor=4 if self._workers else None,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def _as_is(item: Any) -> Any:
    return item


def silence_lightning() -> None:
    """Keep Lightning's banners out of the log; warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
