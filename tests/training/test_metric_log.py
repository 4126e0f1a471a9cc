"""metrics.jsonl holds JSON, and is read whatever a kill has left of its last line."""

import contextlib
import json
import math

from igpt_jax.training.metric_log import METRICS, JsonlWriter, MetricLog, last_evaluation, read_metrics
from tests.data.made import refused


def test_numbers_that_are_not_finite_are_null_and_torn_lines_are_not_read(tmp_path):
    writer = JsonlWriter(tmp_path, 0)
    writer.write(2, {"eval/nats": 1.5, "eval/nats_se": math.nan})
    writer.write(4, {"train/loss": 1.0})
    writer.close()
    path = tmp_path / METRICS
    assert json.loads(path.read_text().splitlines()[0])["eval/nats_se"] is None
    path.write_text(path.read_text() + '{"step": 9, "tra')
    assert [record["step"] for record in read_metrics(tmp_path)] == [2, 4]
    assert last_evaluation(tmp_path, None) == {"step": 2, "nats": 1.5}
    assert last_evaluation(tmp_path, 1) == {}
    JsonlWriter(tmp_path, 3).close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [2]


def test_a_full_disk_is_one_line(tmp_path):
    writer = JsonlWriter(tmp_path, 0)
    writer.close()
    writer._file = open("/dev/full", "a")  # noqa: SIM115
    log = MetricLog([writer], 1, 1, float)
    refused(r"metrics of step 3 could not be written \(No space left on device\)", log.write, 3, {"train/loss": 1.0})
    with contextlib.suppress(OSError):  # what is left in its buffer
        writer.close()
