"""Tools a model may call: checked schemas, every text within them, and running what a model calls.

Nothing is run unless the caller passes the function and agrees. What a tool returns, and why a call failed, is told to
the model as a result and stands in the trace: an unknown name, wrong arguments, an exception, a refusal.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.archive import json_bytes
from workbench.conversation import messages
from workbench.errors import PromptError, TraceError
from workbench.toolcalls import Call
from workbench.trace import Trace
from workbench.turns import sound_text

__all__ = ["Call", "Desk", "Result", "answered", "mapped", "schemas_of", "texts_in", "turns_of"]


def schemas_of(tools: Any) -> list[Any]:
    """Tools as JSON schemas.

    Raises:
        PromptError: One is neither a schema nor a function that says what it takes, or no JSON.
    """
    from transformers.utils import get_json_schema

    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise PromptError(f"tools={tools!r}: expected a list of JSON schemas or functions.")
    made = []
    for k, tool in enumerate(tools):
        if isinstance(tool, Mapping):
            function = tool.get("function", tool)
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise PromptError(
                    f'tools[{k}] is {tool!r}; expected {{"type": "function", "function": {{"name": …}}}}.'
                )
            made.append(_kept(tool, f"tools[{k}], {function['name']!r}"))
        elif callable(tool):
            try:
                schema = get_json_schema(tool)
            except Exception as error:  # noqa: BLE001 (whatever a strange function leads Transformers' reader to)
                raise PromptError(
                    f"tools[{k}], {tool!r}, cannot be described ({error}): it needs type hints and a docstring."
                ) from None
            made.append(_kept(schema, f"tools[{k}], {tool!r}"))
        else:
            raise PromptError(f"tools[{k}] is {tool!r}; expected a JSON schema or a function.")
    return made


def _kept(schema: Mapping[str, Any], where: str) -> Any:
    """A copy of a schema as a trace's file holds it: what cannot be saved is not declared."""
    try:
        return json.loads(json_bytes({"prompt": {"tools": [schema]}}, "a value"))["prompt"]["tools"][0]
    except TraceError as error:
        raise PromptError(f"{where}, is no JSON that a trace can hold: {error}") from None


def texts_in(value: Any) -> Iterator[str]:
    """All texts within nested lists and mappings, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from texts_in(name)
            yield from texts_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from texts_in(part)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same nested lists and mappings with every text changed, names included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {mapped(name, change): mapped(part, change) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(part, change) for part in value]
    return value


# --- running ----------------------------------------------------------------------------------------------------------

_KINDS: dict[str, Any] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": Mapping,
    "null": type(None),
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What came of a call.

    Attributes:
        call: What the model asked for.
        content: What it is told: the tool's answer as text, or ``error: …``.
        failed: Whether it was not run, or raised.
    """

    call: Call
    content: str
    failed: bool


