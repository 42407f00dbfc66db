"""The demo, asked by many visitors at once through gradio_client, with a model made of nothing but its words."""

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import PIL.Image
import pytest
import soundfile

from tests.traces import INFO, make_trace
from workbench.errors import MediaError, TraceError, WorkbenchError
from workbench.trace import Trace

pytest.importorskip("gradio")
from gradio_client import Client, handle_file

from widgets.demo import Limits, Replay, build, command, line
from widgets.demo.desk import Desk, Question, Visitor
from widgets.demo.guard import client as address_of
from widgets.demo.uploads import Uploads

ROOT = Path(__file__).resolve().parents[1]
# Gradio's and its server's own; nothing of ours
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LIMITS = Limits(waiting=32, per_minute=1000, per_address=100_000, tokens=64, upload=4 << 20)
get, post = (functools.partial(call, timeout=60) for call in (httpx.get, httpx.post))
EVIL = "<img src=x onerror=\"document.title='owned'\"> **bold** \x1b[31m \x00 {{7*7}} ${1+1} </script>"


def visit(url, **more):
    return Client(url, verbose=False, httpx_kwargs={"timeout": 60}, **more)


class Echo:
    """A model that says what it was given: the colour of the picture's corner, the length of the sound.

    It says four words, to "long…" as many as it may, and to "held…" none at all until it is stopped.
    """

    info = INFO
    drafter = None

    def __init__(self, pause=0.0):
        self.pause, self.running, self.most, self.asked, self.stopped = pause, 0, 0, 0, 0
        self.broken_off = []
        self._lock = threading.Lock()

    def ask(self, question, *, images=(), audio=(), max_new_tokens=128, on_token=None, stop=None, **more):
        with self._lock:
            self.running += 1
            self.asked += 1
            self.most = max(self.most, self.running)
        try:
            seen = [f"{'-'.join(map(str, image.pixels[0, 0]))}" for image in images]
            heard = [f"{len(sound.samples) / 16000:.1f}s" for sound in audio]
            text = " ".join([*seen, *heard, question[:200]])
            count = max_new_tokens if question.startswith(("long", "held")) else 4
            trace = make_trace(tokens=count, images=(), audio=(), text=text, question=question)
            for k, token in enumerate(trace.tokens):
                if stop.wait(300 if question.startswith("held") else self.pause):
                    self.stopped += 1
                    self.broken_off.append(question)
                    return replace(trace, finish="stopped")
                on_token(replace(token, index=k))
            return replace(trace, images=tuple(images), audio=tuple(audio))
        finally:
            with self._lock:
                self.running -= 1


@pytest.fixture(scope="module", autouse=True)
def swept():
    """Gradio leaves event loops unclosed: collected here, where it is known, not in a later test."""
    yield
    asyncio.set_event_loop(None)  # the last of them
    for _ in range(3):
        gc.collect()


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """A folder of their own for Gradio's files."""
    folder = tmp_path_factory.mktemp("gradio")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    yield folder
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture
def serve(uploads):
    """Serves a model; gives the address and the app."""
    running = []

    def served(model, limits=LIMITS, **how):
        demo = build(model, limits=limits)
        _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=command._port("127.0.0.1", 0), **how)
        running.append(demo)
        return url, demo

    yield served
    for demo in running:
        demo.close(verbose=False)


@pytest.fixture(scope="module")
def echo(uploads):
    """One server for the tests that leave it as it was."""
    demo = build(Echo(), limits=LIMITS)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_port=command._port("127.0.0.1", 0))
    yield url, demo
    demo.close(verbose=False)


@pytest.fixture
def visitor(echo):
    one = visit(echo[0])
    yield one
    one.close()


def png(path, colour, size=(60, 36)):
    PIL.Image.new("RGB", size, colour).save(path)
    return handle_file(str(path))


@pytest.fixture
def kept(tmp_path):
    """Uploads in a folder of their own, beside which other files lie."""
    (tmp_path / "uploads").mkdir()
    return Uploads(tmp_path / "uploads")


def _functions(demo, *names):
    """What Gradio calls the demo's functions by."""
    return [k for k, one in demo.fns.items() if one.api_name.removesuffix("_1") in names]


def asked_of(url, function, session, *data):
    """Ask as the page does; gives all that the server says until it is done."""
    body = {"fn_index": function, "session_hash": session, "data": data}
    assert post(f"{url}gradio_api/queue/join", json=body).status_code == 200
    told = []
    with httpx.stream("GET", f"{url}gradio_api/queue/data", params={"session_hash": session}, timeout=60) as stream:
        for row in stream.iter_lines():
            told.append(row)
            if "process_completed" in row:
                return "\n".join(told)
    raise AssertionError(told)


def sent(url, path):
    """Upload a file; gives the path that the server answers."""
    with path.open("rb") as file:
        return post(f"{url}gradio_api/upload", files={"files": (path.name, file)}, timeout=60).json()[0]


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# --- one visitor ------------------------------------------------------------------------------------------------------


