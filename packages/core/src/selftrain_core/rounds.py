"""The main loop: teacher → pseudo labels → student, as in Zoph et al. 2020, section 3.

The loop says what is to be done and in which order; nothing is done while it is read. What a stage depends on, and
therefore what counts as a change, is in `selftrain_core.workshop`; how far a command goes is its goal
(`selftrain_core.goals`).

Each stage is then done in a process of its own (`selftrain_core.stage`); this one never imports torch. A finished stage
is skipped, an interrupted one goes on where it stopped, a changed one is refused: the same command can always be given
again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selftrain_core.config import RunConfig, dump_config
from selftrain_core.event_files import require_tensorboard
from selftrain_core.files import write_text
from selftrain_core.goals import EVERYTHING, Goal
from selftrain_core.launch import launch
from selftrain_core.progress import Event, Observer, quiet
from selftrain_core.report import stage_report, write_summary
from selftrain_core.run_folder import RunFolder, Stage
from selftrain_core.workshop import Workshop, scan, take_over


def rounds(work: Workshop, config: RunConfig) -> None:
    """Put down everything that a run is made of: the teacher, the student of each round, and what they are held to."""
    if config.pretraining is not None:
        # The paper's other question: what pre-training without labels is worth (§4, SimCLR).
        work.pretrain()
    # A teacher is trained on the human labels (§3.2).
    teacher = work.teach()
    work.evaluate(teacher)
    if config.data.unlabelled is None:
        return
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


def self_train(
    config: RunConfig,
    folder: Path,
    observer: Observer = quiet,
    *,
    goal: Goal = EVERYTHING,
    in_process: bool = False,
    start_over: bool = False,
) -> dict[str, Any]:
    """Return what came of going as far as `goal`, and leave everything that was made in `folder`.

    Args:
        config: What to do.
        folder: Where everything is left; see the README for what lies where.
        observer: Told what happens.
        goal: How far to go: by default a whole run.
        in_process: Run the stages in this process, for tests and debuggers.
        start_over: Make stages whose settings or data have changed again, instead of refusing.

    Returns:
        The summary, where the goal is a whole run or an evaluation; else a report on each stage that it needed.

    Raises:
        SelftrainError: Something is wrong with the configuration, the data or the folder; the message says what.
    """
    require_tensorboard(config)
    with RunFolder(folder) as run:
        work = Workshop(config, scan(config, run.path))
        rounds(work, config)
        stages = goal.choose(work.stages, run)
        # A changed stage is refused before any is touched, also one that is not asked for: the folder has one
        # configuration and one list of images, which everything in it goes by.
        run.refuse_changes(work.stages, start_over=start_over)
        _take_over(run, config)
        made = [_do(run, stage, observer, in_process=in_process) for stage in stages]
        if goal.has_summary:
            return write_summary(run, config, [stage.inputs["model"] for stage in stages if stage.kind == "evaluate"])
        reports = [stage_report(run, stage, made=new) for stage, new in zip(stages, made, strict=True)]
        return {"schema": 1, "stages": reports}


def _take_over(run: RunFolder, config: RunConfig) -> None:
    """Make the folder this configuration's: from here on stages are done."""
    take_over(config, run.path)
    write_text(run.path / "config.yaml", dump_config(config))


def _do(run: RunFolder, stage: Stage, observer: Observer, *, in_process: bool) -> bool:
    """Have a stage done, and return whether there was anything to do."""
    if run.standing(stage).state == "finished":
        observer(Event("skipped", stage.name, text=run.other_versions(stage.name)))
        return False
    launch(run, stage, observer, in_process=in_process)
    return True
