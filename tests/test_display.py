"""The HTML of a trace: right numbers, nothing unescaped, nothing from elsewhere, readable in light and dark."""

import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.traces import make_image, make_sound, make_trace
from workbench import display
from workbench.display import to_html
from workbench.thumbnails import VIRIDIS, thumbnail, waveform

VOID = {"img", "br", "meta"}
EVIL = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'&amp;"


class Page(HTMLParser):
    """Checks that every element is closed in order; keeps elements and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name):
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]

    @property
    def text(self):
        return "".join(self.texts)


@pytest.mark.parametrize(
    "what",
    [
        {}, {"rounds": 6, "thought": 4}, {"tokens": 0, "finish": "stopped"}, {"images": (), "audio": ()},
        {"tokens": 650}, {"images": ((7, 300),) * 15, "names": ("wide.png",)}, {"words": ["\n", "\n\n", "", " ", "\t"]},
        {"finish": "max_new_tokens", "tokens": 3, "top": 1},
    ],
    ids=str,
)  # fmt: skip
def test_it_is_balanced_and_needs_no_script_and_no_network(what):
    page = Page(to_html(make_trace(**what)))
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "a", "form", "base"})
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        assert attrs.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_everything_is_escaped():
    content = [{"type": EVIL, "index": EVIL}, {"type": "text", "text": EVIL}]
    trace = make_trace(
        words=[EVIL, " b"], question=EVIL, names=(EVIL,), history=({"role": EVIL, "content": EVIL},), thought=2
    )
    trace = replace(
        trace, text=EVIL, finish=EVIL, model=replace(trace.model, name=EVIL, device=EVIL, quantization=EVIL),
        images=(replace(trace.images[0], notes=(EVIL,), name=EVIL), trace.images[1]),
        audio=(replace(trace.audio[0], name=EVIL, notes=(EVIL,)),),
        prompt=replace(trace.prompt, messages=({"role": "user", "content": content},)),
    )  # fmt: skip
    html = to_html(trace)
    assert "<script" not in html
    assert "<img src=x" not in html
    page = Page(html)
    assert len([tag for tag, _ in page.elements if tag == "img"]) == 2
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert page.text.count("<script>alert(2)</script>") > 8  # to be read, not to be run


def test_control_and_direction_characters_are_made_visible():
    html = to_html(make_trace(words=["\u202egnp.exe", "\x1b[31m", "\ud800", "\x00"], question="a\u2067b"))
    assert re.search("[\x00-\x08\x0e-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html) is None
    html.encode("utf-8")
    assert "⟨202E⟩gnp.exe" in html
    assert "⟨D800⟩" in html


def test_what_has_no_width_can_be_pointed_at():
    html = to_html(make_trace(tokens=5, words=["\u200d", "\ufeff\u200b", "\u0301", "e\u0301"]))
    for shown in (">⟨200D⟩<", ">⟨FEFF⟩⟨200B⟩<", ">\u0301<", ">e\u0301<"):
        assert shown in html


@pytest.mark.parametrize(
    ("p", "shown", "tenth"),
    [(1.0, "100 %", 9), (0.9999, "99.99 %", 9), (0.95, "95.0 %", 9), (0.621, "62.1 %", 6), (0.5, "50.0 %", 5),
     (0.099, "9.9 %", 0), (0.004, "0.4 %", 0), (0.0, "0 %", 0)],
)  # fmt: skip
def test_probabilities_are_shown_as_people_read_them(p, shown, tenth):
    logprob = math.log(p) if p else -math.inf
    assert display._percent(logprob) == shown
    if p:
        html = to_html(make_trace(tokens=2, probability=np.array([max(min(p, 0.99999), 1e-4)] * 2)))
        assert Page(html).of("t")[0]["class"] == f"t p{tenth}"


def test_a_word_tells_what_it_nearly_said():
    """A word of 60 %: four others share the rest with the one that is not shown, 8 % each."""
    trace = make_trace(tokens=3, probability=np.full(3, 0.6))
    page = Page(to_html(trace))
    first = page.of("t")[0]
    assert first["tabindex"] == "0"
    (tip,) = [attrs for _, attrs in page.elements if attrs.get("id") == first["aria-describedby"]]
    assert tip["role"] == "tooltip"
    assert "hidden" in tip  # also where a sanitizer takes the styles away
    assert "▸A60.0 %␣red8.0 %␣circle8.0 %" in page.text
    assert "token 0 · plain · rank 0 · logprob -0.511" in page.text


def test_the_chosen_word_is_listed_though_it_is_not_among_the_top():
    trace = make_trace(tokens=3)
    tokens = replace(trace.tokens, token_id=np.array([999, *trace.tokens.token_id[1:]]), rank=np.array([7, 0, 0]))
    assert "▸A" in Page(to_html(replace(trace, tokens=tokens))).text


def test_drafts_thoughts_and_special_tokens_are_marked():
    trace = make_trace(rounds=6, thought=4)
    page = Page(to_html(trace))
    own = [attrs["class"].split() for attrs in page.of("t") if "tabindex" in attrs]
    marks = [next((int(c[1]) for c in classes if re.fullmatch(r"s\d", c)), 0) for classes in own]
    assert marks == trace.tokens.source.tolist()
    assert own[-1][-1] == "chip"
    assert "Thought: 4 tokens" in page.text
    assert "7 of 16 drafts kept" in page.text
    for legend in ("draft, accepted", "draft, corrected", "bonus after drafts"):
        assert legend in page.text
    assert "forced" not in Page(to_html(make_trace())).text


def test_the_summary_has_the_numbers():
    text = Page(to_html(make_trace(tokens=7))).text  # 0.1 s to the first, then 6 of 0.05 s
    assert "7 tokens in 0.40 s" in text
    assert "20.0 tokens/s" in text
    assert "temperature 0.7 · seed 42" in text
    assert "ended by itself" in text
    assert "Prompt: 73 tokens" in text
    assert "60×36 px · 3×5 patches" in text
    assert "1.30 s · 33 frames" in text


def test_only_words_that_were_not_given_have_a_speed():
    trace = make_trace(tokens=6)
    times = np.array([1.0, 1.0, 1.0, 2.0, 2.5, 3.0])
    timed = replace(trace, tokens=replace(trace.tokens, time_s=times))
    assert display.tokens_a_second(timed) == pytest.approx(5 / 2)
    branch = replace(timed, tokens=replace(timed.tokens, source=[4, 4, 4, 0, 0, 0]))
    assert display.tokens_a_second(branch) == pytest.approx(2 / 1), "two words after the first that was not given"
    for source in ([4] * 6, [4] * 5 + [0]):
        scored = replace(timed, tokens=replace(timed.tokens, source=source))
        assert display.tokens_a_second(scored) is None
        assert "tokens/s" not in display.to_html(scored)


def test_long_answers_stay_small_and_say_what_is_left_out():
    html = to_html(make_trace(tokens=5000, top=20))
    page = Page(html)
    assert len(html.encode()) < 2_000_000
    assert len(page.of("tip")) == 600
    assert "Alternatives are shown for the first 600 of 5,000 tokens" in page.text
    assert "%" in page.of("t")[700]["title"]


@pytest.mark.parametrize(("piece", "shown"), [("x", "x" * 400 + "…"), ("\n", "↵" * 400 + "\n" * 400 + "…")])
def test_tokens_that_are_long_texts_are_cut(piece, shown):
    trace = make_trace(tokens=9)
    long = lambda n: to_html(replace(trace, tokens=replace(trace.tokens, piece=(piece * n,) * 9)))  # noqa: E731
    html = long(50_000)
    assert shown in Page(html).text
    assert len(html) == len(long(5_000))
    assert "…</span>" not in long(400).replace(display._visible(piece * 400), "")


def test_many_pictures_and_segments_stay_small():
    html = to_html(make_trace(images=((300, 500),) * 40, names=tuple(f"{k}.png" for k in range(40))))
    assert html.count("<img") == 12
    assert "And 28 more: 12.png, 13.png" in html
    assert len(html) < 3_000_000


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("text", "ground"),
    [((27, 31, 36), (255, 255, 255)), ((230, 237, 243), (15, 19, 24)),  # ours
     ((33, 33, 33), (255, 255, 255)), ((255, 255, 255), (17, 17, 17))],  # JupyterLab's
)  # fmt: skip
@pytest.mark.parametrize("step", range(10))
def test_words_can_be_read_on_every_colour(text, ground, step):
    mixed = [display._ALPHA * c + (1 - display._ALPHA) * g for c, g in zip(VIRIDIS[step], ground, strict=True)]
    high, low = sorted([luminance(text), luminance(mixed)], reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_the_line_below_tells_without_colour():
    widths = [display._under(k) for k in range(10)]
    assert widths == sorted(set(widths), reverse=True)
    assert (widths[0], widths[9]) == (4, 0)


def test_thumbnails_keep_proportions_and_do_not_grow():
    url, width, height = thumbnail(make_image(300, 600), 240)
    assert (width, height) == (240, 120)
    assert url.startswith("data:image/png;base64,")
    assert thumbnail(make_image(5, 9))[1:] == (9, 5)


def test_a_waveform_goes_from_the_lowest_to_the_highest_sample():
    svg = waveform(make_sound(1.0), width=100, height=48)
    y = [float(pair.split(",")[1]) for pair in re.search(r'd="M(.*?)Z"', svg)[1].split()]
    assert min(y) == pytest.approx(24 - 22 * 0.8, abs=0.3)
    assert max(y) == pytest.approx(24 + 22 * 0.8, abs=0.3)
    assert waveform(make_sound(1 / 16_000)).startswith("<svg")  # one sample


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_alternatives_appear_on_hover_and_on_focus(tmp_path, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{to_html(make_trace())}", "utf-8")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 800, "height": 700}, color_scheme=scheme)
        page.goto((tmp_path / "page.html").as_uri())
        words, tips = page.locator(".words > .t"), page.locator(".tip")
        assert not any(tips.nth(k).is_visible() for k in range(7))
        words.nth(2).hover()
        assert [k for k in range(7) if tips.nth(k).is_visible()] == [2]
        box = tips.nth(2).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 800
        assert box["y"] >= words.nth(2).bounding_box()["y"] + words.nth(2).bounding_box()["height"] - 8
        page.mouse.move(790, 690)
        words.nth(4).focus()
        assert [k for k in range(7) if tips.nth(k).is_visible()] == [4]
        ground = page.evaluate("getComputedStyle(document.querySelector('.wbt')).backgroundColor")
        assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(15, 19, 24)"}[scheme]
        browser.close()