def test_the_api_answers_streams_and_gives_the_trace_and_the_page(echo, visitor, tmp_path):
    job = visitor.submit("What is it?", images=[png(tmp_path / "a.png", (10, 20, 30))], api_name="/ask")
    text, about = job.result(timeout=60)
    assert text == "10-20-30 What is it?"
    assert (about["state"], about["finish"], about["tokens"], about["model"]) == ("done", "stop_token", 4, "pocket")
    assert job.outputs()[0][1]["state"] in ("waiting", "running")
    file = tmp_path / "answer.trace"
    file.write_bytes(get(echo[0] + about["trace"]).content)
    kept = Trace.load(file)
    assert kept.text == text
    assert tuple(kept.images[0].pixels[0, 0]) == (10, 20, 30)
    page = get(echo[0] + about["page"]).text
    assert "default-src 'none'" in page
    assert "What is it?" in page
    views = get(f"{echo[0]}{about['page'].rsplit('/', 1)[0]}/views").json()
    assert [one["view"] for one in views] == ["token_view", "attention_view", "draft_view"]


def test_a_sound_is_heard_for_thirty_seconds_and_the_rest_is_told(visitor, tmp_path):
    soundfile.write(tmp_path / "long.wav", np.zeros(300 * 8000, np.int16) + 99, 8000, subtype="PCM_U8")
    text, about = visitor.predict("What?", audio=[handle_file(str(tmp_path / "long.wav"))], api_name="/ask")
    assert text.startswith("30.0s")
    assert "30" in about["message"]


def test_markup_and_control_characters_come_back_as_they_were(echo, visitor):
    text, about = visitor.predict(EVIL, api_name="/ask")
    assert text == EVIL
    page = get(echo[0] + about["page"]).text
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("name", ["../../etc/passwd.png", "a\"b'c<b>.png", "x" * 200 + ".png", "..png"])
def test_file_names_lead_nowhere(echo, uploads, name, visitor):
    file = io.BytesIO()
    PIL.Image.new("RGB", (60, 36), (7, 8, 9)).save(file, "PNG")
    boundary = "b0"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + file.getvalue() + f"\r\n--{boundary}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    sent = post(f"{echo[0]}gradio_api/upload", content=body, headers=kind)
    assert sent.status_code == 200
    (path,) = sent.json()
    assert Path(path).resolve().is_relative_to(uploads.resolve())
    text, _ = visitor.predict("?", images=[{"path": path, "meta": {"_type": "gradio.FileData"}}], api_name="/ask")
    assert text == "7-8-9 ?"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"question": "x" * 1_000_000}, "1,000,000 characters"),
        ({"question": "  "}, "Write a question"),
        ({"question": "a", "max_new_tokens": 65}, "from 1 to 64"),
        ({"question": "a", "max_new_tokens": "many"}, "whole number"),
        ({"question": "a", "images": ["/etc/passwd"]}, "not uploaded here"),
        ({"question": "a", "images": [{"path": 5}]}, "not uploaded here"),
        ({"question": "a", "images": "scene.png"}, "expected a list"),
    ],
)
def test_bad_questions_are_refused_in_words_and_the_next_is_answered(visitor, asked, words):
    with pytest.raises(Exception, match=re.escape(words)):
        visitor.predict(**asked, api_name="/ask")
    assert visitor.predict("still there?", api_name="/ask")[0] == "still there?"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("queue/join", b'{"fn_index": -1, "data": [], "session_hash": "a"}', "no such function"),
        ("queue/join", b'{"data": [], "session_hash": "a"}', "no such function"),
        ("call/nothing", b'{"data": []}', "no such function"),
        ("call/ask", b'{"data": ["hi"]}', "a list of 9 values, in the order of /gradio_api/info; 1 came"),
        ("call/ask", b'{"data": {"question": "hi"}}', "no list came"),
        ("call/ask", b"{", "as JSON"),
        ("call/ask", b"[" * 100_000 + b"]" * 100_000, "as JSON"),
    ],
)
def test_what_cannot_be_a_question_never_reaches_gradio(echo, capfd, path, body, words):
    sent = post(f"{echo[0]}gradio_api/{path}", content=body, headers={"Content-Type": "application/json"})
    assert sent.status_code == 400
    assert words in sent.json()["detail"]
    assert "Traceback" not in capfd.readouterr().err  # Gradio would print one for each


def test_null_leaves_an_argument_of_the_api_out(echo):
    sent = post(f"{echo[0]}gradio_api/call/ask", json={"data": ["hi", *[None] * 8]})
    told = get(f"{echo[0]}gradio_api/call/ask/{sent.json()['event_id']}", timeout=60).text
    assert "event: complete" in told
    assert '"finish": "stop_token"' in told


def test_two_tabs_of_one_visitor_are_two_visitors(serve):
    url, demo = serve(Echo())
    with contextlib.closing(visit(url)) as one, contextlib.closing(visit(url)) as two:
        first = one.submit("held", api_name="/ask")
        until(lambda: demo.desk.line.places)
        second = two.submit("long second", max_new_tokens=2, api_name="/ask")
        until(lambda: len(demo.desk.line.places) == 2)
        first.cancel()
        assert second.result(timeout=60)[0] == "long second"


def test_broken_and_large_files_are_refused_in_words(echo, visitor, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    with pytest.raises(Exception, match=r"broken\.png"):
        visitor.predict("What?", images=[handle_file(str(tmp_path / "broken.png"))], api_name="/ask")
    with pytest.raises(Exception, match="this demo takes 4 with one question"):
        visitor.predict("What?", images=[png(tmp_path / "a.png", (1, 2, 3))] * 5, api_name="/ask")
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * (5 << 20))
    with pytest.raises(ValueError, match="exceeds the maximum file size"):  # gradio_client knows the limit
        visitor.predict("What?", images=[handle_file(str(tmp_path / "large.png"))], api_name="/ask")
    with (tmp_path / "large.png").open("rb") as file:  # others do not
        assert post(f"{echo[0]}gradio_api/upload", files={"files": file}).status_code == 413


