"""The main loop: teacher → pseudo labels → student, as in Zoph et al. 2020, section 3.

Each stage is a process of its own (`selftrain_core.stage`); this one never imports torch. A finished stage is skipped,
an interrupted one goes on where it stopped, a changed one is refused: the same command can always be given again. What
a stage depends on, and therefore what counts as a change, is in `selftrain_core.workshop`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain_core.config import RunConfig
from selftrain_core.progress import Observer, quiet
from selftrain_core.report import write_summary
from selftrain_core.run_folder import RunFolder, Stage
from selftrain_core.workshop import Workshop


def self_train(
    config: RunConfig,
    folder: Path,
    observer: Observer = quiet,
    *,
    in_process: bool = False,
    start_over: bool = False,
) -> dict[str, Any]:
    """Return the summary of a whole run, and leave everything it made in `folder`.

    Args:
        config: What to do.
        folder: Where everything is left; see the README for what lies where.
        observer: Told what happens.
        in_process: Run the stages in this process, for tests and debuggers.
        start_over: Make stages whose settings or data have changed again, instead of refusing.

    Raises:
        SelftrainError: Something is wrong with the configuration, the data or the folder; the message says what.
    """
    with RunFolder(folder, start_over=start_over) as run:
        work = Workshop(config, run, observer, in_process=in_process)
        rounds(work, config)  # A rehearsal, in which nothing is done: a changed stage is refused before any is touched.
        work.begin()
        models = rounds(work, config)
        return write_summary(run, config, [model.name for model in models])


def rounds(work: Workshop, config: RunConfig) -> list[Stage]:
    """Return the models made: the teacher, the student of each round, and the baseline they are measured against."""
    # A teacher is trained on the human labels (§3.2).
    teacher = work.teach()
    work.evaluate(teacher)
    models, stores = [teacher], []

    for number in range(1, config.rounds + 1):
        # It labels the unlabelled images; the scores are kept, the policy decides when they are read.
        labels = work.label(teacher, number)
        # A student is trained on human and pseudo labels jointly, with the normalised loss (Appendix B).
        student = work.learn(teacher, labels, number)
        work.evaluate(student)
        # The student is the teacher of the next round; the paper has one round.
        models.append(student)
        stores.append(labels)
        teacher = student

    if config.baseline:
        # Not in the paper: supervised training on as many images as all of the models above saw.
        baseline = work.learn_supervised(models)
        work.evaluate(baseline)
        models.append(baseline)

    work.draw(models, stores[0])
    return models
