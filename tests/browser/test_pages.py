"""Exported pages, opened from the disk in a real browser: seen, clicked, hovered, driven by keys alone."""

from dataclasses import replace

from tests.traces import make_trace
from widgets import DiffView, DraftView, TokenView, to_html

EVIL = "<img src=x onerror=\"document.title='owned'\">"


def test_words_can_be_pointed_at_picked_and_recoloured(open_page, picture, tmp_path):
    tab = open_page(to_html(make_trace(rounds=14, thought=4), tmp_path / "a.html"))
    words = tab.locator(".wb").first.locator(".wb-t[role=option]")
    assert words.count() == 34
    words.nth(5).hover()
    panel = tab.locator(".wb-panel")
    panel.get_by_role("heading", name="Token 5: ␣the").wait_for()
    assert panel.get_by_role("listitem").count() == 5
    words.nth(6).click()
    tab.mouse.move(0, 0)
    panel.get_by_role("heading", name="Token 6: ␣top").wait_for()
    assert words.nth(6).get_attribute("aria-selected") == "true"
    assert "saved page" in panel.inner_text()
    before = words.nth(6).get_attribute("class")
    tab.get_by_label("Colour").select_option("rank")
    assert words.nth(6).get_attribute("class") == "wb-t p9" != before  # always the first choice in this trace
    picture(tab, "tokens-light")


def test_keys_alone_are_enough(open_page, tmp_path):
    tab = open_page(to_html(TokenView(make_trace(rounds=14)), tmp_path / "a.html"))
    words = tab.locator(".wb-t[role=option]")
    tab.keyboard.press("Tab")  # the choice of colours
    tab.keyboard.press("Tab")
    assert words.nth(0).evaluate("node => node === document.activeElement")
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    assert words.nth(3).get_attribute("aria-selected") == "true"
    assert tab.locator(".wb-t[tabindex='0']").count() == 1  # one stop for the Tab key
    tab.keyboard.press("End")
    assert words.nth(33).evaluate("node => node === document.activeElement")
    tab.keyboard.press("ArrowUp")
    above = tab.evaluate("document.activeElement.getBoundingClientRect().top")
    assert above < words.nth(33).bounding_box()["y"]
    tab.keyboard.press("Escape")
    assert tab.locator("[aria-selected=true]").count() == 0


def test_what_a_model_wrote_stays_text(open_page, tmp_path):
    trace = make_trace(rounds=4, words=[EVIL, "</script>", "\u202eb"], question=EVIL, names=(EVIL,), text=EVIL)
    tab = open_page(to_html(trace, tmp_path / "a.html"))
    words = tab.locator(".wb").first.locator(".wb-t[role=option]")
    assert words.nth(0).inner_text() == EVIL
    assert words.nth(2).inner_text() == "⟨202E⟩b"
    words.nth(0).click()
    tab.get_by_text("Prompt:").click()
    assert tab.locator("img[src=x]").count() == 0
    assert tab.title() == EVIL


def test_narrow_and_dark(open_page, picture, tmp_path):
    path = to_html(make_trace(rounds=14, thought=4), tmp_path / "a.html")
    tab = open_page(path, width=400, color_scheme="dark")
    tab.locator(".wb-t").nth(8).click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert tab.locator(".wb[data-dark]").count() == tab.locator(".wb").count()
    picture(tab, "tokens-dark-narrow")


def test_five_thousand_words(open_page, tmp_path):
    path = to_html(TokenView(make_trace(tokens=5000, images=(), audio=(), top=20)), tmp_path / "a.html")
    tab = open_page(path)
    words = tab.locator(".wb-t[role=option]")
    words.nth(4999).wait_for(state="attached")  # the later ones come after the first paint
    assert words.count() == 5000
    words.nth(0).focus()
    tab.keyboard.press("End")
    tab.get_by_role("heading", name="Token 4999: <turn|>").wait_for()


def test_rounds_can_be_replayed_and_asked_what_if(open_page, picture, tmp_path):
    tab = open_page(to_html(DraftView(make_trace(rounds=14)), tmp_path / "a.html"))
    rows = tab.get_by_label("Rounds").get_by_role("button")
    assert rows.count() == 14
    assert "19 of 40 drafts kept" in tab.get_by_role("status").first.inner_text()
    rows.nth(3).click()
    assert tab.get_by_role("slider", name="Round").input_value() == "3"
    cells = tab.locator(".wb-detail tbody tr")
    assert [row.split("\t")[-1] for row in cells.all_inner_texts()] == [
        "kept",
        "kept",
        "kept",
        "bonus: all drafts kept",
    ]
    tab.get_by_role("button", name="Next round").click()
    assert [row.split("\t")[-1] for row in cells.all_inner_texts()] == [
        "thrown away", "never judged", "never judged", "the model's word instead",
    ]  # fmt: skip
    tab.get_by_role("slider", name="Round").press("End")
    assert rows.nth(13).get_attribute("aria-current") == "true"
    tab.get_by_text("What if rounds were").click()
    tab.get_by_role("slider", name="Drafts a round").press("Home")
    tab.get_by_text("1.00 tokens a round, about 1.00× the speed").wait_for()
    tab.get_by_role("button", name="▶ play").click()
    tab.get_by_text("❚❚ pause").wait_for()
    tab.get_by_text("❚❚ pause").click()
    picture(tab, "drafts-light")


