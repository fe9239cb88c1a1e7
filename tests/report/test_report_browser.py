"""The report in a real browser: it draws without a word of complaint, loads nothing, and does what is asked."""

import json
import random
from dataclasses import replace

import pytest
from browsing import Browser, Tab, find_browser

from vispco.frontier import pareto_front, rank_correlation
from vispco.report import ReportData, TextTable, write_report
from vispco.report import html as page_of
from vispco.schedule import check_keep

pytestmark = pytest.mark.skipif(
    find_browser() is None, reason="no Chromium here; install the package chromium to check the report in a browser"
)
EVIL = "</script><img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>'&"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def url(full, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, full)
    return path.as_uri()


@pytest.fixture(scope="module")
def tab(browser, url):
    return Tab(browser, url)


@pytest.fixture
def fresh(tab, url):
    """The page as it opens, whatever was done to it before."""
    tab.run("history.replaceState(null, '', location.pathname); follow(); scrollTo(0, 0)")
    return tab


def drawn(tab, plot="#frontier-plot"):
    """Names of the points of each series: those on its front by increasing cost, and dominated ones."""
    script = f"""[...document.querySelectorAll("{plot} .series")].map((series) => [
        series.dataset.label, ...["front", "dominated"].map((kind) =>
            [...series.querySelectorAll("." + kind)].map((node) => node.dataset.name))])"""
    return {label: (front, rest) for label, front, rest in tab.run(script)}


def place(tab, name, plot="#frontier-plot"):
    """Middle of a marker in the window."""
    return tab.run(f"""(() => {{
        const node = [...document.querySelectorAll("{plot} [data-name]")]
            .find((each) => each.dataset.name === {json.dumps(name)});
        node.scrollIntoView({{block: "center"}});
        const box = node.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }})()""")


def test_opens_without_complaints_and_loads_nothing(tab, url):
    assert tab.complaints() == []
    assert [address for address in tab.loaded() if not address.startswith("data:image/")] == [url]
    assert tab.run("document.documentElement.dataset.drawn") == "yes"
    assert tab.run("document.querySelectorAll('section svg').length") > 5


def test_what_is_broken_is_seen(browser, full, tmp_path, monkeypatch):
    """The twin of the test above: an error in the script, and a script and a picture that the policy refuses."""
    script = page_of.script_text()
    monkeypatch.setattr(page_of, "script_text", lambda: script + "\nconsole.warn('aside'); nothing.at.all();")
    text = page_of.render_report(full)
    text = text.replace(
        "<footer>", "<script>document.title = 'gone'</script><img src='http://localhost/a.png'><footer>"
    )
    (tmp_path / "broken.html").write_text(text)
    tab = Tab(browser, (tmp_path / "broken.html").as_uri())
    found = "\n".join(tab.complaints())
    for part in ("aside", "nothing is not defined", "Executing inline script violates", "Loading the image"):
        assert part in found, part
    assert tab.run("document.title") == full.title


@pytest.mark.parametrize("cost", ["flops", "kv"])
@pytest.mark.parametrize("quality", ["score", "kl"])
def test_fronts_are_those_of_python(fresh, full, cost, quality):
    fresh.run(f"set({{ cost: '{cost}', quality: '{quality}' }})")
    found = drawn(fresh)
    for method, label in {"learned": "learned", "grid": "exhaustive grid", "step": "single-cut grid"}.items():
        points = [point for point in full.points if point.method == method]
        expected = [point.name for point in pareto_front(points, cost, quality)]
        front, rest = found[label]
        assert front == expected
        assert set(rest) == ({point.name for point in points} - set(expected) if method == "learned" else set())
    assert len(found["random"][0]) == 2


def test_the_front_of_many_points_with_ties(fresh, make_point):
    """Numbers from a coarse raster, so that many are equal in one or both."""
    draw = random.Random(0)
    for less, quality in ((False, "score"), (True, "kl")):
        rows = [(draw.randint(0, 9) / 10, draw.randint(0, 9) / 10) for _ in range(60)]
        points = [make_point(str(i), "grid", x, y, quality={quality: y}) for i, (x, y) in enumerate(rows)]
        expected = [int(point.name) for point in pareto_front(points, quality=quality)]
        labelled = [[x, y, index] for index, (x, y) in enumerate(rows)]
        found = fresh.run(f"nonDominated({json.dumps(labelled)}, {json.dumps(less)}).map((row) => row[2])")
        assert found == expected


