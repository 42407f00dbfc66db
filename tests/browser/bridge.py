"""A widget in a page without Jupyter: its JavaScript in a real browser, its Python side in this process.

Messages go both ways as they would through a kernel, binary parts included, so that a test sees what a user would.
"""

import base64
import json
import threading

from widgets import esm
from widgets.buffers import in_page

PATIENCE = 90_000  # ms until something that is waited for counts as missing: a machine may be busy
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A widget</title>
<style>{style}</style></head>
<body><main><h1>A widget</h1><div id="it"></div></main><script>
const b64 = (b) => btoa(Array.from(new Uint8Array(b), (c) => String.fromCharCode(c)).join(""));
const state = {state}, heard = new Map();
const of = (event) => heard.get(event) ?? heard.set(event, new Set()).get(event);
const tell = (event, ...what) => [...of(event)].forEach((f) => f(...what));
window.model = {{
  get: (name) => state[name],
  set(name, value) {{
    if (state[name] === value) return;
    state[name] = value;
    model.dirty.add(name);
    tell("change:" + name);
  }},
  dirty: new Set(),
  save_changes() {{
    for (const trait of model.dirty) window.toPython(JSON.stringify({{ trait, value: state[trait] }}), []);
    model.dirty.clear();
  }},
  on: (e, f) => of(e).add(f), off: (e, f) => of(e).delete(f),
  send(content, _callbacks, buffers) {{ window.toPython(JSON.stringify(content), (buffers ?? []).map(b64)); }},
  trigger: tell,
  listeners: () => [...heard.values()].reduce((n, s) => n + s.size, 0),
}};
window.fromPython = (kind, value, buffers) => {{
  const bytes = (b) => Uint8Array.from(atob(b), (c) => c.charCodeAt(0)).buffer;
  if (kind === "message") tell("msg:custom", value, buffers.map(bytes));
  else {{ state[kind] = value; tell("change:" + kind); }}
}};
const view = {module};
window.cleanup = view.render({{ model, el: document.getElementById("it") }});
</script></body></html>"""


def without(value):
    """A value whose binary parts were lost."""
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if not isinstance(v, (bytes, memoryview))}
    return [without(v) for v in value] if isinstance(value, (list, tuple)) else value


class Bridge:
    """Serves one widget to one tab. ``pump()`` carries over what Python has sent since; call it while waiting."""

    def __init__(self, widget, tab, *, binary=True):
        """``binary=False`` is a host that loses the binary parts of messages and traits, without a word."""
        self.widget, self.tab, self.binary = widget, tab, binary
        self.outbox, self.lock = [], threading.Lock()
        self.biggest = 0
        widget.send = lambda content, buffers=None: self._post("message", content, buffers or [])
        names = [n for n in widget.keys if not n.startswith("_") and n not in ("layout", "tabbable", "tooltip")]
        widget.observe(lambda change: self._post(change.name, change.new, []), names=names)
        tab.expose_function("toPython", self._heard)
        state = json.dumps({n: self._carried(getattr(widget, n)) for n in names})
        html = PAGE.format(style=esm.style(widget.NAME), state=state, module=esm.expression(widget.NAME))
        tab.route("http://localhost/**", lambda route: route.fulfill(body=html, content_type="text/html"))
        tab.goto("http://localhost/widget")

    def _post(self, kind, value, buffers):
        with self.lock:
            kept = buffers if self.binary else []
            self.outbox.append((kind, self._carried(value), [base64.b64encode(b).decode() for b in kept]))

    def _carried(self, value):
        return in_page(value if self.binary else without(value))

    def _heard(self, content, buffers):
        message = json.loads(content)
        raw = [base64.b64decode(b) for b in buffers] if self.binary else []
        self.biggest = max(self.biggest, len(content) + sum(map(len, raw)))
        if "trait" in message:
            self.widget.set_trait(message["trait"], message["value"])
        else:
            self.widget._heard(self.widget, message, [memoryview(b) for b in raw])

    def pump(self):
        with self.lock:
            waiting, self.outbox = self.outbox, []
        for message in waiting:
            self.tab.evaluate("(m) => window.fromPython(...m)", list(message))

    def until(self, condition, seconds=15):
        """Carry messages until a condition of Python's holds."""
        for _ in range(int(seconds * 50)):
            self.pump()
            if condition():
                return
            self.tab.wait_for_timeout(20)
        raise AssertionError(
            f"it did not happen within {seconds} s; the page says: {self.tab.inner_text('body')[:500]}"
        )