# --- what is closed ---------------------------------------------------------------------------------------------------


def test_an_upload_without_a_name_is_answered_in_words(echo):
    answer = post(f"{echo[0]}gradio_api/upload", files={"files": ("", b"abc")})
    assert answer.status_code == 400
    assert "each with a name" in answer.json()["detail"]


def test_no_file_no_address_and_no_other_path_can_be_had(echo, visitor):
    url = echo[0]
    for path in ("pyproject.toml", str(ROOT / "pyproject.toml"), "/etc/passwd", "http://127.0.0.1:1/", "https:/x/"):
        assert get(f"{url}gradio_api/file={path}").status_code in (403, 404)
    closed = ("monitoring", "monitoring/summary", "gradio_api/proxy=http://x.org", "gradio_api/runs", "docs",
              "gradio_api/vibe-code", "openapi.json", "gradio_api/component_server")  # fmt: skip
    for path in closed:
        assert get(url + path).status_code == 404, path
        assert post(url + path, json={}).status_code == 404, path
    fn = next(k for k, one in enumerate(visitor.config["dependencies"]) if one["api_name"] == "ask")
    asked = {"data": ["a", [{"path": "http://127.0.0.1:1/a.png"}]], "fn_index": fn, "session_hash": "s"}
    refused = post(f"{url}gradio_api/queue/join", json=asked)
    assert (refused.status_code, refused.json()) == (400, {"detail": "No address is fetched: upload the file itself."})
    asked["data"][1][0]["path"] = r"C:\Users\Ada\gradio\a.png"  # a file of a Windows machine, and no address
    refused = post(f"{url}gradio_api/queue/join", json=asked)
    assert "address" not in refused.text
    functions = _functions(echo[1], "on_run", "on_upload", "ask")
    assert len(functions) == 4
    with httpx.Client(base_url=f"{url}gradio_api/") as client:
        for path in ("x.png", "/etc/passwd", "../a.png", "pyproject.toml"):
            file = {"url": "http://example.com/x.png", "path": path, "meta": {"_type": "gradio.FileData"}}
            for named in (file, {"path": path}, {"image": {"path": path}}, {"video": {"path": path}}):
                data = {"data": ["a", [named], *[None] * 16]}
                asked = [("call/ask", data), ("call/v2/ask", {"question": "a", "images": [named]})]
                asked += [("queue/join", {"fn_index": k, "session_hash": "s", **data}) for k in functions]
                for where, body in asked:
                    refused = client.post(where, json=body)
                    assert refused.status_code == 400, (path, where)
                    assert "A file is uploaded first" in refused.json()["detail"]
                    assert str(ROOT) not in refused.text
    large = post(f"{url}gradio_api/queue/join", content=b"x" * (5 << 20))
    assert large.status_code == 413