def test_markers_lie_where_their_numbers_are(fresh, full):
    """Places are linear in cost and accuracy, cost to the right and accuracy up."""
    moved = fresh.run("""[...document.querySelectorAll("#frontier-plot [data-name]")].map((node) =>
        [node.dataset.name, ...node.getAttribute("transform").match(/[\\d.]+/g).map(Number)])""")
    places = {name: (x, y) for name, x, y in moved}
    points = {point.name: (point.costs["flops"], point.quality["score"]) for point in full.points}
    low, high = "learned b=0.30", "unpruned"
    for name, place in places.items():
        for axis in (0, 1):
            share = (points[name][axis] - points[low][axis]) / (points[high][axis] - points[low][axis])
            reached = (place[axis] - places[low][axis]) / (places[high][axis] - places[low][axis])
            assert reached == pytest.approx(share, abs=0.002), name
    assert places[high][0] > places[low][0]
    assert places[high][1] < places[low][1]


def test_an_address_sets_the_view(browser, url):
    tab = Tab(browser, url + "#cost=kv&quality=kl&hide=random&pin=learned+b%3D0.50&layer=2&x=toString&layer=77")
    axes = tab.run("[...document.querySelectorAll('#frontier-plot .name')].map((node) => node.textContent)")
    assert axes == ["KV cache, fraction of unpruned", "KL from the unpruned model on test split"]
    assert "random" not in drawn(tab)
    assert "learned b=0.50" in tab.text("#pinned")
    assert tab.run("document.querySelector('#costs select').value") == "flops"
    assert tab.text("#gallery output") == "layer 2 of 3"
    assert tab.text("#better") == "Down and to the left is better."
    title = tab.run("""new Promise((done) => { addEventListener("hashchange", () =>
        done(document.querySelector("#frontier-plot .name").textContent)); location.hash = "#cost=flops"; })""")
    assert title == "prefill FLOPs, fraction of unpruned"
    assert tab.complaints() == []


def test_the_legend_switches_series_and_the_address_remembers(fresh):
    fresh.run("[...document.querySelectorAll('#legend button')].find((each) => each.textContent === 'random').click()")
    assert "random" not in drawn(fresh)
    assert "random" not in drawn(fresh, "#costs-plot")
    assert fresh.run("location.hash") == "#hide=random"
    assert fresh.run("document.querySelectorAll('#legend [aria-pressed=false]').length") == 1
    fresh.run("[...document.querySelectorAll('#legend button')].find((each) => each.textContent === 'random').click()")
    assert "random" in drawn(fresh)
    assert fresh.run("location.hash") == ""


def test_hover_tells_all_and_a_click_pins(fresh, full):
    x, y = place(fresh, "learned b=0.50")
    fresh.mouse(x + 3, y + 3)
    said = fresh.text("#tip")
    for part in (
        "learned b=0.50",
        "accuracy\n83.0 % [",
        "prefill FLOPs\n0.500",
        "KL",
        "KV cache",
        "0: 100, 1\N{EN DASH}2: 50",
    ):
        assert part in said.replace("\n\n", "\n"), part
    assert said.index("accuracy") < said.index("KL")  # in the order of the points, not of the alphabet
    heights = fresh.run("[...document.querySelectorAll('#tip .strip i')].map((bar) => bar.style.height)")
    assert heights == ["100%", "50%", "50%", "0.2%"]
    fresh.mouse(x, y, click=True)
    assert "slices: colour 75.0 %, count 25.0 %" in fresh.text("#pinned")
    assert fresh.run("[...document.querySelectorAll('tr.chosen th')].map((node) => node.textContent)") == ["0.5"]
    assert fresh.run("document.querySelector('select[data-state=slices]').value") == "learned b=0.50"
    fresh.mouse(2, 2)
    assert fresh.run("document.getElementById('tip').hidden")
    fresh.run("document.querySelector('#pinned button').click()")
    assert fresh.run("document.getElementById('pinned').hidden")


