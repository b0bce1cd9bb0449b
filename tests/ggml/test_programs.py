"""The example, and a slice of the storm of random operations (`python -m tests.ggml.storm SEED STEPS`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ggml import storm

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "ggml_matmul.py"), "256"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    errors = {line.split()[0]: float(line.split()[-1]) for line in done.stdout.splitlines()}
    assert list(errors) == ["numpy", "F32", "F16", "Q8_0", "Q4_K"]
    assert errors["numpy"] == 0 and errors["F32"] < 1e-3 and errors["Q8_0"] < 0.02 and errors["Q4_K"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_random_operations_end_in_exceptions_or_results(seed: int) -> None:
    status, text = storm.run(seed, 600)
    assert status == 0, text
    assert "computed" in text


def test_the_training_learns_digits_that_it_has_not_seen() -> None:
    example = str(ROOT / "examples" / "train_digits.py")
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    losses = [float(line.split()[3].rstrip(",")) for line in lines if line.startswith("epoch")]
    assert len(losses) == 12 and losses[-1] < 0.2 * losses[0]
    share, n = float(lines[-1].split()[0]), int(lines[-1].split()[3])
    assert n == 448 and share >= 90.0