def test_nothing_is_counted_recorded_or_offered_to_be(echo):
    config = get(f"{echo[0]}config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert get(f"{echo[0]}health").json()["ok"] is True
    assert get(echo[0]).headers["x-content-type-options"] == "nosniff"


def test_a_guessed_ticket_opens_nothing_and_strange_questions_are_refused(echo, visitor):
    assert get(f"{echo[0]}workbench/guessed/views").status_code == 404
    base = echo[0] + visitor.predict("a", api_name="/ask")[1]["page"].rsplit("/", 1)[0]
    deep = (b"{" * 5000, b"[" * 4000)
    for body in (b"", b"[]", b'{"ask": "speedup"}', b'{"ask": "branch", "at": 0}', b'{"ask": "close"}', *deep):
        answer = post(f"{base}/ask", content=body)
        assert answer.status_code in (400, 404)
        assert answer.json()["error"]
    bad = post(f"{base}/ask", json={"ask": "sound", "media": "x" * 50})
    assert (bad.status_code, "error" in bad.json()) == (404, True)


def test_a_password_is_asked_for(serve):
    url, _ = serve(Echo(), auth=("ada", "secret"))
    assert get(f"{url}config").status_code == 401
    assert post(f"{url}gradio_api/queue/join", json={"data": [], "session_hash": "a"}).status_code == 401
    assert get(f"{url}health").status_code == 200
    with pytest.raises(Exception, match="credentials"):
        visit(url)
    one = visit(url, auth=("ada", "secret"))
    assert one.predict("a", api_name="/ask")[0] == "a"
    one.close()


SETTINGS = ("greedy: always the likeliest word", 1, 64, 1, "", "0", 8)


def test_the_page_gives_no_file_of_the_server_to_the_model_and_deletes_none(serve, tmp_path):
    model, victim = Echo(), tmp_path / "victim.png"
    url, demo = serve(model)
    run, upload, leave = (_functions(demo, name)[0] for name in ("on_run", "on_upload", "on_leave"))
    png(victim, (9, 8, 7))
    body = {"fn_index": run, "session_hash": "evil", "data": ["a", [{"image": {"path": str(victim)}}], None, *SETTINGS]}
    assert post(f"{url}gradio_api/queue/join", json=body).status_code == 400
    mine = sent(url, victim)
    shown = [{"image": {"path": mine, "meta": {"_type": "gradio.FileData"}}}]
    assert '"state":"done"' in asked_of(url, run, "kind", "a", shown, None, *SETTINGS)
    assert [one.trace.text for one in demo.desk.runs._runs.values()] == ["9-8-7 a"]
    assert model.asked == 1
    asked_of(url, leave, "evil")
    assert victim.exists()
    assert Path(mine).exists()
    asked_of(url, upload, "kind", shown, None)
    asked_of(url, leave, "kind")
    assert not Path(mine).exists()


def test_an_example_can_be_asked_about(echo):
    url, demo = echo
    scene = next(path for path in demo.desk.uploads.offered if path.name == "scene.png")
    assert get(f"{url}gradio_api/file={scene}").status_code == 200
    shown = [{"image": {"path": str(scene), "meta": {"_type": "gradio.FileData"}}}]
    assert '"state":"done"' in asked_of(url, _functions(demo, "on_run")[0], "shown", "a", shown, None, *SETTINGS)
    assert scene.exists()


def test_uploads_are_for_the_servers_user_alone_and_go_with_the_server(serve, tmp_path):
    url, demo = serve(Echo())
    png(tmp_path / "a.png", (1, 2, 3))
    mine, folder = Path(sent(url, tmp_path / "a.png")), demo.desk.uploads.folder
    assert mine.is_relative_to(folder)
    if os.name != "nt":
        assert folder.stat().st_mode & 0o777 == 0o700
    demo.close(verbose=False)
    assert not folder.exists()


def test_an_upload_that_was_deleted_meanwhile_is_asked_for_again_without_a_path(serve, uploads, tmp_path):
    url, demo = serve(Echo())
    png(tmp_path / "a.png", (1, 2, 3))
    mine = sent(url, tmp_path / "a.png")
    file = {"path": mine, "meta": {"_type": "gradio.FileData"}}
    Path(mine).unlink()
    page, api = (_functions(demo, name)[0] for name in ("on_run", "ask"))
    for told in (
        asked_of(url, page, "late", "a", [{"image": file}], None, *SETTINGS),
        asked_of(url, api, "later", "a", [file], *[None] * 7),
    ):
        assert "This upload is no longer kept: add it again." in told
        assert str(uploads) not in told
    desk, path = Desk(Echo(), LIMITS, demo.desk.uploads), demo.desk.uploads.folder / "b.png"
    png(path, (1, 2, 3))

    async def go():
        told = desk.ask(Question("a", [str(path)]), Visitor("one", "127.0.0.1"))
        await anext(told)
        path.unlink()  # while it was in line
        return [update async for update in told]

    with pytest.raises(MediaError, match=r"^This upload is no longer kept: add it again\.$"):
        asyncio.run(go())


class Broken(Echo):
    """A model that fails, and whose answers cannot be looked into."""

    def ask(self, question, **how):
        if question == "fail":
            raise RuntimeError("boom in /srv/secret/model.py")
        return super().ask(question, **how)

    def attend(self, *_given, **_how):
        raise RuntimeError("boom in /srv/secret/model.py")


def test_a_failure_of_the_server_is_told_without_its_words_which_are_logged(serve, caplog):
    url, demo = serve(Broken())
    told = asked_of(url, _functions(demo, "on_run")[0], "page", "fail", None, None, *SETTINGS)
    with contextlib.closing(visit(url)) as one:
        with pytest.raises(Exception, match="Something failed here") as error:
            one.predict("fail", api_name="/ask")
        base = url + one.predict("a", api_name="/ask")[1]["page"].rsplit("/", 1)[0]
    looked = post(f"{base}/ask", json={"ask": "attend", "token": 0})
    assert (looked.status_code, list(looked.json())) == (500, ["error"])
    for words in (told, str(error.value), looked.text):
        assert "Something failed here that should not; whoever runs this demo finds it in the log." in words
        assert "secret" not in words
    assert caplog.text.count("RuntimeError: boom in /srv/secret/model.py") == 3
    assert '"state":"done"' in asked_of(url, _functions(demo, "on_run")[0], "page", "a", None, None, *SETTINGS)


def test_an_upload_that_is_broken_off_leaves_nothing(serve):
    url, demo = serve(Echo())
    folder = demo.desk.uploads.folder
    head = b'--B\r\nContent-Disposition: form-data; name="files"; filename="half.png"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", demo.server_port)) as line_:
        line_.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\n"
            b"Content-Length: 900000\r\n\r\n" + head + b"x" * 300_000
        )
        until(lambda: demo.desk.uploads.bytes() > 0)
    until(lambda: not list(folder.iterdir()))
    large = {"files": ("large.png", b"x" * (5 << 20))}  # Gradio stops reading at the limit of one file
    assert post(f"{url}gradio_api/upload", files=large, timeout=60).status_code == 413
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999", "1e300", "1" + "0" * 400, '"1"', "[]", "-1"])
def test_a_number_that_is_no_tokens_is_refused_in_words(echo, visitor, number):
    base = echo[0] + visitor.predict("a", api_name="/ask")[1]["page"].rsplit("/", 1)[0]
    answer = post(f"{base}/ask", content=b'{"ask": "attend", "token": %s}' % number.encode())
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]


