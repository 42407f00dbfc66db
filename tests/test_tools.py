"""Thinking and tools in Gemma 4's format, with pocket made to say what a script says: it was trained on neither."""

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import workbench
from workbench import toolcalls
from workbench.errors import PromptError
from workbench.pocket.examples import SCENE
from workbench.tools import Desk, Result, answered
from workbench.trace import Trace

pytest.importorskip("torch")

Q = '<|"|>'
END = "<turn|>"
WAIT = "<|tool_response>"  # what the model says after its calls: a stop token


def call(name, **arguments):
    """A call as the model writes it."""

    def value(v):
        if isinstance(v, str):
            return Q + v + Q
        if isinstance(v, dict):
            return "{" + ",".join(f"{k}:{value(x)}" for k, x in v.items()) + "}"
        return "[" + ",".join(map(value, v)) + "]" if isinstance(v, list) else json.dumps(v)

    return f"<|tool_call>call:{name}{value(arguments)}<tool_call|>"


def thought(text):
    return f"<|channel>thought\n{text}<channel|>"


@pytest.fixture(scope="module")
def model():
    return workbench.load("pocket", progress=False)


@pytest.fixture
def script(model, monkeypatch):
    """``script(answer, answer, …)``: run after run says these, each in one pass."""
    from workbench import model as asked

    generate = asked.generate

    def play(*answers):
        todo = [model.processor.tokenizer.encode(text, add_special_tokens=False) for text in answers]

        def scripted(*given, forced=None, **more):
            return generate(*given, forced=todo.pop(0), **more)

        monkeypatch.setattr(asked, "generate", scripted)
        return todo

    return play


def weather(city: str, days: int = 1) -> dict:
    """The weather.

    Args:
        city: Where.
        days: How many.
    """
    return {"city": city, "degrees": 20 + days}


def broken(x: float):
    """Always raises.

    Args:
        x: Any number.
    """
    raise LookupError(f"no {x} \ud800 here")


def mood(kind: str) -> str:
    """How it goes.

    Args:
        kind: Which. (choices: ["good", "bad"])
    """
    return f"{kind} <turn|> indeed"


def said(trace, role="tool"):
    """What was told to the model, in order."""
    return [m["content"][0]["text"] for m in trace.prompt.messages if m["role"] == role]


# --- thinking ---------------------------------------------------------------------------------------------------------


def test_thought_and_answer_are_told_apart(model, script):
    script(thought("It is round.") + "A circle." + END, "A circle." + END)
    trace = model.ask("What is it?", thinking=True, draft=0, temperature=0)
    assert "<|think|>" in trace.prompt.pieces
    assert (trace.thought, trace.text, trace.finish) == ("It is round.", "A circle.", "stop_token")
    assert [s.kind for s in trace.segments] == ["thought", "text", "control"]
    assert {s.role for s in trace.segments[:2]} == {"model"}
    assert trace.parsed == {"role": "assistant", "thinking": "It is round.", "content": "A circle."}
    assert "<|think|>" not in model.ask("What is it?", draft=0).prompt.pieces


def test_history_leaves_thoughts_out(model, script):
    script(thought("Secret.") + "A circle." + END, "Yes." + END)
    first = model.ask("What is it?", thinking=True, draft=0)
    second = model.ask("Sure?", history=first, thinking=True, draft=0)
    text = "".join(second.prompt.pieces)
    assert "A circle." in text
    assert "Secret" not in text
    assert "<|channel>" not in text


# --- reading calls ----------------------------------------------------------------------------------------------------