class Desk:
    """Runs the tools that a model calls, where the caller agreed, for so many rounds.

    Args:
        tools: As for ``ask``; all must be functions where ``agree`` is given.
        agree: False runs nothing; True runs every call; a function is asked about each :class:`Call` and must return
            True.
        rounds: After so many rounds of calls the answer is left as it is.

    Raises:
        PromptError: There is nothing to run, two tools have one name, or a setting is none.
    """

    def __init__(self, tools: Any, agree: bool | Callable[[Call], bool], rounds: int) -> None:
        if not isinstance(agree, bool) and not callable(agree):
            raise PromptError(f"run_tools={agree!r}: expected True, False, or a function of one Call.")
        if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 1000:
            raise PromptError(f"tool_rounds={rounds!r}: expected a number from 1 to 1000.")
        several = isinstance(tools, Iterable) and not isinstance(tools, (str, bytes, Mapping))
        self.tools: Any = list(tools) if several else tools  # anything else is refused when it is described
        self.agree, self.rounds = agree, rounds
        self.functions: dict[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {}
        if agree is False:
            return
        for k, (tool, schema) in enumerate(zip(self.tools, schemas_of(self.tools), strict=True)):
            if not callable(tool):
                raise PromptError(
                    f"tools[{k}] is a schema, and run_tools= needs functions. Leave run_tools out, look at "
                    "trace.calls, and go on with workbench.tools.answered(trace, results)."
                )
            name = schema["function"]["name"]
            if name in self.functions:
                raise PromptError(f"tools[{k}] is a second tool of the name {name!r}; give each its own.")
            self.functions[name] = (tool, schema["function"].get("parameters", {}))
        if not self.functions:
            raise PromptError("run_tools= is given and no tools=: pass the functions that may be run.")

    def answer(self, calls: Sequence[Call]) -> list[Result] | None:
        """Run what an answer calls; None when there is nothing to run, or the rounds are used up."""
        if self.agree is False or not calls or not self.rounds:
            return None
        self.rounds -= 1
        return [self._run(call) for call in calls]

    def _run(self, call: Call) -> Result:
        wrong = call.problem or self._wrong(call)
        if wrong:
            return Result(call, f"error: {wrong}", failed=True)
        if callable(self.agree) and self.agree(call) is not True:
            return Result(call, "error: the user did not agree to this call", failed=True)
        try:
            value = self.functions[call.name][0](**call.arguments)
            content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            sound_text("the result", content)
        except Exception as error:  # noqa: BLE001 (whatever a tool raises is told to the model, and stands in the trace)
            told = f"error: {type(error).__name__}: {error}".encode("utf-8", "replace").decode()
            return Result(call, told, failed=True)
        return Result(call, content, failed=False)

    def _wrong(self, call: Call) -> str:
        """Why a call does not fit its tool; empty when it does."""
        if call.name not in self.functions:
            return f"there is no tool {call.name!r}; there is {', '.join(self.functions)}"
        function, schema = self.functions[call.name]
        try:
            inspect.signature(function).bind(**call.arguments)
        except TypeError as error:
            return f"wrong arguments for {call.name}: {error}"
        properties = schema.get("properties", {})
        for name, value in call.arguments.items():
            wrong = _misfit(value, properties.get(name, {}))
            if wrong:
                return f"wrong arguments for {call.name}: {name}={value!r} is {wrong}"
        return ""


def _misfit(value: Any, schema: Any) -> str:
    """What is wrong with a value by its JSON schema's type and choices; empty for nothing."""
    if not isinstance(schema, Mapping):
        return ""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if value is None and schema.get("nullable"):
        return ""
    known = [kind for kind in kinds if kind in _KINDS]
    fits = [isinstance(value, _KINDS[k]) and (isinstance(value, bool) is (k == "boolean")) for k in known]
    if known and not any(fits):
        return f"no {' or '.join(known)}"
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return f"none of {', '.join(map(str, choices))}"
    return ""


def turns_of(text: str, thought: str, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The turns that a round of calls adds to a conversation: the model's, and one of each result."""
    calls = [{"type": "function", "function": {"name": r.call.name or "unknown", "arguments": dict(r.call.arguments)}}
             for r in results]  # fmt: skip
    said: dict[str, Any] = {"role": "model", "content": [{"type": "text", "text": text}] if text else []}
    said["tool_calls"] = calls
    if thought:
        said["reasoning"] = thought
    return [said, *({"role": "tool", "name": r.call.name or "unknown", "content": [{"type": "text", "text": r.content}]}
                    for r in results)]  # fmt: skip


def answered(trace: Trace, results: Sequence[Any]) -> list[dict[str, Any]]:
    """A trace's conversation with the results of its calls, for ``model.ask(None, history=…)``: tools you run yourself.

        trace = model.ask("How warm is it in Graz?", tools=[schema])
        trace = model.ask(None, history=answered(trace, ["21 °C"]), tools=[schema])

    Args:
        trace: One whose answer calls tools.
        results: Of each call in order, a text or a JSON value.

    Returns:
        Messages, media included.

    Raises:
        PromptError: There are other than as many results as calls, or one is no JSON.
    """
    if isinstance(results, (str, bytes, Mapping)) or not isinstance(results, Sequence):
        raise PromptError(f"results={results!r:.60}: expected a list, one for each call.")
    if not trace.calls or len(results) != len(trace.calls):
        raise PromptError(f"{len(results)} results for {len(trace.calls)} calls: expected one for each.")
    made = []
    for call, value in zip(trace.calls, results, strict=True):
        try:
            content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError) as error:
            raise PromptError(f"The result of {call} is no text and no JSON ({error}).") from None
        made.append(Result(call, content, failed=False))
    return [*messages(trace), *turns_of(trace.text, trace.thought, made)]
