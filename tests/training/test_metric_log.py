"""metrics.jsonl holds JSON, and is read whatever a kill has left of its last line."""

import json
import math

from igpt_jax.training.metric_log import METRICS, JsonlWriter, last_evaluation, read_metrics


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
