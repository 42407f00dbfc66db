"""What the benchmark of the views counts, without a browser."""

from benchmarks.views import pages, sent


def test_one_word_s_attention_takes_about_a_byte_a_cell():
    cells, ours, listed = sent()
    assert cells > 4 * 280 + 750
    assert ours < 1.8 * cells  # a byte each, and some words about each map
    assert listed > 14 * cells


def test_pages_that_are_opened_have_something_to_show():
    for name, view in pages().items():
        assert view.data["pieces" if "tokens" not in view.data else "tokens"], name
