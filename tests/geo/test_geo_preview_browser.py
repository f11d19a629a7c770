"""The page in a real browser: what it draws, what a click shows, and that nothing leaves it."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from preview_scenes import CLASSES, FILE, OBJECTS, make_preview
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
YELLOW, BLUE, GREY = (255, 212, 0), (0, 160, 255), (128, 128, 128)
Open = Callable[[Path], Chrome]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        reason = f"no {' and no '.join(missing)} here: `apt-get install chromium chromium-driver`"
        if os.environ.get("DYNAMICVIS_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = ChromeOptions()
    options.binary_location = programs["chromium"] or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(programs["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Chrome) -> Iterator[Open]:
    """Opens a page in an empty log; afterwards the console must be silent and nothing but the page been fetched."""
    opened: list[Path] = []

    def open_it(path: Path) -> Chrome:
        browser.set_window_size(1280, 900)
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(path.as_uri())
        WebDriverWait(browser, 20).until(lambda driver: driver.execute_script("return window.preview !== undefined"))
        settle(browser)
        opened.append(path)
        return browser

    yield open_it
    assert browser.get_log("browser") == []
    pages = {path.as_uri() for path in opened}
    fetched = requests(browser)
    assert pages <= fetched
    assert all(address in pages or address.startswith("data:") for address in fetched)


def requests(browser: Chrome) -> set[str]:
    """Addresses of all requests since the last call, sent or not."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    }


def settle(browser: Chrome) -> None:
    """Until all images are decoded and two frames are drawn."""
    browser.execute_async_script(
        """const done = arguments[0];
        Promise.all([...document.images].map((image) => image.decode()))
          .then(() => requestAnimationFrame(() => requestAnimationFrame(done)));"""
    )


def place(browser: Chrome, x: float, y: float) -> tuple[int, int]:
    """Where a pixel of the scene is in the window."""
    found = browser.execute_script(
        "const at = preview.map.latLngToContainerPoint([-arguments[1], arguments[0]]); return [at.x, at.y];", x, y
    )
    return round(found[0]), round(found[1])


def screen(browser: Chrome) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB"))


def color_at(browser: Chrome, x: float, y: float) -> NDArray[np.int64]:
    column, row = place(browser, x, y)
    return screen(browser)[row, column].astype(int)


def around(browser: Chrome, x: float, y: float) -> set[tuple[int, ...]]:
    """All colours within three pixels of the window."""
    column, row = place(browser, x, y)
    part = screen(browser)[row - 3 : row + 4, column - 3 : column + 4]
    return set(map(tuple, part.reshape(-1, 3).tolist()))


def click_at(browser: Chrome, x: float, y: float) -> None:
    column, row = place(browser, x, y)
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(column, row)
    actions.click().perform()


