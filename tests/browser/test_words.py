"""The prompt's field in a browser, without a kernel: words are marked by the browser alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from ldmkit.critters import words as vocabulary
from ldmkit.figures.html import asset, module
from ldmkit.panels.fields import unknown_words

pytestmark = pytest.mark.browser

MOUNT = """async ([source, state]) => {
    const url = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const {default: view} = await import(url);
    const handlers = {};
    window.saved = [];
    window.sent = [];
    window.model = {
        get: name => state[name],
        set: (name, value) => { state[name] = value; },
        save_changes: () => window.saved.push({...state, vocabulary: null}),
        send: message => window.sent.push(message),
        on: (name, handler) => { handlers[name] = handler; },
        off: name => { delete handlers[name]; },
    };
    window.set_value = value => { state.value = value; handlers["change:value"](); };
    window.close_view = view.render({model: window.model, el: document.body});
}"""
MESSY = [
    "a purpel cat, an ELEPHANT; with a crown!",
    "<script>alert(1)</script> <img src=x onerror=alert(2)>",
    "eine Katze 🐱 mit Hut",
    "a red-cat a.b,c  d\n\ne\tf",
    "İstanbul ſun ﬀ a\u00a0cat",
    "constructor __proto__ toString",
]


@pytest.fixture
def field(new_page):
    """``field(value, words) -> Seen`` with the view mounted in an empty page."""

    def mount(value="", words=vocabulary):
        seen = new_page(viewport={"width": 700, "height": 400})
        seen.page.set_content(
            f"<!doctype html><style>{asset('words.css', 'ldmkit.panels')}</style>"
        )
        state = {"value": value, "vocabulary": sorted(words), "title": "Prompt", "placeholder": ""}
        seen.page.evaluate(MOUNT, [module("words.mjs", "ldmkit.panels"), state])
        return seen

    return mount


def marked(page):
    return page.locator("mark").all_text_contents()


def test_marks_while_typing_and_tells_the_kernel_when_left(field, shots):
    seen = field("a red cat")
    page = seen.page
    text = page.get_by_role("textbox", name="Prompt")
    assert marked(page) == []
    saved = page.evaluate("saved.length")
    text.press("End")
    text.press_sequentially(" with a purpel hat and an elephant")
    assert marked(page) == ["purpel", "elephant"]
    told = page.get_by_role("status")
    expect(told).to_have_text("This model never learned “purpel” (nearest: purple), “elephant”.")
    assert page.evaluate("saved.length") == saved, "nothing is sent at a key"
    page.screenshot(path=shots / "words.png")
    text.blur()
    assert page.evaluate("saved.at(-1).value") == "a red cat with a purpel hat and an elephant"
    text.fill("a red cat")
    assert marked(page) == []
    expect(told).to_have_text("")
    assert (seen.errors, seen.dialogs) == ([], [])


@pytest.mark.parametrize("words", MESSY, ids=lambda words: words[:12])
def test_cuts_words_as_the_kernel_does(field, words):
    seen = field(words)
    told = seen.page.get_by_role("status").text_content()
    python = re.findall(r"“([^”]*)”", unknown_words(vocabulary, words))
    assert re.findall(r"“([^”]*)”", told) == python
    assert python, "each has words to find"
    assert seen.page.locator(".ldm-words-field").input_value() == words
    assert seen.page.locator(".ldm-words-behind").text_content() == words + "\u200b"
    assert (seen.errors, seen.dialogs) == ([], [])
    assert seen.page.locator("script, img").count() == 0


def test_the_copy_lies_letter_over_letter(field):
    words = "a purpel cat with a very very long line of words that has to break somewhere " * 40
    page = field(words.strip()).page
    boxes = page.evaluate(
        """() => ['.ldm-words-field', '.ldm-words-behind'].map(name => {
            const node = document.querySelector(name);
            return [node.clientWidth, node.scrollHeight, getComputedStyle(node).font];
        })"""
    )
    assert boxes[0] == boxes[1]
    page.locator(".ldm-words-field").evaluate("e => { e.scrollTop = 40; }")
    page.wait_for_function("document.querySelector('.ldm-words-behind').scrollTop === 40")


def test_the_kernel_sets_the_words(field):
    page = field("a cat").page
    page.evaluate("set_value('a purpel dog')")
    expect(page.locator(".ldm-words-field")).to_have_value("a purpel dog")
    assert marked(page) == ["purpel"]


def test_enter_with_control_runs(field):
    page = field("a cat").page
    text = page.locator(".ldm-words-field")
    text.fill("a dog")
    text.press("Control+Enter")
    assert page.evaluate("[sent.length, saved.at(-1).value]") == [1, "a dog"]
    text.press("Enter")
    assert page.evaluate("sent.length") == 1


def test_other_models_have_nothing_marked(field):
    page = field("an elephant", words=()).page
    assert marked(page) == []
    expect(page.get_by_role("status")).to_have_text("")


def test_a_view_that_is_taken_away_saves_its_words(field):
    page = field("a cat").page
    page.locator(".ldm-words-field").fill("a dog")
    page.evaluate("close_view()")
    assert page.evaluate("saved.at(-1).value") == "a dog"