def test_views_of_one_page_share_the_picked_word(open_page, tmp_path):
    tab = open_page(to_html(make_trace(rounds=6), tmp_path / "a.html"))
    tab.locator(".wb-t[role=option]").nth(4).click()  # of round 2, which starts at token 4
    assert tab.get_by_role("slider", name="Round").input_value() == "2"
    tab.get_by_label("Rounds").get_by_role("button").nth(1).click()
    assert tab.locator(".wb-t[aria-selected=true]").inner_text() == " circle"
    assert tab.get_by_role("slider", name="Round").input_value() == "1"


def test_two_answers_side_by_side(open_page, picture, tmp_path):
    a = make_trace(tokens=9, seed=1)
    b = make_trace(tokens=9, seed=2)
    ids, pieces = b.tokens.token_id.copy(), list(b.tokens.piece)
    ids[4], pieces[4], pieces[5] = 999, " on", EVIL
    b = replace(b, tokens=replace(b.tokens, token_id=ids, piece=tuple(pieces)))
    tab = open_page(to_html(DiffView(a, b), tmp_path / "a.html"))
    tab.get_by_text("The answers part at token 4.").wait_for()
    left, right = tab.get_by_role("listbox").all()
    assert left.locator(".parts").inner_text() == " at"
    assert right.locator(".parts").inner_text() == " on"
    left.get_by_role("option").nth(2).click()
    tab.get_by_text("Token 2: KL ≥").wait_for()
    assert right.locator("[aria-selected=true]").inner_text() == " circle"
    assert tab.locator(".wb-both table").count() == 2
    picture(tab, "diff-light")
    right.get_by_role("option").nth(7).hover()
    tab.get_by_text("nothing to compare").wait_for()


def test_two_answers_by_keys_alone_and_in_a_narrow_page(open_page, picture, tmp_path):
    view = DiffView(make_trace(tokens=9, seed=1), make_trace(tokens=9, seed=2))
    tab = open_page(to_html(view, tmp_path / "a.html"), width=400, color_scheme="dark")
    left, right = tab.get_by_role("listbox").all()
    tab.keyboard.press("Tab")
    assert left.get_by_role("option").nth(0).evaluate("node => node === document.activeElement")
    tab.get_by_text("Token 0: KL ≥").wait_for()
    for _ in range(3):
        tab.keyboard.press("ArrowRight")
    tab.get_by_text("Token 3: KL ≥").wait_for()
    tab.keyboard.press("Enter")
    assert right.locator("[aria-selected=true]").count() == 1
    tab.keyboard.press("Tab")  # the other answer, at the same word
    assert right.get_by_role("option").nth(3).evaluate("node => node === document.activeElement")
    tab.keyboard.press("Escape")
    assert tab.locator("[aria-selected=true]").count() == 0
    tab.locator(".wb-kl i").nth(2).click()  # what the mouse can do besides
    assert left.locator("[aria-selected=true]").inner_text() == " circle"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert right.bounding_box()["y"] > left.bounding_box()["y"] + 20  # below each other
    picture(tab, "diff-dark-narrow")


def test_many_rounds_are_all_there_and_the_last_one_can_be_asked_for_first(open_page, tmp_path):
    trace = make_trace(rounds=60)
    tab = open_page(to_html(DraftView(trace), tmp_path / "a.html"))
    rows = tab.locator(".wb-rounds button")
    rows.nth(59).wait_for()
    assert rows.count() == len(trace.rounds) == 60
    numbers = [text.split(",")[0] for text in rows.evaluate_all("all => all.map((one) => one.textContent)")]
    assert all(text.startswith(f"Round {k}") for k, text in enumerate(numbers))
    assert rows.nth(0).get_attribute("aria-current") == "true"
    last = DraftView(trace)
    last.selected = len(trace.tokens.piece) - 1
    tab = open_page(to_html(last, tmp_path / "b.html"))
    tab.get_by_text("round 59 of 59").wait_for()
    assert tab.locator(".wb-rounds button").count() == 60
    assert tab.locator(".wb-rounds button").nth(59).get_attribute("aria-current") == "true"
    tab.get_by_text("What if rounds were").click()
    tab.get_by_label("Speed for 0 to 8 drafts").wait_for()
