"""``selftrain pretrain``, ``teach``, ``label``, ``learn``, ``evaluate``: a run, one step at a time.

All work in the same folder as ``selftrain run``, which later skips what they have done.
"""

from __future__ import annotations

from typing import Any

import click

from selftrain.going import go
from selftrain.options import run_options
from selftrain_core.goals import Goal

round_option = click.option(
    "--round", "number", metavar="N", type=click.IntRange(min=1), default=1, show_default=True, help="Of which round."
)


@click.command()
@run_options
def pretrain(**options: Any) -> None:
    """Pre-train the backbone of CONFIG on images without labels, and leave its weights in the folder RUN.

    CONFIG says on which, under `pretraining`. All models of the run then start from them; so can those of another run,
    with `backbone.init: {name: simclr, checkpoint: RUN/pretraining/backbone.safetensors}`.
    """
    go(Goal("pretrain"), **options)


@click.command()
@run_options
def teach(**options: Any) -> None:
    """Train the teacher of CONFIG on the labelled images, and leave it in the folder RUN.

    It is validated while it trains. No model sees a test image: they are only checked, with all other labels, before
    the first step.
    """
    go(Goal("teach"), **options)


@click.command()
@run_options
@round_option
def label(number: int, **options: Any) -> None:
    """Let the teacher label the unlabelled images of CONFIG, and seal the labels in the folder RUN.

    What is missing before that is done first: the teacher, and the students of earlier rounds.
    """
    go(Goal("label", number), **options)


@click.command()
@run_options
@round_option
def learn(number: int, **options: Any) -> None:
    """Train the student of CONFIG on human and pseudo labels, and leave it in the folder RUN.

    What is missing before that is done first: the teacher, its labels, and earlier rounds.
    """
    go(Goal("learn", number), **options)


@click.command()
@run_options
def evaluate(**options: Any) -> None:
    """Score every model that is finished in the folder RUN on validation and test, and write the table.

    No model is trained.
    """
    go(Goal("evaluate"), **options)
