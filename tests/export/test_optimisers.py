"""onnxruntime's optimisers that are left out on a CPU: ATD's graphs give them nothing to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto

from ppsr.export.attention_nodes import bodies
from ppsr.runtime.artefact import ACTIVE, INPUT
from ppsr.runtime.ort import CPU, FATAL, LEFT_OUT

TUNINGS = pytest.mark.parametrize("tuning", ["any", "onnxruntime"])


def operators(graph: GraphProto) -> Counter[str]:
    """Those in bodies and branches too."""
    return Counter(node.op_type for one in (graph, *bodies(graph)) for node in one.node)


@TUNINGS
def test_they_find_nothing_that_counts(
    tmp_path: Path, graph: Callable, photo: Callable, tuning: str
) -> None:
    """But for what works on a dictionary or on one number."""
    source = graph("tiny", "routed", tuning=tuning)[0].SerializeToString()
    image = np.float32(photo("coffee", 48, 64).transpose(2, 0, 1)[None] / 255)
    feed = {INPUT: image, ACTIVE: np.arange(0, 48 * 64, 2)}
    counts, outputs = [], []
    for left_out in (None, LEFT_OUT):
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = FATAL, 1
        options.optimized_model_filepath = str(tmp_path / f"{len(counts)}.onnx")
        session = ort.InferenceSession(
            source, options, providers=[CPU], disabled_optimizers=left_out
        )
        outputs.append(session.run(None, feed)[0])
        optimised = onnx.load(options.optimized_model_filepath)
        counts.append(operators(optimised.graph))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-6)
    assert set(counts[0] - counts[1]) <= {"FusedMatMul"}
    more = set(counts[1] - counts[0])
    assert more <= {"MatMul", "Transpose", "Less", "ReduceMin", "Add", "Expand"}
