"""The demo under load: ``python -m benchmarks.demo``.

A server in a process of its own, visitors in this one. Twenty visitors at once, each with a picture of his own, are
compared with one who is alone; every answer has to be the one that this picture got when it was asked about alone
(greedy, float32). Then requests one after the other, by visitors who come and go, while the server's memory is read.
"""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, arguments, finish

__all__ = ["main"]

SERVER = """
import sys, pathlib, gc
import workbench
from widgets.demo import Limits, build
limits = Limits(waiting=64, per_minute=100_000, per_address=1_000_000)
demo = build(workbench.load(progress=False), limits=limits)
_, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
print(url, flush=True)
for line in sys.stdin:
    gc.collect()
    status = pathlib.Path("/proc/self/statm")
    pages = int(status.read_text().split()[1]) if status.exists() else 0
    print(pages * 4096, len(demo.desk.line.places), len(demo.desk.runs), flush=True)
demo.close(verbose=False)
"""


class Server:
    """The demo in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = ""
        while not self.url.startswith("http"):
            self.url = self._line()

    def state(self) -> tuple[int, int, int]:
        """Bytes of memory (0 where they cannot be read), visitors in line, answers kept."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        memory, places, kept = map(int, self._line().split())
        return memory, places, kept

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server ended"
        return line.strip()


def pictures(folder: Path, count: int) -> list[Path]:
    """As many pictures, no two alike: a bright square on its own place and ground."""
    import PIL.Image

    made = []
    for k in range(count):
        image = PIL.Image.new("RGB", (288, 192), (250, 250, 250 - 8 * (k % 20)))
        image.paste(((37 * k) % 256, (91 * k) % 200, (151 * k) % 256), (12 * (k % 16), 40, 12 * (k % 16) + 60, 100))
        made.append(folder / f"{k}.png")
        image.save(made[-1])
    return made


def ask(client: Any, picture: Path) -> str:
    """One greedy answer about a picture."""
    from gradio_client import handle_file

    text, _ = client.predict(
        "What do you see?", images=[handle_file(str(picture))], temperature=0, max_new_tokens=16, api_name="/ask"
    )
    return str(text)


def main() -> int:
    """Measure and print; the exit status is 1 when an answer was a wrong one, or with --check when memory grew."""
    args = arguments(__doc__, repeats=3).parse_args()
    from gradio_client import Client

    visitors, requests = (4, 24) if args.quick else (20, 500)
    repeats = 1 if args.quick else args.repeats
    server = Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = pictures(Path(folder), visitors)
            clients = [Client(server.url, verbose=False) for _ in range(visitors)]
            right = [ask(clients[0], file) for file in files]  # alone; the first ones also warm up
            ours, theirs, wrong = [], [], 0
            for _ in range(repeats):
                began = time.perf_counter()
                for file in files:
                    ask(clients[0], file)
                theirs.append(time.perf_counter() - began)
                began = time.perf_counter()
                with concurrent.futures.ThreadPoolExecutor(visitors) as pool:
                    said = list(pool.map(ask, clients, files))
                ours.append(time.perf_counter() - began)
                wrong += sum(a != b for a, b in zip(said, right, strict=True))
            for one in clients:
                one.close()
            memory, each = [server.state()[0]], []
            client = Client(server.url, verbose=False)
            for k in range(requests):
                if k % 25 == 24:  # somebody else comes
                    client.close()
                    client = Client(server.url, verbose=False)
                began = time.perf_counter()
                wrong += ask(client, files[k % visitors]) != right[k % visitors]
                each.append(time.perf_counter() - began)
                if (k + 1) % (requests // 4) == 0:
                    memory.append(server.state()[0])
            client.close()
        _, places, kept = server.state()
    finally:
        server.close()
    grown = memory[-1] - memory[1]
    rows = [
        Row(f"{visitors} answers, {visitors} visitors at once", ours, "one after the other", theirs,
            facts={"wrong": wrong, "visitors": visitors}),
        Row(f"one of {requests} answers in turn", each, facts={"memory": memory, "in_line": places, "kept": kept}),
    ]  # fmt: skip
    status = finish(rows, args)
    print(f"\nwrong answers: {wrong} of {visitors * repeats + requests}; left in line: {places}; answers kept: {kept}")
    print(f"memory of the server, MB: {', '.join(f'{m / 1e6:.0f}' for m in memory)} (before, then each quarter);"
          f" grown over the last three quarters: {grown / 1e6:.1f}")  # fmt: skip
    return 1 if wrong or places or (args.check and grown > 50e6) else status


if __name__ == "__main__":
    sys.exit(main())
