"""The report: complete, well-formed, and nothing in it that could run or call out."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dgmm.covariance import family_names
from dgmm.errors import InvalidParameterError
from dgmm.record import RestartRecord
from dgmm.report import Gallery, write_report
from dgmm.report.charts import Line, line_chart, log_ticks, ticks
from dgmm.report.components import components_of, draw, scale_of
from dgmm.report.images import diverging, grey, png_uri
from dgmm.report.wording import count, decimal, duration, percent, plural
from tests.report.stubs import N_COMPONENTS, evaluation, model, record

VOID = {"meta", "img", "br", "col", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps the text, the tags and the attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += f" {data}"

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def page(tmp_path: Path, fitted: Any = None, **options: Any) -> Page:
    path = write_report(tmp_path / "report.html", fitted or model(), **options)
    html = path.read_text(encoding="utf-8")
    assert "://" not in html
    return Page(html)


@pytest.mark.parametrize("shape", [None, (3, 4)])
@pytest.mark.parametrize("family", family_names())
def test_every_family_has_a_page_that_stands_alone(
    tmp_path: Path, family: str, shape: tuple[int, int] | None
) -> None:
    one = page(tmp_path, model(family), evaluation=evaluation(), image_shape=shape)
    assert not {"script", "link", "iframe", "object"} & set(one.tags)
    assert all(uri.startswith("data:image/png;base64,") for uri in one.values("src"))
    assert not any(name.startswith("on") for _, name, _ in one.attributes)
    assert "1,234,567 rows" in one.text
    assert "50.0 % of 256 MiB" in one.text
    assert "−1.98765" in one.text


def test_every_restart_is_listed_with_its_reason(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert re.search(r"0 stopped at max_iter 4 −3 float32", text)
    assert re.search(r"1 converged 4 −2 float64 kept", text)
    assert re.search(r"2 retired 2 −4.5 centred component 3 <collapsed>", text)


def test_a_restart_that_a_draw_ended_says_how(tmp_path: Path) -> None:
    one = record((-2.5, -2.0))
    drawn = replace(one.restarts[1], status="collapsed")
    text = page(tmp_path, model(record_=replace(one, restarts=(drawn,)))).text
    assert "ended by a draw" in text
    assert "likeliest iterate" in text


def test_components_come_in_the_order_of_their_weights(tmp_path: Path) -> None:
    text = page(tmp_path).text
    found = re.findall(r" (\d) (\d+\.\d) % [\d,]+ ", text)
    assert [int(index) for index, _ in found] == [1, 3, 2, 0, 4]


def test_what_users_name_is_escaped(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script>"
    names = [f'<b onclick="x">{i}</b>' for i in range(12)]
    fitted = model(record_=record((-2.0,), notes=(attack,)), engine=attack)
    one = page(tmp_path, fitted, title=attack, feature_names=names)
    assert not {"script", "b onclick"} & set(one.tags)
    assert one.text.count(attack) == 3
    assert all(name in one.text for name in names)


def test_images_have_words_and_tables_have_heads(tmp_path: Path) -> None:
    rows = draw(model(), 7, np.random.default_rng(0))
    one = page(tmp_path, image_shape=(3, 4), extra=[Gallery("Real <rows>", "As they are.", rows)])
    assert one.values("alt").count("Mean of component 3") == 1
    assert one.values("alt").count("Sample of component 0") > 1
    assert any(alt.startswith("Eigenvector 1 of component 4, ") for alt in one.values("alt"))
    assert "Real <rows>: 7 images" in one.values("aria-label")
    assert one.tags.count("img") == len(one.values("alt"))
    assert {"col", "row", "colgroup"} == set(one.values("scope"))


def test_a_model_without_a_record_has_a_page(tmp_path: Path) -> None:
    one = page(tmp_path, model(record_=None, memory_limit=None))
    assert "Convergence" not in one.text
    assert "Weights" in one.text


def test_a_fit_without_iterations_has_a_page(tmp_path: Path) -> None:
    idle = RestartRecord("max_iter", 0, float("-inf"), (), "float32")
    fitted = model(lower_bound_=float("-inf"), n_iter_=0)
    fitted.record_ = replace(fitted.record_, restarts=(idle,))
    assert "Convergence" not in page(tmp_path, fitted).text


def test_many_features_are_a_heat_map_and_a_table_of_the_telling_ones(tmp_path: Path) -> None:
    fitted = model("diag", n_features=40)
    fitted.means_[:, 17] *= 100
    one = page(tmp_path, fitted)
    assert "12 of 40 features" in one.text
    assert " x17 " in one.text
    assert any("all 40 features" in alt for alt in one.values("alt"))


def test_a_mixture_of_many_components_shows_the_heaviest(tmp_path: Path) -> None:
    weights = np.full(100, 0.01)
    fitted = model("spherical", weights_=weights, means_=np.zeros((100, 12)))
    fitted.covariances_ = np.ones(100)
    assert "And 68 more" in page(tmp_path, fitted).text


@pytest.mark.parametrize(
    "options",
    [
        {"image_shape": (3, 3)},
        {"feature_names": ["a"]},
        {"extra": [Gallery("a", "b", np.zeros((1, 12)))]},
    ],
)
def test_what_does_not_fit_the_features_is_refused(tmp_path: Path, options: Any) -> None:
    with pytest.raises(InvalidParameterError):
        page(tmp_path, **options)


@pytest.mark.parametrize("family", family_names())
def test_components_agree_with_their_covariances(family: str) -> None:
    fitted = model(family)
    rows = draw(fitted, 200_000, np.random.default_rng(0))
    scale = scale_of(fitted)
    np.testing.assert_allclose(rows.mean(axis=0), scale.mean, atol=0.05)
    np.testing.assert_allclose(rows.std(axis=0), scale.deviations, rtol=0.02)
    for one in components_of(fitted, n_axes=3, most=N_COMPONENTS):
        assert one.axes.shape == (3, 12)
        np.testing.assert_allclose(one.axes @ one.axes.T, np.eye(3), atol=1e-12)
        assert one.shares.sum() == pytest.approx(1)
        assert all(a >= b for a, b in pairwise(one.shares))
        assert 1 <= one.effective_dimensions <= 12 + 1e-9


def test_png_files_are_what_pillow_reads() -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for shape in ((3, 5), (4, 2, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        uri = png_uri(pixels)
        content = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
        np.testing.assert_array_equal(np.asarray(image.open(content)), pixels)


def test_colours_keep_sign_and_size() -> None:
    low, zero, high = decode(diverging(np.array([[-2.0, 0.0, 2.0]])))[0]
    assert low[2] > low[0]
    assert zero.min() > 240
    assert high[0] > high[2]
    assert decode(grey(np.array([[-9.0, 0.5, 9.0]]), 0, 1)).ravel().tolist() == [0, 128, 255]


def decode(uri: str) -> np.ndarray:
    """The pixels of a PNG without filters."""
    png = base64.b64decode(uri.partition(",")[2])
    width, height, _, colour = struct.unpack(">IIBB", png[16:26])
    size = struct.unpack(">I", png[33:37])[0]
    lines = np.frombuffer(zlib.decompress(png[41 : 41 + size]), np.uint8).reshape(height, -1)
    return lines[:, 1:].reshape((height, width, 3) if colour == 2 else (height, width))


def test_a_curve_has_gaps_where_it_cannot_be_drawn() -> None:
    values = [float("nan"), 1.0, 0.1, -1.0, 0.01, float("-inf"), 0.5]
    svg = line_chart([Line("a", values)], title="t", x_label="x", y_label="y", is_log=True)
    path = re.search(r'<path d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 3
    assert path[1].count("L") == 1
    assert "nan" not in svg
    assert "inf" not in svg


def test_a_chart_of_nothing_is_empty() -> None:
    for values in ([], [float("nan")], [-1.0]):
        assert line_chart([Line("a", values)], title="", x_label="", y_label="", is_log=True) == ""


@pytest.mark.parametrize("values", [[3.0], [5.0, 5.0], [1e9, 1e9 + 1], [-1e-9, 1e-9]])
def test_charts_of_narrow_ranges_are_finite(values: list[float]) -> None:
    svg = line_chart([Line("a", values)], title="t", x_label="x", y_label="y")
    assert "nan" not in svg
    assert "inf" not in svg


def test_ticks_are_round_and_few() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-197.3, -145.2) == [-190, -180, -170, -160, -150]
    assert log_ticks(1e-3, 10) == [1e-3, 1e-2, 0.1, 1, 10]
    assert len(log_ticks(1e-30, 1)) <= 6


def test_numbers_read_well() -> None:
    assert count(4253760) == "4,253,760"
    assert [plural(1, "pass"), plural(2, "pass"), plural(2, "row")] == [
        "1 pass",
        "2 passes",
        "2 rows",
    ]
    assert [decimal(-1234.5), decimal(1e-7), decimal(-1.679e9)] == [
        "−1,234",
        "1 × 10⁻⁷",
        "−1.679 × 10⁹",
    ]
    assert [decimal(float("-inf")), decimal(float("nan"))] == ["−∞", "not finite"]
    assert [percent(0.5), percent(1e-5), percent(0.99999), percent(1.0)] == [
        "50.0 %",
        "< 0.1 %",
        "> 99.9 %",
        "100.0 %",
    ]
    assert [duration(s) for s in (0.42, 17, 125.4, 4330)] == [
        "0.42 s",
        "17 s",
        "2 min 05 s",
        "1 h 12 min",
    ]


def test_an_accelerated_fit_is_reported_by_its_gap(tmp_path):
    fitted = model()
    restarts = tuple(replace(one, gap=0.25, evaluations=7) for one in fitted.record_.restarts)
    fitted.record_ = replace(fitted.record_, restarts=restarts, acceleration="computing")
    text = Page(write_report(tmp_path / "report.html", fitted).read_text("utf-8")).text
    assert "0.25 nats per row" in text
    assert "computing is the bottleneck" in text
    plain = Page(write_report(tmp_path / "report.html", model()).read_text("utf-8")).text
    assert "estimated gap" not in plain


def test_a_record_is_shown_as_text() -> None:
    found = record((-3.0, -2.0), notes=("first", "second"))
    text = str(found)
    assert "1234567 rows, 7 passes, 125 s" in text
    assert "restart 2: retired (component 3 <collapsed>) after n_iter=2, lower bound -4.5" in text
    assert text.endswith("note: first\nnote: second")
    assert "lost" not in text
    assert "workers lost: 2; passes begun again: 1" in str(
        replace(found, workers_lost=2, retries=1)
    )
    skipped = replace(found, skipped_rows=7, skipped_blocks=("block 3: gone",))
    assert "rows skipped: 7; block 3: gone" in str(skipped)