def attributes(browser: Chrome) -> dict[str, str]:
    """Of the popup that is open."""
    WebDriverWait(browser, 10).until(lambda driver: len(driver.find_elements(By.CSS_SELECTOR, ".attributes")) == 1)
    (listed,) = browser.find_elements(By.CSS_SELECTOR, ".attributes")
    names, values = ([item.text for item in listed.find_elements(By.CSS_SELECTOR, tag)] for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def switch(browser: Chrome, text: str) -> None:
    """Click the line of the legend with a name."""
    for label in browser.find_elements(By.CSS_SELECTOR, "#legend label"):
        if label.find_elements(By.CSS_SELECTOR, ".name") and label.find_element(By.CSS_SELECTOR, ".name").text == text:
            label.click()
            settle(browser)
            return
    raise AssertionError(f"the legend has no line '{text}'")


def test_objects_and_classes_are_drawn_where_they_are(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    # The classes cover the left half, six tenths opaque; the ground shows in the right half.
    tinted = np.array(GREY) + 0.6 * (np.array(YELLOW) - GREY)
    np.testing.assert_allclose(color_at(browser, 20, 180), tinted, atol=4)
    np.testing.assert_allclose(color_at(browser, 320, 100), GREY, atol=4)
    assert YELLOW in around(browser, 50, 60)
    assert YELLOW in around(browser, 240, 40)
    assert BLUE in around(browser, 360, 100)
    assert BLUE in around(browser, 100, 100)
    assert BLUE not in around(browser, 50, 60)


def test_a_click_on_an_object_shows_its_attributes(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    click_at(browser, 320, 100)
    shown = attributes(browser)
    # Pixels of 0.1 m.
    assert float(shown.pop("area_m2")) == pytest.approx(OBJECTS[2].area / 100, rel=1e-3)
    assert shown == {"id": "3", "class": CLASSES[1], "score": "0.25"}
    browser.execute_script("preview.map.closePopup()")
    WebDriverWait(browser, 10).until(lambda driver: not driver.find_elements(By.CSS_SELECTOR, ".attributes"))
    # The upper of two objects.
    click_at(browser, 120, 90)
    assert attributes(browser)["id"] == "2"


def test_a_click_beside_the_objects_shows_nothing(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    click_at(browser, 30, 180)
    settle(browser)
    assert not browser.find_elements(By.CSS_SELECTOR, ".leaflet-popup")


def test_the_legend_switches_layers(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    switch(browser, CLASSES[1])
    assert BLUE not in around(browser, 360, 100)
    assert YELLOW in around(browser, 240, 40)
    switch(browser, CLASSES[1])
    assert BLUE in around(browser, 360, 100)
    switch(browser, "classes")
    np.testing.assert_allclose(color_at(browser, 20, 180), GREY, atol=4)
    switch(browser, "before")
    np.testing.assert_allclose(color_at(browser, 20, 180), GREY, atol=4)
    assert YELLOW in around(browser, 240, 40), "the ground lies on the objects"


def test_values_are_drawn_with_their_scale(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path, layers=("selection",)))
    bright = np.array(GREY) + 0.6 * (np.array((254, 232, 56)) - GREY)
    np.testing.assert_allclose(color_at(browser, 200, 100), bright, atol=4)
    assert "where the model looked" in browser.find_element(By.ID, "legend").text


def test_names_of_the_scene_stay_text(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    assert browser.title == FILE
    legend = browser.find_element(By.ID, "legend")
    assert legend.find_element(By.CSS_SELECTOR, "summary").text == FILE
    names = [element.text for element in legend.find_elements(By.CSS_SELECTOR, "label .name")]
    assert set(CLASSES) <= set(names)
    assert not browser.find_elements(By.CSS_SELECTOR, "b, img[src='x']")


def test_the_position_of_the_mouse_is_told_in_map_coordinates(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path))
    column, row = place(browser, 100, 50)
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(column, row)
    actions.perform()
    text = browser.find_element(By.CSS_SELECTOR, ".position").text
    x, y = (float(value) for value in text.split(" EPSG:32617")[0].split(", "))
    # Within a pixel of the window.
    assert (x, y) == pytest.approx((404211.9 + 10, 3285142.9 - 5), abs=0.15)
    assert "EPSG:32617" in text
    assert " m" in browser.find_element(By.CSS_SELECTOR, ".scale").text


def test_without_a_crs_positions_and_lengths_are_pixels(open_page: Open, tmp_path: Path) -> None:
    browser = open_page(make_preview(tmp_path, crs=None))
    assert browser.find_element(By.CSS_SELECTOR, ".position").text == "column 200, row 100"
    assert browser.find_element(By.CSS_SELECTOR, ".scale").text.endswith(" px")


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (520, 900)])
def test_nothing_covers_anything(open_page: Open, tmp_path: Path, width: int, height: int) -> None:
    page = make_preview(tmp_path)
    browser = open_page(page)
    browser.set_window_size(width, height)
    browser = browser_after_reload(browser)
    boxes: dict[str, Any] = browser.execute_script(
        """const found = {};
        for (const name of ["#legend", ".position", ".scale"]) {
          const box = document.querySelector(name).getBoundingClientRect();
          found[name] = [box.left, box.top, box.right, box.bottom];
        }
        return found;"""
    )
    (left, top), (right, bottom) = place(browser, 0, 0), place(browser, 400, 200)
    areas = [*boxes.values(), [left, top, right, bottom]]
    inner = browser.execute_script("return [innerWidth, innerHeight]")
    for index, first in enumerate(areas):
        assert 0 <= first[0] < first[2] <= inner[0]
        assert 0 <= first[1] < first[3] <= inner[1]
        for second in areas[:index]:
            apart = first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]
            assert apart, (first, second)


def browser_after_reload(browser: Chrome) -> Chrome:
    browser.refresh()
    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script("return window.preview !== undefined"))
    settle(browser)
    return browser


def test_the_policy_stops_requests(browser: Chrome, tmp_path: Path) -> None:
    """Whatever a script in the page tried."""
    browser.get(make_preview(tmp_path).as_uri())
    outcome = browser.execute_async_script(
        """const [done] = arguments;
        const stopped = [];
        document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
        const image = new Image();
        image.onerror = () =>
          fetch("http://127.0.0.1:9/").then(() => done("fetched"), () => setTimeout(() => done(stopped), 50));
        image.src = "http://127.0.0.1:9/a.png";"""
    )
    assert sorted(outcome) == ["connect-src", "img-src"]
