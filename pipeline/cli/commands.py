"""Commands: the sub-commands of `maskformer` by name, with all that help and completion say.

Imports nothing: settings and functions are named, and loaded by the command that is run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Command:
    """A sub-command: what it is for, what it takes and what it runs."""

    name: str
    summary: str
    """A line of the list of commands."""
    details: str = ""
    """More lines, for its own help."""
    parts: str
    """The dataclasses of its settings, as module:name."""
    run: str
    """The function that takes the settings and gives the exit code, as module:name."""
    usual: str
    """The options of the short help, in order, with spaces between them."""
    examples: Sequence[str]
    """The words after `maskformer`, each a line of help."""
    positional: Sequence[str] = ()
    """Settings that need no name, in order."""
    preset: str | None = None
    """An option whose name stands for many settings: a dataclass with one field, as module:name."""
    preset_names: str | None = None
    """The function that gives all such names, as module:name."""
    preset_values: str | None = None
    """The function that gives the settings of such a name, as module:name."""
    preset_comment: str | None = None
    """The function that says what such a name is, as module:name."""
    takes_command: bool = False
    """Everything after `--` is a command that it passes on."""
    announces: bool = False
    """The function takes an `announcer`, and says by it what it is doing."""
    shows_status: bool = False
    """The function takes a `status`, and shows by it what it does before its work begins."""
    when_stopped: str = "run the same command again to go on"
    """What a user who pressed Ctrl-C reads."""

    @property
    def kinds(self) -> tuple[type, ...]:
        """The dataclasses of its settings."""
        return tuple(load_named(self.parts))

    @property
    def preset_kind(self) -> type | None:
        """The dataclass of its preset."""
        return None if self.preset is None else load_named(self.preset)

    def function(self) -> Callable[..., int]:
        """Loads what it runs, with the libraries that this needs."""
        return load_named(self.run)


def load_named(name: str) -> Any:
    """Returns what `module:name` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


