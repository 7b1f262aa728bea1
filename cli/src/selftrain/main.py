"""The ``selftrain`` command line: what commands there are, and what their exit codes mean."""

from __future__ import annotations

import click

from selftrain import __version__
from selftrain.lazy import LazyCommand, LazyGroup
from selftrain_core.errors import RunError, SelftrainError, StageFailedError, StoreError

EXIT_CODES: dict[type[SelftrainError], int] = {
    StageFailedError: 4,
    RunError: 3,
    StoreError: 3,
    SelftrainError: 2,  # configuration, component, plugin or data: what the user gave
}

COMMANDS = {
    "run": LazyCommand("selftrain.run:run", "Teach, label, learn, evaluate: everything a configuration says."),
    "pretrain": LazyCommand("selftrain.stage_commands:pretrain", "Pre-train the backbone, and stop there."),
    "teach": LazyCommand("selftrain.stage_commands:teach", "Train the teacher, and stop there."),
    "label": LazyCommand("selftrain.stage_commands:label", "Let the teacher label the pool, and stop there."),
    "learn": LazyCommand("selftrain.stage_commands:learn", "Train the student, and stop there."),
    "evaluate": LazyCommand("selftrain.stage_commands:evaluate", "Score the models that are finished; train none."),
    "predict": LazyCommand("selftrain.predict:predict", "Predict on any images: masks or boxes, drawings, and a list."),
    "labels": LazyCommand("selftrain.labels_command:labels", "Count, export or correct the labels of a teacher."),
    "init": LazyCommand("selftrain.init_command:init", "Write a configuration that fits a data folder and a time."),
    "demo": LazyCommand("selftrain.demo:demo", "See it work in minutes: no data, no download, no GPU."),
    "split": LazyCommand("selftrain.split_command:split", "Write lists of labelled fractions, stratified by class."),
    "augment": LazyCommand("selftrain.augment_command:augment", "See what an augmentation does to your images."),
    "recipes": LazyCommand("selftrain.recipes_command:recipes", "The paper's experiments as configurations."),
    "plan": LazyCommand("selftrain.plan_command:plan", "Count a model's size, and how a step fits a device."),
    "plugins": LazyCommand("selftrain.plugins_command:plugins", "List plugins, and what they offer."),
    "config": LazyCommand(
        "selftrain.config_command:config", "Show a configuration, how two differ, or the schema of all."
    ),
}

EPILOG = """\b
Exit codes:
  0    done
  1    a bug, with its traceback
  2    the command line, the configuration, a plugin or the data is wrong
  3    a run folder or a pseudo-label store cannot be used
  4    a stage failed
  130  interrupted (Ctrl-C); the same command goes on where it stopped
  143  terminated (SIGTERM); the same command goes on where it stopped
"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    exit_codes=EXIT_CODES,
    plugins=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="selftrain")
def main() -> None:
    """A better detector or segmenter from some labelled images and a pile of unlabelled ones.

    A teacher learns from the labelled images and labels the others; a student learns from both.
    """
