"""Importing and loading: ``python -m benchmarks.load``.

Each repeat is an interpreter of its own. The peer of the first load is Transformers' ``from_pretrained`` of the same
folder, model and processor, imports included on both sides.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Row, arguments, finish, pairs

__all__ = ["main"]

IMPORT = """
import json, sys, time
began = time.perf_counter()
import workbench
took = time.perf_counter() - began
heavy = sorted({"torch", "transformers"} & set(sys.modules))
began = time.perf_counter()
workbench.Trace
print(json.dumps({"import": took, "trace": time.perf_counter() - began, "heavy": heavy}))
"""

LOAD = """
import json, time
import workbench
began = time.perf_counter()
model = workbench.load(progress=False)
first = time.perf_counter() - began
again = []
for _ in range(200):
    began = time.perf_counter()
    same = workbench.load(progress=False)
    again.append(time.perf_counter() - began)
    assert same is model
print(json.dumps({"first": first, "again": sorted(again)[100]}))
"""

PEER = """
import json, time
from workbench.pocket import WEIGHTS
began = time.perf_counter()
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
AutoProcessor.from_pretrained(WEIGHTS, local_files_only=True)
AutoModelForMultimodalLM.from_pretrained(WEIGHTS, dtype=torch.float32, local_files_only=True)
print(json.dumps({"first": time.perf_counter() - began}))
"""


def fresh(code: str) -> dict[str, Any]:
    """Run code in a new interpreter; the JSON of its last line."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    args = arguments(__doc__, repeats=9).parse_args(argv)
    repeats = 1 if args.quick else args.repeats
    if not args.quick:
        fresh(IMPORT)  # byte-compiles, and fills the disk's cache
    imports = [fresh(IMPORT) for _ in range(repeats)]
    heavy = sorted({name for run in imports for name in run["heavy"]})
    assert not heavy, f"import workbench imports {heavy}"
    loads: list[dict[str, Any]] = []

    def ours() -> float:
        loads.append(fresh(LOAD))
        return float(loads[-1]["first"])

    warm_up = 0 if args.quick else 1
    first, peer = pairs(ours, lambda: float(fresh(PEER)["first"]), repeats=repeats, warm_up=warm_up)
    again = [run["again"] for run in loads[warm_up:]]
    return finish(
        [
            Row("import workbench", [run["import"] for run in imports], budget=0.3, facts={"heavy": heavy}),
            Row("workbench.Trace after it", [run["trace"] for run in imports]),
            Row("first load() of pocket", first, "from_pretrained", peer),
            Row("second load(), the same object", again, "the first", first, budget=0.001, facts={"same": True}),
        ],
        args,
    )


if __name__ == "__main__":
    sys.exit(main())
