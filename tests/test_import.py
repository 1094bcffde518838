"""`import reverie` is light."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import time, torch
start = time.perf_counter()
import reverie
reverie.process.vp, reverie.Model
print(time.perf_counter() - start)
heavy = ("scipy", "sklearn", "matplotlib", "PIL", "yaml", "typer", "rich", "diffusers", "safetensors")
print([m for m in heavy if m in sys.modules and m not in before])
"""


def test_import_adds_less_than_half_a_second_to_torch() -> None:
    code = CODE.replace("start =", "import sys\nbefore = set(sys.modules)\nstart =", 1)
    for _ in range(2):  # a second chance for a busy machine
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds, extra = run.stdout.split("\n")[:2]
        assert extra == "[]"
        if float(seconds) < 0.5:
            break
    assert float(seconds) < 0.5