def test_calls_are_parsed_from_the_tokens_alone(model, script, tmp_path):
    script(
        thought("Ask.") + "Let me see. " + call("weather", city="Zürich 你", days=3) + call("mood", kind="good") + WAIT
    )
    trace = model.ask("How is it?", tools=[weather, mood], draft=0)
    first, second = trace.calls
    assert (first.name, first.arguments, first.problem) == ("weather", {"city": "Zürich 你", "days": 3}, "")
    assert (second.name, second.arguments) == ("mood", {"kind": "good"})
    assert str(second) == "mood(kind='good')"
    assert trace.text == "Let me see. "
    assert trace.parsed["tool_calls"][1] == {
        "type": "function",
        "function": {"name": "mood", "arguments": {"kind": "good"}},
    }
    whole = "".join(trace.tokens.piece[first.start - len(trace.prompt) : first.stop - len(trace.prompt)])
    assert whole.startswith("<|tool_call>call:weather{")
    assert [(s.kind, s.role) for s in trace.segments] == [
        ("thought", "model"), ("text", "model"), ("tool", "model"), ("tool", "model"), ("tool", "tool"),
    ]  # fmt: skip
    trace.save(tmp_path / "a.trace")
    loaded = Trace.load(tmp_path / "a.trace")
    assert loaded.calls == trace.calls
    assert loaded.parsed == trace.parsed
    assert [t["function"]["name"] for t in loaded.prompt.tools] == ["weather", "mood"]


RESPONSE = {  # Gemma 4's format in the terms of Transformers' parser
    "start_anchor": "<|turn>model\n",
    "defaults": {"role": "assistant"},
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>"},
        "content": {"close": ["<turn|>", "<|tool_response>"]},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)", "close": "<tool_call|>", "repeats": True,
            "content": "json", "content_args": {"unquoted_keys": True, "string_delims": [[Q, Q]]},
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        "A circle.",
        thought("Hm.\nRound.") + "A circle.",
        thought("Ask.") + call("weather", city="Graz", days=2),
        call("f", a=1.5, b=True, c=None, d=["x", {"deep": "y, {z}: [1]"}], e={}, g=[]) + call("g"),
        "Well. " + call("f", quote='say "hi"', empty="", number=-3e5, colon="a:b,c}d"),
    ],
)
def test_transformers_own_parser_reads_the_same(model, script, answer):
    script(answer + (WAIT if "tool_call" in answer else END))
    trace = model.ask("How?", draft=0)
    ids = trace.tokens.token_id.tolist()
    theirs = model.processor.parse_response(ids, RESPONSE, prefix="<|turn>model\n")
    mine = trace.parsed
    if "content" in mine:
        mine["content"] = mine["content"].strip()  # theirs strips
    assert mine == theirs


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("weather{}", "", "does not begin with call:NAME"),
        ("call:f", "f", "'{' is missing at its end"),
        ("call:f{a:1", "f", "is missing at its end"),
        (f"call:f{{a:{Q}x}}", "f", "a text in it does not end"),
        ("call:f{a:Graz}", "f", "'Graz' is no value"),
        ("call:f{a:}", "f", "a value is missing"),
        ("call:f{a:1,a:2}", "f", "'a' is given twice"),
        ("call:f{a:1}{b:2}", "f", "follows its arguments"),
        ("call:f{a 1}", "f", "':' was expected before"),
        ("call:f{a:" + "[" * 500 + "]" * 500 + "}", "f", "deeper than 30"),
        ("call:f{a:" + "9" * 5000 + "}", "f", "is no value"),
        ("call:f{a:1e999}", "f", "1e999 is a number beyond 64 bits"),
        ("call:f{a:[-1e300]}", "f", "beyond 64 bits"),
        ("call:f{a:99999999999999999999}", "f", "beyond 64 bits"),
    ],
)
def test_calls_that_cannot_be_read_say_why(text, name, problem):
    got, arguments, why = toolcalls.parse(text)
    assert got == name
    assert arguments == {}
    assert problem in why


def test_a_call_that_was_cut_off_is_no_call_to_run(model, script):
    script(call("weather", city="Graz") + WAIT)
    trace = model.ask("How?", tools=[weather], run_tools=True, max_new_tokens=8, draft=0)
    assert trace.finish == "max_new_tokens"
    assert trace.calls[0].problem == "it was cut off"