def test_keys_walk_and_pin(fresh, full):
    fresh.run("document.querySelector('#frontier-plot svg').focus()")
    by_cost = sorted(full.points, key=lambda point: (point.costs["flops"], point.quality["score"]))
    cheapest = by_cost[0].name
    fresh.key("ArrowRight")
    assert fresh.text("#tip strong") == cheapest
    fresh.key("Enter")
    assert fresh.text("#pinned strong") == cheapest
    fresh.key("ArrowRight")
    assert fresh.text("#tip strong") == by_cost[1].name
    fresh.key("Escape")
    assert fresh.run("[document.getElementById('pinned').hidden, document.getElementById('tip').hidden]") == [
        True,
        True,
    ]


def test_schedules_of_the_grid_and_of_what_is_pinned(fresh):
    rows = """[...document.querySelectorAll("#schedules tbody tr")]
        .map((row) => [...row.cells].map((cell) => cell.textContent))"""
    assert fresh.run(rows)[0] == ["0.5", "100", "50", "50", "<1"]
    fresh.run("document.querySelector('[data-schedules=grid]').click()")
    assert fresh.run(rows) == [["0.5", "100", "100", "13", "0"], ["0.3", *["\N{EN DASH}"] * 4]]
    fresh.run("set({ schedules: 'learned' }); pin('grid a')")
    extra = "[...document.querySelector('#schedules tfoot tr').cells].map((cell) => cell.textContent)"
    assert fresh.run(extra) == ["pinned", "100", "100", "13", "0"]
    assert fresh.run("document.querySelector('select[data-state=slices]').value") == "grid a"


def test_percentages_are_those_of_python(fresh):
    ratios = [0.0, 0.002, 0.005, 0.125, 0.145, 0.555, 0.5549999, 0.29, 1.0]
    assert check_keep(sorted(ratios, reverse=True))
    assert fresh.run(f"{json.dumps(ratios)}.map(whole)") == [page_of.percent(ratio) for ratio in ratios]


def test_slices_show_numbers_of_samples_and_no_interval_of_one(fresh):
    fresh.run("set({ slices: 'grid a' })")
    rows = fresh.run("""[...document.querySelectorAll('#slices-plot [data-row]')].map((row) =>
        [row.dataset.row, row.getAttribute("class"), row.querySelectorAll(".whisker").length, row.ariaLabel])""")
    assert [row[:3] for row in rows] == [["all", "whole", 3], ["colour", "", 3], ["count", "", 3], ["rare", "worst", 0]]
    assert rows[3][3] == (
        "rare, n = 1, too few for an interval; unpruned: 100.0 %; grid a: 0.0 %; change: \N{MINUS SIGN}100.0 pp"
    )
    assert "lowest slice\nrare 0.0 %" in fresh.text("#slices-note").replace("\n\n", "\n")
    widths = fresh.run("""[...document.querySelectorAll('#slices-plot [data-row=colour] rect:not(.hit)')]
        .map((bar) => Number(bar.getAttribute("width")))""")
    assert widths[0] == widths[1]
    fresh.run("set({ slices: 'learned b=0.50' })")
    assert fresh.run("document.querySelector('#slices-plot .worst').dataset.row") == "count"
    bars = fresh.run("""[...document.querySelectorAll('#slices-plot [data-row=colour] rect:not(.hit)')]
        .map((bar) => Number(bar.getAttribute("width")))""")
    assert bars[1] / bars[0] == pytest.approx(0.75)


def test_the_slider_dims_what_does_not_enter_a_layer(fresh):
    """Of cells 1 0 1 / 0 0 1 three are dropped from layer 1 on, and all from layer 3 on."""
    veils = []
    for layer in range(4):
        fresh.run(f"""(() => {{ const slider = document.querySelector('#gallery input'); slider.value = {layer};
            slider.dispatchEvent(new Event("input")); }})()""")
        veils.append(fresh.run("document.querySelector('.veil').getAttribute('d')"))
    assert veils[0] == ""
    assert veils[1] == veils[2] == "M1,0h1v1h-1zM0,1h1v1h-1zM1,1h1v1h-1z"
    assert veils[3].count("M") == 6
    assert fresh.text("figcaption .count") == "0 of 6 visual tokens enter"
    box, frame = (
        fresh.run("""[document.querySelector('.frame img'), document.querySelector('.frame svg')].map((node) => {
        const box = node.getBoundingClientRect(); return [box.x, box.y, box.width, box.height].map(Math.round); })""")
    )
    assert box == frame
    assert box[2] / box[3] == pytest.approx(1.5, abs=0.02)