def test_what_touches_the_desk_runs_on_its_event_loop(serve, monkeypatch):
    url, demo = serve(Echo())
    threads = set()

    def noted(owner, name):
        real = getattr(owner, name)

        def called(*given, **how):
            threads.add(threading.get_ident())
            return real(*given, **how)

        monkeypatch.setattr(owner, name, called)

    for name in ("leave", "stop", "_checked"):
        noted(demo.desk, name)
    noted(demo.desk.uploads, "hold")
    asked_of(url, _functions(demo, "on_run")[0], "one", "a", None, None, *SETTINGS)
    asked_of(url, _functions(demo, "on_upload")[0], "one", None, None)
    for name in ("on_stop", "on_leave"):
        asked_of(url, _functions(demo, name)[0], "one")
    assert len(threads) == 1


# --- many visitors ----------------------------------------------------------------------------------------------------


def test_twenty_visitors_at_once_each_get_the_answer_to_their_own_picture(serve, tmp_path):
    model = Echo(pause=0.005)
    url, demo = serve(model)
    visitors = [visit(url) for _ in range(20)]

    def ask(k):
        picture = png(tmp_path / f"{k}.png", (k, 100 + k, 200))
        return [visitors[k].predict(f"visitor {k}", images=[picture], api_name="/ask")[0] for _ in range(2)]

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))
    assert answers == [[f"{k}-{100 + k}-200 visitor {k}"] * 2 for k in range(20)]
    assert model.most == 1
    assert demo.desk.line.places == []
    for one in visitors:
        one.close()


def test_a_flood_is_refused_in_words_while_others_are_answered(serve):
    model = Echo(pause=0.05)
    url, demo = serve(model, replace(LIMITS, waiting=6, places=2, per_minute=12))
    rude, kind = visit(url), visit(url)
    jobs = [rude.submit("flood", api_name="/ask") for _ in range(30)]
    assert kind.predict("and I?", api_name="/ask")[0] == "and I?"
    ends = [str(job.exception(timeout=60) or "answered") for job in jobs]
    refused = [end for end in ends if end != "answered"]
    assert len(refused) >= 18
    assert all("in line already" in end or "within a minute" in end for end in refused), set(refused)
    assert len(ends) - len(refused) >= 2
    assert demo.desk.line.places == []
    rude.close()
    kind.close()


def test_a_full_line_says_so_and_a_place_in_it_has_an_estimate(serve):
    model = Echo()
    url, _ = serve(model, replace(LIMITS, waiting=2, places=2))
    a, b, c = (visit(url) for _ in range(3))
    first = a.submit("held", api_name="/ask")
    until(lambda: model.running == 1)
    second = b.submit("next", api_name="/ask")
    until(second.outputs)
    assert re.fullmatch(r"In line: 1 before you, about \d+ s\.", second.outputs()[0][1]["message"])
    with pytest.raises(Exception, match="The model is busy: 2 visitors are in line"):
        c.predict("and I?", api_name="/ask")
    first.cancel()
    assert second.result(timeout=30)[0] == "next"
    assert model.stopped == 1
    for one in (a, b, c):
        one.close()


def test_a_visitor_who_leaves_frees_the_model_and_takes_his_files_along(serve, uploads, tmp_path):
    model = Echo(pause=0.9)  # a client's leaving is noticed at its next heartbeat, within 15 s
    url, demo = serve(model)
    gone = visit(url)
    gone.predict("a", images=[png(tmp_path / "mine.png", (91, 92, 93))], max_new_tokens=1, api_name="/ask")
    assert list(uploads.rglob("mine.png"))
    assert len(demo.desk.runs) == 1
    job = gone.submit("long", max_new_tokens=64, api_name="/ask")
    until(lambda: job.outputs() and model.running == 1)
    gone.close()
    until(lambda: model.stopped == 1, 60)
    until(lambda: demo.desk.line.places == [])
    until(lambda: len(demo.desk.runs) == 0 and not list(uploads.rglob("mine.png")))


def test_an_example_stays_for_others_when_one_who_used_it_leaves_and_of_any_age(kept, tmp_path):
    offered, own = tmp_path / "scene.png", kept.folder / "own.png"
    for path in (offered, own):
        png(path, (1, 2, 3))
    kept.offer([offered])
    assert kept.taken(str(offered)) == offered.resolve()
    desk = Desk(Echo(), LIMITS, kept)
    kept.hold("one", [str(offered), str(own)])
    desk.leave("one")
    assert offered.exists()
    assert not own.exists()
    os.utime(offered, (1, 1))
    kept.sweep()
    assert offered.exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights that a Windows user may lack")
def test_no_file_but_an_upload_is_read_held_or_deleted(kept, tmp_path):
    victim, link, folder = tmp_path / "victim.png", kept.folder / "link.png", kept.folder / "folder"
    png(victim, (1, 2, 3))
    link.symlink_to(victim)
    folder.symlink_to(tmp_path)
    model = Echo()
    desk = Desk(model, LIMITS, kept)
    strays = [str(victim), str(link), str(folder / "victim.png"), f"{kept.folder}/../victim.png", str(kept.folder)]
    for path in [*strays, "/nowhere/x.png", "", "\0", None, 5, {}]:
        for files in ({"pictures": [path]}, {"sounds": [path]}):
            with pytest.raises(MediaError, match="not uploaded here"):
                asyncio.run(anext(desk.ask(Question("a", **files), Visitor("one", "127.0.0.1"))))
        kept.hold("one", [path])
    assert model.asked == 0
    kept._held["one"] = {Path(path): victim.stat().st_mtime_ns for path in strays}  # however they came there
    desk.leave("one")
    os.utime(victim, (1, 1))
    kept.sweep()
    kept.sweep(-60)  # everything
    assert victim.exists()
    assert not link.is_symlink()
    with pytest.raises(MediaError, match="not uploaded here"):
        Uploads().taken(str(victim))  # no server runs