def test_numbers_of_64_bits_are_read():
    assert toolcalls.parse(f"call:f{{a:{2**64 - 1},b:{-(2**63)},c:-1e18}}")[1:] == (
        {"a": 2**64 - 1, "b": -(2**63), "c": -1e18}, "",
    )  # fmt: skip


# --- running ----------------------------------------------------------------------------------------------------------


def test_nothing_is_run_unless_the_caller_agrees(model, script):
    def danger():
        """Must not run."""
        raise AssertionError("it ran")

    script(call("danger") + WAIT)
    trace = model.ask("Do it.", tools=[danger], draft=0)
    assert [str(c) for c in trace.calls] == ["danger()"]
    assert said(trace) == []

    asked = []

    def no(which):
        asked.append(which)  # and gives no True back

    script(call("danger") + WAIT, "I may not." + END)
    trace = model.ask("Do it.", tools=[danger], run_tools=no, draft=0)
    assert [c.name for c in asked] == ["danger"]
    assert said(trace) == ["error: the user did not agree to this call"]
    assert trace.text == "I may not."


def test_a_call_is_run_and_answered(model, script, tmp_path):
    left = script(
        thought("Ask.") + "Wait. " + call("weather", city="Graz", days=2) + call("mood", kind="good") + WAIT,
        "Warm: 22." + END,
    )
    rounds, words = [], []
    trace = model.ask(
        "How warm is it?", images=[SCENE], tools=[weather, mood], run_tools=lambda c: c.name != "danger",
        on_round=rounds.append, on_token=words.append, draft=0, thinking=True,
    )  # fmt: skip
    assert left == []
    assert trace.text == "Warm: 22."
    assert said(trace) == ['{"city": "Graz", "degrees": 22}', "good <turn|> indeed"]
    user, model_turn, one, two = trace.prompt.messages
    assert user["content"][0] == {"type": "image", "index": 0}
    assert model_turn["reasoning"] == "Ask."
    assert model_turn["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Graz", "days": 2}}
    assert (one["name"], two["name"]) == ("weather", "mood")
    assert [len(r.calls) for r in rounds] == [2]
    assert len(words) == len(rounds[0].tokens) + len(trace.tokens)
    # declarations, calls and results are segments of their own, told apart by whose they are
    tools = [(s.role, trace.prompt.pieces[s.start]) for s in trace.prompt.segments if s.kind == "tool"]
    assert tools == [("system", "<|tool>")] * 2 + [("model", "<|tool_call>")] * 2 + [("tool", "<|tool_response>")] * 2
    # a result cannot end the turn
    assert [p for p in trace.prompt.pieces if p == "<turn|>"] == ["<turn|>"] * 2
    # kept, and replayed to the same tokens
    trace.save(tmp_path / "a.trace")
    loaded = Trace.load(tmp_path / "a.trace")
    assert loaded.prompt.messages == trace.prompt.messages
    assert model.request(loaded).ids.equal(model.request(trace).ids)
    assert model.attend(loaded, tokens=0).replay_gap < 1e-3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (call("nothing", x=1), "error: there is no tool 'nothing'; there is weather, broken, mood"),
        (call("weather", town="Graz"), "error: wrong arguments for weather: missing a required argument: 'city'"),
        (call("weather", city="Graz", more=1), "error: wrong arguments for weather: got an unexpected"),
        (call("weather", city=5), "error: wrong arguments for weather: city=5 is no string"),
        (call("weather", city="Graz", days=True), "days=True is no integer"),
        (call("mood", kind="ugly"), "error: wrong arguments for mood: kind='ugly' is none of good, bad"),
        (call("broken", x=2), "error: LookupError: no 2 ? here"),
        ("<|tool_call>call:weather{city:Graz}<tool_call|>", "error: 'Graz' is no value"),
        ("<|tool_call>nonsense<tool_call|>", "error: it does not begin with call:NAME"),
    ],
)
def test_a_call_that_does_not_fit_is_a_failed_result(answer, told):
    name, arguments, problem = toolcalls.parse(answer.removeprefix("<|tool_call>").removesuffix("<tool_call|>"))
    made = toolcalls.Call(name, arguments, answer, problem)
    (result,) = Desk([weather, broken, mood], True, 1).answer([made])
    assert result.failed
    assert result.call is made
    assert told in result.content
    assert result.content.startswith("error: ")