def test_costs_and_their_order(fresh, full):
    tau = rank_correlation(full.points, "flops", "kv")
    said = f"Kendall's tau {tau:.2f} over all {len(full.points)} points".replace("-", "\N{MINUS SIGN}")
    assert fresh.text("#tau") == said
    fresh.run("set({ x: 'kv', y: 'flops' })")
    assert fresh.text("#tau") == said
    fresh.run("set({ x: 'flops' })")
    assert fresh.text("#tau") == "Kendall's tau needs two costs that differ from point to point"
    assert sum(len(front) + len(rest) for front, rest in drawn(fresh, "#costs-plot").values()) == len(full.points)


def test_curves(fresh):
    assert fresh.run("[...document.querySelectorAll('#curves figure')].map((each) => each.dataset.curve)") == [
        "loss", "multiplier",
    ]  # fmt: skip
    points = fresh.run("[...document.querySelectorAll('#curves .curve')].map((each) => each.getAttribute('points'))")
    assert [len(each.split()) for each in points] == [2, 3]
    rising = [float(pair.split(",")[1]) for pair in points[1].split()]
    assert rising[0] - rising[1] == pytest.approx(rising[1] - rising[2], abs=0.15)
    assert rising[0] > rising[2]


@pytest.mark.parametrize("dark", [False, True])
def test_fits_a_phone(browser, url, dark):
    tab = Tab(browser, url, width=360, height=740, phone=True, dark=dark)
    assert tab.run("document.documentElement.scrollWidth") == 360
    widths = tab.run("[...document.querySelectorAll('.plot svg')].map((each) => each.getBoundingClientRect().right)")
    assert max(widths) <= 360
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(16, 19, 24)" if dark else "rgb(245, 246, 248)"
    )


def test_the_warning_stays_on_the_plot(browser, searched, tmp_path):
    write_report(tmp_path / "bare.html", ReportData("bare", [], searched))
    tab = Tab(browser, (tmp_path / "bare.html").as_uri() + "#hide=learned&hide=exhaustive+grid&hide=single-cut+grid")
    assert list(drawn(tab)) == ["unpruned"]
    assert tab.text("#frontier-plot .warning") == "Caution: no controls in this comparison"
    assert tab.complaints() == []


def test_hostile_names_stay_text(browser, full, tmp_path):
    def rename(point):
        return point.model_copy(update={"name": EVIL, "selector": EVIL, "slices": {EVIL: 0.5}})

    learned = rename(full.budgets[0].learned)
    names = {EVIL: full.scores.of["learned b=0.50"], "unpruned": full.scores.of["unpruned"]}
    wicked = replace(
        full,
        title=EVIL,
        facts=[(EVIL, EVIL)],
        points=[*full.points[:1], learned, learned.model_copy(update={"method": f"control {EVIL}"})],
        budgets=[replace(full.budgets[0], learned=learned, grid=None)],
        overlays=[replace(full.overlays[0], question=EVIL, answer=EVIL, said=EVIL)],
        overlaid=EVIL,
        scores=replace(full.scores, of=names, slices=[EVIL] * 8),
        convergence=replace(full.convergence, axis=EVIL, curves={EVIL: [1.0, 2.0]}),
        runs=[EVIL] * 3,
        tables=[TextTable(EVIL, [EVIL], [[EVIL]])],
    )
    write_report(tmp_path / "wicked.html", wicked)
    tab = Tab(browser, (tmp_path / "wicked.html").as_uri())
    tab.mouse(*place(tab, f"{EVIL}: {EVIL}"), click=True)
    assert EVIL in tab.text("#tip")
    assert EVIL in tab.text("#pinned")
    assert tab.run("[document.title, document.querySelectorAll('img').length]") == [EVIL, 1]
    assert tab.run("document.querySelectorAll('script').length") == 2
    assert tab.complaints() == []
