"""Reports hold a row for each label, and what was not measured is null."""

import json

from drawn_labels import LABELS, scenes
from predicted import judge, predicted, predicted_rows

from pipeline.datasets.dataset import LabelledImages
from pipeline.evaluation.report import MetricsReport, metrics_summary, report_metrics


def metrics_report(dataset: LabelledImages, *, task: str) -> MetricsReport:
    """Reports on a model that sees the cars of the first scene, and nothing else."""
    ids, label_of = predicted(scenes(1)[0])
    ids = ids * (ids >= 4)
    label_of = {key: label for key, label in label_of.items() if key >= 4}
    by = judge(task)
    [row] = predicted_rows([(ids, label_of)]).to_pylist()
    metric = by.judged(row["segments"], dataset.target(0), index=0)
    return report_metrics(
        metric,
        judge=by,
        predictions="model",
        dataset=dataset.uri,
        num_images=1,
        num_segments=2,
        seconds=1.234,
    )


def test_each_label_has_a_row_with_its_numbers(dataset: LabelledImages) -> None:
    found = json.loads(metrics_report(dataset, task="panoptic").to_json())
    assert [row["label"] for row in found["labels"]] == list(LABELS)
    assert [row["is_thing"] for row in found["labels"]] == [False, False, True, True]
    assert [row["pq"] for row in found["labels"]] == [0, 0, 0, 1]
    assert found["labels"][3]["true_positives"] == 2
    assert found["metrics"]["pq"] == 0.25
    assert found["metrics"]["pq_things"] == 0.5
    assert (found["num_images"], found["num_segments"], found["seconds"]) == (1, 2, 1.23)


def test_what_was_not_measured_is_null(dataset: LabelledImages) -> None:
    found = json.loads(metrics_report(dataset, task="instance").to_json())
    assert [row["ap"] for row in found["labels"]] == [None, None, 0, 1]
    assert found["metrics"]["ap"] == 0.5
    assert found["metrics"]["ap_large"] is None  # no object is


def test_people_see_percent_and_the_worst_labels_first(dataset: LabelledImages) -> None:
    text = metrics_summary(metrics_report(dataset, task="panoptic"), files=["/out/metrics.json"])
    lines = text.splitlines()
    assert "panoptic, 1 image, in percent" in lines[0]
    assert any("25.00" in line for line in lines)
    rows = [line for line in lines if any(f" {name} " in line for name in LABELS)]
    assert "car" in rows[-1]
    assert "100.00" in rows[-1]
    assert lines[-1] == "/out/metrics.json"
    assert max(map(len, lines)) <= 100