def test_failures_are_told_to_the_model_and_stand_in_the_trace(model, script):
    script(call("nothing") + call("broken", x=2) + "<|tool_call>nonsense<tool_call|>" + WAIT, "Sorry." + END)
    trace = model.ask("How?", tools=[broken], run_tools=True, draft=0)
    assert trace.text == "Sorry."
    assert said(trace) == [
        "error: there is no tool 'nothing'; there is broken", "error: LookupError: no 2 ? here",
        "error: it does not begin with call:NAME",
    ]  # fmt: skip
    assert [m.get("name") for m in trace.prompt.messages[2:]] == ["nothing", "broken", "unknown"]
    text = "".join(trace.prompt.pieces)
    assert "response:nothing{value:" in text
    assert "LookupError: no 2 ? here" in text


def test_rounds_are_bounded(model, script):
    left = script(*[call("mood", kind="bad") + WAIT] * 4)
    trace = model.ask("How?", tools=[mood], run_tools=True, tool_rounds=2, draft=0)
    assert len(left) == 1
    assert len(said(trace)) == 2
    assert len(trace.calls) == 1


def test_stop_ends_it_between_two_rounds(model, script):
    stop = threading.Event()

    def halt() -> str:
        """Stops everything."""
        stop.set()
        return "stopped"

    script(call("halt") + WAIT, "Never said." + END)
    trace = model.ask("Go.", tools=[halt], run_tools=True, stop=stop, draft=0)
    assert trace.finish == "stopped"
    assert trace.text == ""
    assert said(trace) == ["stopped"]


def test_a_tool_may_ask_the_model_itself(model, script):
    def ask_again() -> str:
        """Asks."""
        return model.ask("And you?", draft=0).text

    script(call("ask_again") + WAIT, "Fine." + END, "It says fine." + END)
    trace = model.ask("Go.", tools=iter([ask_again]), run_tools=True, draft=0)
    assert said(trace) == ["Fine."]
    assert trace.text == "It says fine."


def test_an_interrupt_in_a_tool_is_not_swallowed(model, script):
    def wait():
        """Waits."""
        raise KeyboardInterrupt

    script(call("wait") + WAIT)
    with pytest.raises(KeyboardInterrupt):
        model.ask("Go.", tools=[wait], run_tools=True, draft=0)


SCHEMA = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"tools": [SCHEMA], "run_tools": True}, r"tools\[0\] is a schema, and run_tools= needs functions"),
        ({"run_tools": True}, "no tools="),
        ({"tools": [weather, weather], "run_tools": True}, r"tools\[1\] is a second tool of the name 'weather'"),
        ({"tools": [weather], "run_tools": "yes"}, "run_tools='yes'"),
        ({"tools": [weather], "run_tools": True, "tool_rounds": 0}, "tool_rounds=0"),
        ({"tools": [weather], "on_round": 5}, "on_round=5"),
        ({"tools": [{**SCHEMA, "more": {1, 2}}]}, r"tools\[0\], 'look', is no JSON"),
        ({"tools": [{**SCHEMA, "more": 2**70}]}, r"tools\[0\], 'look', is no JSON that a trace.*beyond 64 bits"),
        ({"tools": [{**SCHEMA, "more": float("nan")}]}, r"tools\[0\], 'look', is no JSON"),
        ({"history": [{"role": "model", "content": "x", "reasoning": 5}]}, "reasoning 5"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work(model, how, problem):
    with pytest.raises(PromptError, match=problem):
        model.ask("Hi", **how)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 2**70, np.float32(1), {1, 2}, b"x"])