def test_uploads_go_by_age_and_what_was_broken_off_when_nobody_writes(kept):
    old, young, begun, finished = (kept.folder / name for name in ("h/old.png", "h/young.png", "tmp1", "h/tmp2"))
    old.parent.mkdir()
    for path in (old, young):
        png(path, (1, 2, 3))
    os.utime(old, (time.time() - 1801, time.time() - 1801))
    kept.sweep()
    assert (old.exists(), young.exists()) == (False, True)
    with kept.writing():
        with contextlib.suppress(ConnectionError), kept.writing():
            begun.write_bytes(b"12345")
            assert kept.bytes() == 5 + young.stat().st_size
            raise ConnectionError
        assert begun.exists()  # it may be the other's
        begun.rename(finished)
        begun.write_bytes(b"1")
    assert (begun.exists(), finished.exists(), young.exists()) == (False, True, True)


def test_the_model_is_free_and_nothing_kept_though_nobody_reads_on_or_has_stayed():
    async def go():
        model = Echo(pause=0.5)  # by itself it would take half a minute
        desk = Desk(model, LIMITS)
        told = desk.ask(Question("long", max_new_tokens=64), Visitor("one", "127.0.0.1"))
        while (await anext(told)).state != "running":
            pass
        await anext(told)
        desk.leave("one")
        for _ in range(2000):  # nothing more is read
            await asyncio.sleep(0.01)
            if not desk.line.places:
                break
        assert desk.line.places == []
        assert model.stopped == 1
        assert [update.state async for update in told if update.state == "done"] == []
        assert len(desk.runs) == 0

    asyncio.run(go())


