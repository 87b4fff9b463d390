"""A whole job with `--engine onnx`, on scenes that the sample model knows."""

import json
from pathlib import Path

import pytest
from as_files import encode_image
from drawn import written
from job_runs import Here, Jobs
from table_rows import rows_of

from jobs import segment_corpus
from pipeline.demo.demo import SAMPLE_MODEL
from pipeline.demo.scenes.scene import draw_scene

pytestmark = pytest.mark.timeout(900)


def encoded_scene(index: int) -> bytes:
    return encode_image(draw_scene(index, seed=5).pixels)


@pytest.mark.faults  # test_engines.py has the same rows without a job
def test_a_job_with_onnx_labels_scenes_and_binds_its_table(
    jobs: Jobs, here: Here, graphs: Path, tmp_path: Path
) -> None:
    corpus = written(
        tmp_path / "corpus", {f"{index}.png": encoded_scene(index) for index in range(4)}
    )
    table = tmp_path / "table"
    options = {"corpus": corpus, "table": table, "model": SAMPLE_MODEL, "num_actors": 1}
    jobs.run(engine="onnx", local=True, **options).expect(0)
    rows = rows_of(table)
    assert [row["status"] for row in rows.images] == ["ok"] * 4
    assert {"sky", "ground"} & {row["label"] for row in rows.segments}
    assert json.loads((table / "_table.json").read_text())["engine"] == "onnx"
    # On the same table: nothing is left to do, and nothing is done by torch.
    done = here(segment_corpus.main, engine="onnx", **options)
    assert (done.exit_code, "nothing to do" in done.stderr) == (0, True)
    refused = here(segment_corpus.main, **options)
    assert 'engine: the table has "onnx", this run "torch"' in refused.one_line
