"""How objects show themselves in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

import jaxstore as js
from jaxstore.card import card


class Read(HTMLParser):
    """The text of a page, whose tags must match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def run_of(path):
    collector = js.ZarrCollector(path, settings={"note": "<b>&"})
    _, run = js.scan(lambda x, _: (x + 1, {"x": x}), jnp.zeros(2), length=3, collector=collector,
                     progress=False)  # fmt: skip
    return collector, run


def storage_of(path):
    with js.ZarrStorage(stride=1, chunk_size=4, save_directory=path) as storage:
        for i in range(3):
            storage.store(0.5 * i, np.zeros((2, 5)), i)
    return js.open_storage(path)


def shown(tmp_path):
    """Objects, with what each tells of itself."""
    collector, run = run_of(tmp_path / "run.zarr")
    yield collector, ["ZarrCollector at ", "chains", "3, of them 3 committed"]
    yield run, ["complete", "1 chain of 3 draws", "note <b>&", "x", "1 x 3 x 2", "float32"]
    yield storage_of(tmp_path / "paths.zarr"), ["snapshots at ", "complete", "2 x 5 x 3"]
    loader = js.Loader({"x": np.zeros((100, 3), "f4")}, batch_size=10)
    yield loader, ["loader of ", "10 of 10 rows", "memory"]
    yield loader.describe(), ["loader of ", "windows"]
    items = np.ones((7, 3), "f4")
    yield js.plan(jnp.sum, items, name="total"), ["total of ", "7 in 1 units", "engine"]
    result = js.process(lambda x, *, by: {"top": x.max() * by}, items, params={"by": 2})
    yield result, ["result at ", "complete, 1 of 1 units", "by=2", "top", "7", "float32"]


def test_each_object_shows_what_it_is(tmp_path):
    for thing, told in shown(tmp_path):
        text = "\n".join(Read(thing._repr_html_()).text)
        missing = [words for words in told if words not in text]
        assert not missing, (type(thing), missing, text)


def test_a_bar_shows_how_much_is_there():
    assert 'value="0.250"' in card("half", {}, share=0.25)
    assert "progress" not in card("whole", {}, share=1.0)


@pytest.mark.parametrize("hostile", ["<script>", "a & b", '"'])
def test_nothing_that_is_told_is_html(hostile):
    page = card(hostile, {hostile: hostile}, [(hostile, (1,), hostile)])
    assert Read(page).text.count(hostile) == 5
    assert "<script>" not in page