def test_calls_that_no_trace_can_hold_are_refused_before_any_work(model, value):
    turns = _called({"x": [value]})
    with pytest.raises(PromptError, match=r"history\[1\] has tool_calls that no trace can hold"):
        model.ask("And?", history=turns)


def test_calls_in_messages_are_a_copy(model, tmp_path):
    turns = _called({"x": [1, 2.5, "y", None], "deep": {"a": (True,)}})
    trace = model.ask("And?", history=turns, max_new_tokens=1)
    turns[1]["tool_calls"][0]["function"]["arguments"]["x"].append({3})
    trace.save(tmp_path / "a.trace")
    (call_,) = Trace.load(tmp_path / "a.trace").prompt.messages[1]["tool_calls"]
    assert call_["function"]["arguments"] == {"x": [1, 2.5, "y", None], "deep": {"a": [True]}}


def _called(arguments):
    said = {"role": "model", "content": "", "tool_calls": [{"function": {"name": "look", "arguments": arguments}}]}
    return [{"role": "user", "content": "Look."}, said, {"role": "tool", "name": "look", "content": "Done."}]


def test_tools_of_your_own_are_answered_by_hand(model, script):
    script(call("look") + WAIT, "A circle." + END)
    first = model.ask("What?", images=[SCENE], tools=[SCHEMA], draft=0)
    with pytest.raises(PromptError, match=r"ends with a call, look\(\), and no result"):
        model.ask("And?", history=first)
    with pytest.raises(PromptError, match="2 results for 1 calls"):
        answered(first, ["a", "b"])
    with pytest.raises(PromptError, match="expected a list"):
        answered(first, "a")
    with pytest.raises(PromptError, match=r"look\(\) is no text and no JSON"):
        answered(first, [{1, 2}])
    second = model.ask(None, history=answered(first, [{"seen": 1}]), tools=[SCHEMA], draft=0)
    assert second.text == "A circle."
    assert said(second) == ['{"seen": 1}']
    assert second.images == first.images
    # the calls go on from the very tokens of the first prompt
    assert second.prompt.ids[: len(first.prompt)].tolist() == first.prompt.ids.tolist()
    assert "".join(second.prompt.pieces[len(first.prompt) :]).startswith("<|tool_call>call:look{}<tool_call|>")
    with pytest.raises(PromptError, match="1 results for 0 calls"):
        answered(second, ["a"])


def test_a_run_with_tools_is_branched_scored_and_asked_again(model):
    trace = model.ask("How?", tools=[weather], max_new_tokens=3, draft=0, temperature=0)
    assert trace.prompt.tools[0]["function"]["name"] == "weather"
    np.testing.assert_allclose(model.score(trace).tokens.logprob, trace.tokens.logprob, atol=1e-4)
    assert model.again(trace).ids.tolist() == trace.ids.tolist()
    assert model.branch(trace, at=0, token="One").prompt.ids.tolist() == trace.prompt.ids.tolist()


def test_the_examples_of_the_page_run(model, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[1] / "docs" / "video-and-tools.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.png").write_bytes(Path(SCENE).read_bytes())
    names = {"model": model, "workbench": workbench}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["agree"](toolcalls.Call("weather", {"city": "Graz"})) is True
    assert len(names["video"]) == 3


def test_results_know_their_call():
    made = Result(toolcalls.Call("f"), "x", failed=False)
    assert (made.call.name, str(made.call)) == ("f", "f()")
    assert str(toolcalls.Call("", problem="cut")) == "?() [cut]"
    assert toolcalls.text_of(["a", "<0xC3>", "<0xBC>", "b", "<0xFF>"]) == "aüb\ufffd"