_COMMANDS = [
    Command(
        name="label",
        summary="Segment every image of a corpus into a table.",
        details=(
            "Run it again after any stop: finished units are skipped, each image counts once.\n"
            "Exit codes: 0 done, 2 wrong usage, 3 some images in error, 4 too many, 75 try again."
        ),
        parts="pipeline.labelling.settings:PARTS",
        run="pipeline.labelling.start:label_corpus",
        usual=(
            "corpus table model task threshold label_ids_to_fuse limit dry_run error_budget "
            "precision num_actors ray_address"
        ),
        shows_status=True,
        examples=(
            "label --corpus photos/ --table segments/ --model maskformer-swin-tiny-coco-panoptic",
            "label --corpus s3://bucket/shards-{000..010}.tar --table s3://bucket/t --model DIR",
        ),
    ),
    Command(
        name="nightly",
        summary="Label what is new in a corpus, until a deadline, and report.",
        details=(
            "For a scheduler: one run on a table at a time; a later run does what is left.\n"
            "Exit codes: 0 done, 2 wrong usage, 3 some images in error, 4 too many, 75 try again."
        ),
        parts="pipeline.nightly.settings:PARTS",
        run="pipeline.nightly.run:label_nightly",
        usual=(
            "corpus table model deadline settle_minutes success_marker retry_errors "
            "webhook_variable gpu_hour_price dry_run num_actors ray_address"
        ),
        examples=(
            "nightly --config configs/nightly/s3.yaml",
            "nightly --corpus s3://b/photos --table s3://b/t --model DIR --deadline 06:30",
        ),
    ),
    Command(
        name="evaluate",
        summary="Judge a model or a segment table by labelled images.",
        details="Prints the metrics; writes metrics.json, a confusion matrix and the worst images.",
        parts="pipeline.evaluation.settings:PARTS",
        run="pipeline.evaluation.run:evaluate",
        usual=(
            "model table dataset output task labels limit threshold augment window num_actors "
            "ray_address"
        ),
        examples=(
            "evaluate --model MODEL --dataset coco/val.json --task panoptic --output scores/",
            "evaluate --table segments/ --dataset val/ --task panoptic --output scores/",
        ),
        when_stopped="nothing was written",
    ),
    Command(
        name="train",
        summary="Train a model on labelled images.",
        details="Run it again after any stop: it goes on from the last checkpoint.",
        parts="pipeline.training.settings:PARTS",
        run="pipeline.training.run:finetune",
        preset="pipeline.training.recipes:RecipeSettings",
        preset_names="pipeline.training.recipes:recipe_names",
        preset_values="pipeline.training.recipes:recipe_settings",
        preset_comment="pipeline.training.recipes:recipe_comment",
        usual=(
            "recipe model dataset validation output task num_steps batch_size micro_batches "
            "learning_rate precision num_workers ray_address"
        ),
        examples=(
            "train --model MODEL --dataset train/ --validation val/ --output my-model/",
            "train --recipe swin-tiny-ade20k --print_config > mine.yaml",
            "train --config mine.yaml --dataset train/ --output my-model/ --num_workers 8",
        ),
        announces=True,
    ),
    Command(
        name="compare",
        summary="Compare two segment tables of the same images.",
        details=(
            "Writes a report with pictures, comparison.json, and a row per image (agreement).\n"
            "Exit codes: 0 done, 2 wrong usage, 75 try again."
        ),
        parts="pipeline.comparison.settings:COMPARE",
        run="pipeline.comparison.run:compare_tables",
        positional=("table_a", "table_b"),
        usual="table_a table_b output worst endpoint_url",
        examples=(
            "compare segments/ new-segments/ --output comparison/",
            "compare s3://bucket/t1 s3://bucket/t2 --output s3://bucket/comparison --worst 30",
        ),
    ),
    Command(
        name="select",
        summary="Choose the images of a table that are worth a look, as a queue.",
        details=(
            "The queue is a Parquet file for `maskformer review --queue`, and a corpus for any "
            "job.\nExit codes: 0 done, 2 wrong usage, 75 try again."
        ),
        parts="pipeline.comparison.settings:SELECT",
        run="pipeline.comparison.select_run:select_images",
        positional=("table",),
        usual="table by output count per_label seed agreement table_b reviews endpoint_url",
        examples=(
            "select segments/ --by unsure --per_label 50 --count 500 --output queue.parquet",
            "select segments/ --by disagree --agreement comparison/ --output queue.parquet",
        ),
        when_stopped="nothing was written",
    ),
    Command(
        name="verify",
        summary="Check a segment table: rows, run lengths, files, plans and reports.",
        details=(
            "Reads everything, writes nothing; runs may go on beside it.\n"
            "Exit codes: 0 sound, 1 not sound, 2 wrong usage, 3 not finished, 75 try again."
        ),
        parts="pipeline.maintenance.settings:VERIFY",
        run="pipeline.maintenance.verify.run:verify",
        positional=("table",),
        usual="table sample json examples num_threads endpoint_url",
        examples=("verify s3://bucket/table", "verify segments/ --sample 0.1 --json"),
        when_stopped="nothing was changed",
    ),
    Command(
        name="compact",
        summary="Join small files of a segment table; remove what crashes left.",
        details=(
            "May run at any time, beside runs and readers.\n"
            "Exit codes: 0 done, 1 a file is damaged, 2 wrong usage, 75 try again."
        ),
        parts="pipeline.maintenance.settings:COMPACT",
        run="pipeline.maintenance.compact.run:compact_table",
        positional=("table",),
        usual="table target_bytes remove_units_after_days endpoint_url",
        examples=("compact s3://bucket/table", "compact segments/ --remove_units_after_days 30"),
    ),
    Command(
        name="import",
        summary="Take corrections from COCO, CVAT or Label Studio back as reviews of a table.",
        details=(
            "FORMAT: coco_panoptic, coco_instances, cvat, label_studio, label_maps.\n"
            "Only images that differ get a review; importing a file twice adds nothing.\n"
            "Exit codes: 0 done, 2 wrong usage or file, 3 some images not taken, 75 try again."
        ),
        parts="pipeline.exchange.importing.settings:IMPORT",
        run="pipeline.exchange.importing.run:import_annotations",
        positional=("file",),
        usual="file table format reviewer exported overlaps dry_run findings",
        examples=(
            "import corrected.json --format coco_instances --table segments/ --reviewer ana",
            "import annotations.xml --format cvat --table s3://b/table --exported cvat/",
        ),
    ),
    Command(
        name="export",
        summary="Write a segment table in a format of other tools.",
        details=(
            "FORMAT: coco_panoptic, coco_instances, label_maps, cvat, label_studio, hf,\n"
            "webdataset, yolo. Run it again after any stop: OUTPUT ends the same, and holds\n"
            "export.json once it is whole.\n"
            "Exit codes: 0 done, 2 wrong usage, 3 some photographs missing, 75 try again."
        ),
        parts="pipeline.exchange.settings:EXPORT",
        run="pipeline.exchange.exporting.run:export_table",
        positional=("table", "output"),
        usual=(
            "table output format labels min_score where segments splits images image_root "
            "shard_images reviewed endpoint_url"
        ),
        examples=(
            "export segments/ coco/ --format coco_panoptic --splits train=0.9,val=0.1",
            "export s3://b/table s3://b/yolo --format yolo --labels car,person --min_score 0.9",
            'export segments/ hub/ --format hf --where "area > 400 AND score > 0.8"',
        ),
    ),
    Command(
        name="gallery",
        summary="Look at a segment table in a browser.",
        details=(
            "Reads only. Prints an address for this machine's browser; Ctrl-C ends it.\n"
            "Exit codes: 0 ended by Ctrl-C, 2 wrong usage, 75 the table cannot be read now."
        ),
        parts="pipeline.review_page.settings:GALLERY",
        run="pipeline.review_page.server:show_gallery",
        positional=("table",),
        usual="table reviews agreement image_root port host no_open endpoint_url",
        examples=("gallery segments/", "gallery s3://bucket/table --port 8000 --no_open"),
        when_stopped="nothing was changed",
    ),
    Command(
        name="review",
        summary="Look at a segment table in a browser, and correct it.",
        details=(
            "Each save is a new revision beside the table; its rows stay as they are.\n"
            "Exit codes: 0 ended by Ctrl-C, 2 wrong usage, 75 the table cannot be read now."
        ),
        parts="pipeline.review_page.settings:REVIEW",
        run="pipeline.review_page.server:review_table",
        positional=("table",),
        usual=(
            "table queue reviews reviewer agreement image_root port host no_open public_address "
            "endpoint_url"
        ),
        examples=(
            "review segments/ --queue unsure.parquet",
            "review s3://bucket/table --reviews s3://mine/reviews --reviewer ana",
        ),
        when_stopped="what was saved stays; the browser keeps its drafts",
    ),
    Command(
        name="zoo",
        summary="List the published models: name, size, labels, score.",
        details="Each name can be given to --model; the weights are downloaded once.",
        parts="pipeline.cli.settings:ZOO",
        run="pipeline.cli.zoo:show_zoo",
        usual="",
        examples=("zoo",),
    ),
    Command(
        name="convert",
        summary="Write weights of any dialect in the transformers format.",
        parts="pipeline.cli.settings:CONVERT",
        run="pipeline.cli.convert:convert_model",
        positional=("source", "folder"),
        usual="source folder name config dtype allow_missing allow_unexpected",
        examples=(
            "convert model_final_d8dbeb.pkl my-model/ --name maskformer-resnet50-ade20k",
            "convert my-model/ my-model-fp16/ --dtype float16",
        ),
    ),
    Command(
        name="demo",
        summary="Draw scenes; label, look, correct, train, compare and export.",
        details=(
            "Prints each command that it runs. Needs no network and no GPU; two minutes on two\n"
            "cores. The screenshot needs playwright and Chromium."
        ),
        parts="pipeline.cli.settings:DEMO",
        run="pipeline.cli.demo:demo",
        usual="output",
        examples=("demo", "demo --output /tmp/demo"),
    ),
    Command(
        name="submit",
        summary="Submit a command to a Ray cluster once, and end as it ends.",
        details="Run it again after any stop: a job that runs is followed, one that is done stays.",
        parts="pipeline.nightly.settings:SUBMIT",
        run="pipeline.nightly.submission:submit_command",
        usual="submission_id address working_dir",
        examples=(
            "submit --submission_id label-2026-01-20 -- jobs/label_nightly.py --config FILE",
        ),
        takes_command=True,
    ),
    Command(
        name="doctor",
        summary="Say what this machine and cluster offer, and what is missing.",
        details="Exit codes: 0 all right, 2 something must be set right, 75 try again later.",
        parts="pipeline.cli.settings:DOCTOR",
        run="pipeline.cli.doctor:doctor",
        usual="model corpus table ray_address endpoint_url region",
        examples=(
            "doctor",
            "doctor --model MODEL --corpus s3://bucket/photos --table s3://bucket/table",
        ),
    ),
]

COMMANDS: Mapping[str, Command] = {command.name: command for command in _COMMANDS}