class Slow(Echo):
    """Looks for so many seconds, unless it is stopped."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.looks = seconds, []

    def occlude(self, trace, token, over="image", media=0, stop=None):
        self.looks.append("began")
        if stop.wait(self.seconds):
            self.looks.append("stopped")
            raise TraceError("occlude was stopped.")
        raise TraceError("occlude is done.")


HIDE = {"ask": "occlude", "token": 0, "kind": "image", "media": 0}


async def _answered(desk, who):
    visitor = Visitor(who, f"10.0.0.{ord(who[0])}")
    told = [update async for update in desk.ask(Question("hi"), visitor)]
    return told[-1].run, visitor.address


def test_a_look_ends_with_stop_with_its_time_and_with_its_visitor():
    async def go():
        model = Slow(20)
        desk = Desk(model, replace(LIMITS, seconds=0.5))
        (a, at_a), (b, at_b) = await _answered(desk, "a"), await _answered(desk, "b")

        def look(run, address):
            return asyncio.create_task(desk.look(run.ticket, lambda run, stop: run.answer(HIDE, stop), address))

        began = time.monotonic()
        with pytest.raises(WorkbenchError, match="took longer than 0 s and was ended"):
            await look(a, at_a)
        assert model.looks == ["began", "stopped"]
        desk.limits = replace(LIMITS, seconds=60)
        first, waiting = look(a, at_a), look(b, at_b)
        await asyncio.sleep(0.2)
        desk.leave("b")  # in line: it never runs
        with pytest.raises(WorkbenchError, match="before it was your turn"):
            await waiting
        assert desk.stop("a")
        with pytest.raises(TraceError, match="was stopped"):
            await first
        assert model.looks == ["began", "stopped"] * 2
        assert desk.line.places == []
        assert not desk.stop("a")
        assert time.monotonic() - began < 10

    asyncio.run(go())


def test_who_asks_without_end_pushes_out_his_own_answers():
    async def go():
        desk = Desk(Echo(), replace(LIMITS, kept=4, kept_each=3))
        mine, _ = await _answered(desk, "mine")
        for k in range(6):  # a new session for each, from one address
            visitor = Visitor(f"call {k}", "10.0.0.99")
            assert [update async for update in desk.ask(Question("hi"), visitor)][-1].run is not None
        assert len(desk.runs) == 4
        assert desk.runs.get(mine.ticket) is mine

    asyncio.run(go())


def test_uploads_at_once_do_not_go_beyond_the_disk(serve, tmp_path, monkeypatch):
    from widgets.demo import guard

    monkeypatch.setattr(guard, "_PATIENCE_S", 600)  # however slow this machine is just now
    url, demo = serve(Echo(), limits=replace(LIMITS, disk=3 << 20, upload=1 << 20))
    files = []
    for k in range(8):
        path = tmp_path / f"{k}.bin"
        path.write_bytes(os.urandom((1 << 20) - 2000))
        files.append(path)

    def send(path):
        with path.open("rb") as file:
            return post(f"{url}gradio_api/upload", files={"files": (path.name, file)}, timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(send, files))
    assert sorted(codes) == [200] * 3 + [503] * 5  # the first ones come in whole
    assert demo.desk.uploads.bytes() <= 3 << 20


def test_an_upload_that_stalls_gives_its_room_to_others_and_may_come_in_later(serve, monkeypatch):
    from widgets.demo import guard

    monkeypatch.setattr(guard, "_PATIENCE_S", 600)
    url, demo = serve(Echo(), limits=replace(LIMITS, disk=2 << 20, upload=2 << 20))
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    whole = httpx.Request("POST", f"{url}gradio_api/upload", files={"files": ("slow.bin", os.urandom(1_500_000))})
    body, kind = whole.read(), whole.headers["Content-Type"]
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: {kind}\r\nConnection: close\r\n\r\n"
    )

    def send(size: int) -> int:
        return post(f"{url}gradio_api/upload", files={"files": ("mine.bin", bytes(size))}, timeout=60).status_code

    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(head.encode() + body[:200_000])
        until = time.monotonic() + 60
        while not demo.desk.uploads.bytes() and time.monotonic() < until:
            time.sleep(0.05)
        assert send(1_000_000) == 503  # room is kept for what was announced
        monkeypatch.setattr(guard, "_PATIENCE_S", 0)
        assert send(400_000) == 200  # and no longer, where nothing more comes
        slow.sendall(body[200_000:])
        assert slow.recv(12).endswith(b"200")  # there is still room for all of it
    assert demo.desk.uploads.bytes() == 1_900_000


def test_who_announces_an_upload_and_sends_none_holds_no_room(serve, tmp_path):
    url, _ = serve(Echo(), limits=replace(LIMITS, disk=3 << 20, upload=1 << 20))
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    path = tmp_path / "mine.bin"
    path.write_bytes(bytes(1000))
    with contextlib.ExitStack() as sockets:
        for _ in range(8):
            sockets.enter_context(socket.create_connection((host, int(port)))).sendall(head.encode())
        time.sleep(0.3)
        with path.open("rb") as file:
            sent = post(f"{url}gradio_api/upload", files={"files": ("mine.bin", file)}, timeout=60)
    assert sent.status_code == 200


def test_an_answer_can_be_fetched_when_no_more_may_be_asked():
    async def go():
        desk = Desk(Echo(), replace(LIMITS, per_address=1, per_minute=1))
        run, address = await _answered(desk, "a")
        with pytest.raises(line.Busy, match="1 questions within a minute"):
            await desk.look(run.ticket, lambda run, stop: run.file(stop), address)
        assert await desk.look(run.ticket, lambda run, _: run.views(), address, model=False)

    asyncio.run(go())


def test_no_widget_is_left_of_answers_that_are_forgotten():
    from ipywidgets.widgets import widget  # where ipywidgets holds all there are

    async def go():
        desk = Desk(Echo(), replace(LIMITS, kept_each=1))
        before = len(widget._instances)
        for _ in range(5):
            run, address = await _answered(desk, "a")
            await desk.look(run.ticket, lambda run, _: run.views(), address, model=False)
        desk.leave("a")
        assert len(widget._instances) <= before

    asyncio.run(go())


def test_a_file_that_others_have_uploaded_too_stays_for_them(kept):
    path = kept.folder / "class.png"
    png(path, (1, 2, 3))
    desk = Desk(Echo(), LIMITS, kept)
    kept.hold("one", [str(path)])
    kept.hold("two", [str(path)])
    desk.leave("one")
    assert path.exists()
    os.utime(path, ns=(1, 1))  # a third uploads the same, and has not asked yet
    desk.leave("two")
    assert path.exists()
    kept.hold("one", [str(path)])
    desk.leave("one")
    assert not path.exists()


def test_who_never_reads_his_stream_holds_nobody_up(serve, visitor):
    model = Echo()
    url, _ = serve(model, replace(LIMITS, seconds=0.5))
    fn = next(k for k, one in enumerate(visitor.config["dependencies"]) if one["api_name"] == "ask")
    data = ["held", None, None, None, None, None, None, "auto", 64]
    for k in range(3):
        joined = post(f"{url}gradio_api/queue/join", json={"data": data, "fn_index": fn, "session_hash": f"s{k}"})
        assert joined.status_code == 200
    one = visit(url)
    assert one.predict("and I?", api_name="/ask")[0] == "and I?"
    assert model.broken_off.count("held") == 3  # each had its half second
    one.close()


def test_closing_the_server_ends_what_runs(serve):
    model = Echo(pause=5)  # by itself it would take five minutes
    url, demo = serve(model)
    one = visit(url)
    one.submit("long", max_new_tokens=64, api_name="/ask")
    until(lambda: model.running == 1)
    demo.close(verbose=False)
    until(lambda: model.running == 0)
    assert model.stopped == 1
    one.close()


def test_rates_count_one_minute_and_say_how_long_to_wait(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(line.time, "monotonic", lambda: now[0])
    rate = line.Rate(2)
    rate.count("a")
    now[0] += 20
    rate.count("a")
    rate.count("b")
    with pytest.raises(line.Busy, match="ask again in 41 s"):
        rate.count("a")
    now[0] += 41
    rate.count("a")


def test_an_address_is_taken_from_a_tunnel_on_this_machine_only():
    assert address_of({"x-forwarded-for": "1.2.3.4, 5.6.7.8"}, "127.0.0.1") == "5.6.7.8"
    assert address_of({"x-forwarded-for": "1.2.3.4"}, "9.9.9.9") == "9.9.9.9"
    assert address_of({}, "127.0.0.1") == "127.0.0.1"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    make_trace(rounds=3, question="first").save(folder / "first.trace")
    make_trace(tokens=5, question="second").save(folder / "second.trace")
    return folder


def test_a_replay_keeps_the_recorded_pace_and_can_be_stopped(recorded):
    replay = Replay(recorded)
    assert list(replay.traces) == ["first", "second"]
    heard = []
    began = time.monotonic()
    trace = replay.ask("second", on_token=lambda token: heard.append((token.piece, time.monotonic() - began)))
    assert [piece for piece, _ in heard] == list(trace.tokens.piece)
    assert all(at >= token.time_s - 0.01 for (_, at), token in zip(heard, trace.tokens, strict=True))
    stop = threading.Event()
    stop.set()
    assert replay.ask("second", stop=stop).finish == "stopped"
    with pytest.raises(TraceError, match="there are: first, second"):
        replay.ask("third")


def test_replay_and_rehearsal_run_where_there_is_no_torch(recorded):
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['transformers'] = None\n"
        "from workbench.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--replay", str(recorded), "--check", "--port", "0"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("ok   ") == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--share"], "--auth USER:PASSWORD, or say --public"),
        (["--auth", "ada"], "expected USER:PASSWORD"),
        (["--auth", ":secret"], "expected USER:PASSWORD"),
        (["--replay", "nowhere"], "'nowhere': there is no such folder"),
        (["--replay", "tests"], "holds no .trace files"),
        (["--host", "300.1.1.1"], "--host 300.1.1.1: no such address"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 is no address of this machine"),
        (["big", "--replay", "nowhere"], "loads no model"),
        (["--port", "70000"], "from 0 to 65535"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, words, capsys, monkeypatch):
    from workbench.cli import main

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "_model", _not_before(command._model))

    assert main(["demo", *options]) in (1, 2)
    assert words in capsys.readouterr().err


def _not_before(made):
    def model(asked, say):
        assert asked.replay is not None, "a model is loaded only for options that can be followed"
        return made(asked, say)

    return model


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(capsys, monkeypatch):
    from workbench.cli import main

    monkeypatch.setattr(command, "_model", _not_before(command._model))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == 1
    assert f"127.0.0.1, port {port}: " in capsys.readouterr().err


def test_a_broken_trace_is_left_out_of_a_replay_and_named(recorded, capsys):
    from workbench.cli import main

    (recorded / "bad.trace").write_bytes(b"PK\x03\x04 no more")
    replay = Replay(recorded)
    assert list(replay.traces) == ["first", "second"]
    assert len(replay.left_out) == 1
    assert "bad.trace" in replay.left_out[0]
    assert main(["demo", "--replay", str(recorded), "--check", "--port", "0"]) == 1, "a rehearsal finds it"
    assert "Left out: " in capsys.readouterr().err
    for file in ("first", "second"):
        (recorded / f"{file}.trace").write_bytes(b"")
    with pytest.raises(TraceError, match="None of the 3 traces can be opened"):
        Replay(recorded)


def test_a_tunnel_that_fails_says_so_and_the_way_out(monkeypatch, echo):
    from gradio import networking

    def fails(**_more):
        raise RuntimeError("no route")

    monkeypatch.setattr(networking, "setup_tunnel", fails)
    with pytest.raises(WorkbenchError, match=r"no public link \(RuntimeError: no route\)") as failure:
        command.tunnel(echo[1])
    assert echo[0] in str(failure.value)
    assert "--host 0.0.0.0" in command._ROOM
    assert "microphone" in command._ROOM


def test_the_qr_code_is_of_the_link():
    drawn = command.qr("https://example.org/a").splitlines()
    assert len({len(re.sub(r"\x1b\[[0-9;]*m", "", row)) for row in drawn if row}) == 1
    assert len(drawn) >= 14


def test_tickets_and_limits_are_what_the_page_says():
    page = (ROOT / "docs" / "demo.md").read_text("utf-8")
    for name in Limits.__dataclass_fields__:
        assert f"`{name}`" in page, name
    for option in ("--share", "--public", "--auth", "--check", "--replay", "--host", "--port"):
        assert option in page
    compile("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), "docs/demo.md", "exec")


@pytest.mark.parametrize(
    ("host", "through"), [("127.0.0.1", False), ("192.168.1.7", False), ("localhost", False), ("a.gradio.live", True)]
)
def test_this_machine_is_asked_through_no_proxy(monkeypatch, host, through):
    from urllib.request import getproxies, proxy_bypass

    from widgets.demo.direct import direct

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    before = dict(os.environ)
    with direct(host):
        assert bool(proxy_bypass(host)) is not through
        assert bool(proxy_bypass("inside.example"))
        assert not proxy_bypass("elsewhere.example")
        assert "http" in getproxies()
    assert dict(os.environ) == before


def test_a_demo_starts_behind_a_proxy(monkeypatch):
    from widgets.demo import build

    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    made = build(Echo())
    try:
        _, link, _ = made.launch(prevent_thread_lock=True, quiet=True)
        assert link.startswith("http://127.0.0.1:")
    finally:
        made.close(verbose=False)
